r"""Scripted engines for the sampler's tests: tokens are code points, so that texts can be scripted.

`Habits` answers a request by its seed alone; `sampling()` draws parameters of trees with any
policies; `grown()` grows one tree and logs what its grower asked for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from treepo.engines.scripted import Script, ScriptedEngine
from treepo.forest import Forest
from treepo.params import (
    AllocationParams,
    BudgetParams,
    FallbackParams,
    ForcedAnswerParams,
    RepetitionParams,
    SamplingParams,
)
from treepo.registry import REGISTRIES
from treepo.sampling import Grower, Growth, Prompt, Request, grow_tree
from treepo.tree import Node, Segment, Tree

# The package's own policies, without those that a test registers later.
ALLOCATIONS, STATISTICS, CONTROLS, CANDIDATES, POSITIONS = (
    [*REGISTRIES[f"sampling.{key}"]]
    for key in (
        "allocation.policy",
        "allocation.statistic",
        "budget.control",
        "fallback.candidates",
        "fallback.position",
    )
)

BOX = "\\boxed{7}"
PROMPT = Prompt("p", [1, 2, 3])
STOPS = [
    ("eos", "answer", "repetition", "limits"),
    ("repetition", "answer", "eos", "limits"),
    ("answer", "eos", "limits", "repetition"),
    ("answer_with_eos", "eos", "repetition", "limits"),
    ("eos", "limits"),
]


def decode(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def judge(responses: list[str]) -> list[float]:
    """A reward that differs between responses and depends on nothing else."""
    return [float(sum(map(ord, response)) % 3 == 0) for response in responses]


def family(*ends: tuple[str, str, float]) -> tuple[Tree, list[Node]]:
    """Leaves below the root: (text, finish, logprob of each token)."""
    tree = Tree("p", [1], 0)
    for key, (text, finish, logprob) in enumerate(ends):
        leaf = tree.grow(tree.root, Segment(encode(text), [logprob] * len(text)), key)
        leaf.finish = finish  # pyright: ignore[reportAttributeAccessIssue]
    return tree, tree.leaves()


def growth_of(tree: Tree, judge: Any = judge, **params: Any) -> Growth:
    """A growth that stands where `tree` does."""
    growth = Growth(tree, SamplingParams(**params), random.Random(0), decode, judge)
    growth.finished = len(tree.leaves())
    return growth


def softmax(*scores: float) -> list[float]:
    return [math.exp(score) / sum(map(math.exp, scores)) for score in scores]


def segment(text: str, ended: bool = False) -> Segment:
    return Segment(encode(text), [-0.5] * len(text), ended)


@dataclass(frozen=True)
class Habits:
    """Probabilities of an end of sequence, a short segment, a loop and a box in a segment."""

    eos: float = 0.0
    short: float = 0.0
    loop: float = 0.0
    box: float = 0.0

    def script(self, request: Request) -> Segment:
        rng = random.Random(request.seed)
        most = request.max_tokens
        size = rng.randint(1 if rng.random() < self.short else most, most)
        text = "".join(rng.choices("abcdefghij", k=size))
        text = rng.choice("ab") * size if rng.random() < self.loop else text
        if rng.random() < self.box and size >= len(BOX):
            text = text[: rng.randint(0, size - len(BOX))] + BOX
        tokens, logprobs = encode(text), [-5 * rng.random() for _ in text]
        return Segment(tokens, logprobs, rng.random() < self.eos)


@dataclass
class Log:
    """What a grower asked for, step by step, and what it was sent, by node key."""

    steps: list[list[Request]] = field(default_factory=list)
    segments: dict[int, Segment] = field(default_factory=dict)

    @property
    def counts(self) -> list[int]:
        return [len(step) for step in self.steps]

    def watch(self, grower: Grower, params: SamplingParams) -> Grower:
        """The same grower; checks what it asks for at each step."""
        requests = next(grower)
        while True:
            self.steps.append(requests)
            check_step(requests, params)
            segments = yield requests
            self.segments.update(zip((r.seed for r in requests), segments, strict=True))
            try:
                requests = grower.send(segments)
            except StopIteration as stop:
                return stop.value


def check_step(requests: list[Request], params: SamplingParams) -> None:
    """No more than the budgets; every living path gets a branch."""
    below = list(Tree.nodes(Tree("", [], 0), requests[0].node.path()[0]))[1:]
    assert 0 < len(requests) <= params.width - sum(node.finish is not None for node in below)
    limit = params.budget.step_tokens
    assert limit is None or sum(request.max_tokens for request in requests) <= limit
    living = {node for node in below if not node.children and node.finish is None}
    branches = [request.node for request in requests]
    if living:
        assert set(branches) == living
    if living and params.allocation.policy == "even":
        counts = [branches.count(node) for node in living]
        assert max(counts) - min(counts) <= 1


def grown(
    params: SamplingParams, script: Script, seed: int = 0, prompt: Prompt = PROMPT
) -> tuple[Tree, Log]:
    log, engine = Log(), ScriptedEngine(script)
    grower = grow_tree(prompt, params, seed, decode, encode, judge)
    ((_, tree),) = engine.run([log.watch(grower, params)])
    assert engine.stats().decode_tokens == Forest.from_trees([tree]).sampled_tokens
    return tree, log


probabilities = st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0])
loops = st.builds(RepetitionParams, length=st.integers(1, 5), count=st.integers(2, 6))
habits = st.builds(Habits, probabilities, probabilities, probabilities, probabilities)
temperatures = st.sampled_from([0.05, 1.0, 5.0])


def allocations() -> st.SearchStrategy[AllocationParams]:
    return st.builds(
        AllocationParams,
        policy=st.sampled_from(ALLOCATIONS),
        statistic=st.sampled_from(STATISTICS),
        temperature=temperatures,
    )


@st.composite
def fallbacks(draw: st.DrawFn, limit: int) -> FallbackParams:
    """Any candidates with any position; longer_than below the longest response."""
    position = draw(st.sampled_from(POSITIONS))
    windowed = position not in ("from_root", "none") and draw(st.booleans())
    return FallbackParams(
        candidates=draw(st.sampled_from(CANDIDATES)),
        position=position,
        window=draw(st.integers(1, 3)) if windowed else None,
        block=draw(st.integers(1, 6)),
        longer_than=draw(st.integers(1, limit - 1)) if limit > 1 else None,
        temperature=draw(temperatures),
    )


@st.composite
def budgets(draw: st.DrawFn, length: int, limit: int, width: int) -> BudgetParams:
    """Any control; budgets of tokens that are large enough for what else is drawn."""
    least = draw(st.integers(1, width))
    total = draw(st.none() | st.integers(least * limit, 2 * width * limit))
    low, high = sorted(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))
    return BudgetParams(
        control=draw(st.sampled_from(CONTROLS)),
        growth_range=(low, high),
        step_tokens=draw(st.integers(length, 2 * width * length)),
        total_tokens=total,
        min_width=1 if total is None else least,
    )


@st.composite
def sampling(draw: st.DrawFn) -> SamplingParams:
    """Parameters of a small tree: its shape, and any combination of policies."""
    width, depth, length = (draw(st.integers(1, most)) for most in (12, 4, 14))
    low = draw(st.integers(1, min(9, width)))
    high = draw(st.integers(low, 9))
    max_tokens = draw(st.none() | st.integers(length, 45))
    limit = min(depth * length, max_tokens or depth * length)
    forced = draw(st.sampled_from([0, *range(3, limit)[:30]]))
    return SamplingParams(
        width=width,
        depth=depth,
        segment_length=length,
        branching=draw(st.integers(2, 4)),
        initial_branching=draw(st.sampled_from([low, (low, high)])),
        max_tokens=max_tokens,
        stops=draw(st.sampled_from(STOPS)),
        min_tokens=draw(st.integers(0, limit - 1)),
        repetition=draw(st.none() | loops),
        forced_answer=ForcedAnswerParams(remaining=forced, text="=>"),
        budget=draw(st.just(BudgetParams()) | budgets(length, limit, width)),
        allocation=draw(allocations()),
        fallback=draw(fallbacks(limit)),
    )
