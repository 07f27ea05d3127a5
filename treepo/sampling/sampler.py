"""The sampler: one tree's state machine (Algorithm 1), as a generator.

It yields the requests of one inference step and is sent their segments, in order. It knows no
engine, no tensor and no clock, and is deterministic in (seed, prompt, params, segments sent).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from treepo.params import SamplingParams
from treepo.sampling.allocation import allocate
from treepo.sampling.branching import first_branches, step_budget
from treepo.sampling.fallback import restart_nodes
from treepo.sampling.forcing import ForcedAnswer
from treepo.sampling.growth import Decode, Encode, Growth, Judge
from treepo.sampling.stopping import finish_reason
from treepo.seeds import derive
from treepo.tree import Node, Segment, Tree


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """Sample up to `max_tokens` tokens below `node`; `seed` names the random stream."""

    node: Node
    max_tokens: int
    seed: int


Grower = Generator[list[Request], list[Segment], Tree]


@dataclass(frozen=True)
class Prompt:
    """What a tree grows from."""

    prompt_id: str
    tokens: list[int]


def grow_tree(
    prompt: Prompt,
    params: SamplingParams,
    seed: int,
    decode: Decode,
    encode: Encode | None = None,
    judge: Judge | None = None,
) -> Grower:
    """Grow one tree of `params.width` trajectories.

    Fewer only where fallback is off or a budget of tokens is spent. encode: for a forced answer;
    judge: the rewards of finished responses, for policies by value. Raises UserError where a
    policy needs what was not given.
    """
    tree = Tree(prompt.prompt_id, prompt.tokens, derive(seed, prompt.prompt_id))
    rng = random.Random(derive(seed, prompt.prompt_id, "decisions"))
    growth = Growth(tree, params, rng, decode, judge)
    forced = ForcedAnswer(params, encode)
    starts, restarted = [tree.root] * first_branches(growth), False
    while starts:
        requests = _requests(growth, forced, starts)
        segments = yield requests
        living = _add(growth, zip(requests, segments, strict=True), restarted)
        restarted = not living
        starts = restart_nodes(growth) if restarted else _branch(growth, living)
    return tree


def _add(growth: Growth, sampled: Iterable[tuple[Request, Segment]], restarted: bool) -> list[Node]:
    """Put a step's segments into the tree; returns the nodes of the paths that go on."""
    living: list[Node] = []
    for request, segment in sampled:
        node = growth.add(request.node, segment, request.seed)
        node.restarted = restarted
        node.finish = finish_reason(growth, node, segment)
        if node.finish is None:
            living.append(node)
        else:
            growth.finished += 1
    return living


def _branch(growth: Growth, living: list[Node]) -> list[Node]:
    """Where the next step's segments start, one entry a segment."""
    counts = allocate(growth, living, step_budget(growth, living))
    return [node for node, count in zip(living, counts, strict=True) for _ in range(count)]


def _requests(growth: Growth, forced: ForcedAnswer, starts: list[Node]) -> list[Request]:
    """One request a start; a path that began inside a segment first fills it up to the grid."""
    length = growth.params.segment_length
    asked: Counter[Node] = Counter()
    requests: list[Request] = []
    for start in starts:
        node = forced.apply(growth, start)
        sampled = growth.sampled(node)
        room = min(length - sampled % length, forced.room(sampled))
        ordinal = len(node.children) + asked[node]
        asked[node] += 1
        requests.append(Request(node, room, derive(node.key, ordinal)))
    return requests
