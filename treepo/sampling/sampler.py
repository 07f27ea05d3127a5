"""The sampler: one tree's state machine (Algorithm 1), as a generator.

It yields the requests of one inference step and is sent their segments, in order. It knows no
engine, no tensor and no clock, and is deterministic in (seed, prompt, params, segments sent).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

from treepo.params import SamplingParams
from treepo.sampling.branching import allocate_even, initial_branches, target_width
from treepo.sampling.fallback import restart_nodes
from treepo.sampling.stopping import Decode, finish_reason
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


def grow_tree(prompt: Prompt, params: SamplingParams, seed: int, decode: Decode) -> Grower:
    """Grow one tree of `params.width` trajectories (fewer only where fallback is off)."""
    tree = Tree(prompt.prompt_id, prompt.tokens, derive(seed, prompt.prompt_id))
    rng = random.Random(derive(seed, prompt.prompt_id, "decisions"))
    initial = initial_branches(params, rng)
    starts = [tree.root] * initial
    finished, step = 0, 1
    while starts:
        requests = _requests(tree, starts, params)
        segments = yield requests
        living: list[Node] = []
        for request, segment in zip(requests, segments, strict=True):
            node = tree.grow(request.node, segment, request.seed)
            node.finish = finish_reason(tree, node, segment, params, decode)
            if node.finish is None:
                living.append(node)
        finished += len(requests) - len(living)
        step += 1
        if living:
            budget = target_width(params, initial, step) - finished
            counts = allocate_even(len(living), budget, rng)
            starts = [
                node for node, count in zip(living, counts, strict=True) for _ in range(count)
            ]
        else:
            starts = restart_nodes(tree, params.width - finished, params, params.fallback, rng)
    return tree


def _requests(tree: Tree, starts: list[Node], params: SamplingParams) -> list[Request]:
    """One request a start; a path that began inside a segment first fills it up to the grid."""
    length = params.segment_length
    asked: Counter[int] = Counter()
    requests: list[Request] = []
    for node in starts:
        sampled = node.end - tree.root.end
        room = min(length - sampled % length, params.token_limit - sampled)
        ordinal = len(node.children) + asked[id(node)]
        asked[id(node)] += 1
        requests.append(Request(node, room, derive(node.key, ordinal)))
    return requests
