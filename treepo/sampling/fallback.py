"""Fallback: where a tree that has no living path starts its missing ones (Algorithm 1).

Candidates are finished leaves; a position counts the response tokens that a new path keeps.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from treepo.params import FallbackParams, SamplingParams
from treepo.tree import Node, Tree

Candidates = Callable[[list[Node]], list[Node]]
Position = Callable[[Tree, Node, SamplingParams, random.Random], int]


def answer_or_eos(leaves: list[Node]) -> list[Node]:
    """Paths that came to an answer or an end of sequence; all finished ones where none did."""
    return [leaf for leaf in leaves if leaf.finish in ("answer", "eos")] or leaves


def random_segment(tree: Tree, leaf: Node, params: SamplingParams, rng: random.Random) -> int:
    """A random segment boundary before the leaf's end, the root included (paper's default)."""
    sampled = leaf.end - tree.root.end
    return rng.randrange(-(-sampled // params.segment_length)) * params.segment_length


def min_probability_token(
    tree: Tree, leaf: Node, params: SamplingParams, rng: random.Random
) -> int:
    """Just before the response's least probable token; the first of several."""
    logprobs = [logprob for node in leaf.path()[1:] for logprob in node.logprobs]
    return logprobs.index(min(logprobs))


def from_root(tree: Tree, leaf: Node, params: SamplingParams, rng: random.Random) -> int:
    """A whole new response."""
    return 0


CANDIDATES: dict[str, Candidates] = {"answer_or_eos": answer_or_eos}
POSITIONS: dict[str, Position] = {
    "random_segment": random_segment,
    "min_probability_token": min_probability_token,
    "from_root": from_root,
}


def locate(tree: Tree, leaf: Node, position: int) -> Node:
    """The node that ends after `position` response tokens of the leaf's path; splits if need be."""
    target = tree.root.end + position
    for node in leaf.path():
        if node.end == target:
            return node
        if node.end > target:
            return tree.split(node, target - node.start)
    raise ValueError(f"position {position} lies behind the leaf")


def restart_nodes(
    tree: Tree, missing: int, params: SamplingParams, fallback: FallbackParams, rng: random.Random
) -> list[Node]:
    """Nodes from which `missing` new paths start, one entry a path; empty where fallback is off."""
    if fallback.position == "none":
        return []
    pick = POSITIONS[fallback.position]
    candidates = CANDIDATES[fallback.candidates](tree.leaves())
    starts = [(leaf, pick(tree, leaf, params, rng)) for leaf in rng.choices(candidates, k=missing)]
    return [locate(tree, leaf, position) for leaf, position in starts]
