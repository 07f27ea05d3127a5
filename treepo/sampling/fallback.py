"""Fallback: where a tree that has no living path starts its missing ones (Algorithm 1).

Candidates are finished leaves, drawn by weight. A position counts the response tokens that a new
path keeps; it never lies behind a complete answer, nor further back than `fallback.window`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from treepo.errors import UserError
from treepo.registry import Registry, call
from treepo.sampling.allocation import softmax, weigh
from treepo.sampling.branching import startable
from treepo.sampling.growth import Growth
from treepo.tree import Node, Tree

Candidates = Callable[[Growth, Sequence[Node]], list[float]]
Position = Callable[[Growth, Node, range], int | None]
CANDIDATES: Registry[Candidates] = Registry(
    "sampling.fallback.candidates", private=("longer_than",)
)
"""Weights of the finished leaves in the draw, in their order."""
POSITIONS: Registry[Position] = Registry("sampling.fallback.position")
"""Where on the leaf's path to start, out of the given range; None: not at all."""

RANK = {"answer": 5.0, "eos": 4.0, "max_depth": 3.0, "max_tokens": 2.0, "repetition": 1.0}


@CANDIDATES.register("answer_or_eos")
def answer_or_eos(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Paths with an answer or an end of sequence; all where none has (paper's default)."""
    return _only([leaf.finish in ("answer", "eos") for leaf in leaves])


@CANDIDATES.register("finished_first")
def finished_first(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Prefers how well a path ended: answer 5, eos 4, limits 3 and 2, repetition 1."""
    return [RANK[leaf.finish or "repetition"] for leaf in leaves]


@CANDIDATES.register("finished_first_strict")
def finished_first_strict(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Only paths that ended in the best way there is, in the same order."""
    ranks = finished_first(growth, leaves)
    return _only([rank == max(ranks) for rank in ranks])


@CANDIDATES.register("random")
def random_leaf(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Any finished path."""
    return [1.0] * len(leaves)


@CANDIDATES.register("longer_first")
def longer_first(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Prefers long responses, in proportion to their tokens."""
    return [float(growth.sampled(leaf)) for leaf in leaves]


@CANDIDATES.register("answered_longer_than", needs="longer_than")
def answered_longer_than(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Of the paths of answer_or_eos those longer than longer_than; all of them where none is."""
    weights = answer_or_eos(growth, leaves)
    least = growth.params.fallback.longer_than or 0
    long = [w > 0 and growth.sampled(leaf) > least for w, leaf in zip(weights, leaves, strict=True)]
    return _only(long) if any(long) else weights


@CANDIDATES.register("high_value")
def high_value(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Prefers rewarded paths: softmax of the reward."""
    return _softmax(growth, [growth.value(leaf) for leaf in leaves])


@CANDIDATES.register("low_value")
def low_value(growth: Growth, leaves: Sequence[Node]) -> list[float]:
    """Prefers paths that failed: softmax of the negative reward."""
    return _softmax(growth, [-growth.value(leaf) for leaf in leaves])


@POSITIONS.register("random_segment")
def random_segment(growth: Growth, leaf: Node, span: range) -> int:
    """A random segment boundary before the path's end, the root included (paper's default)."""
    boundaries = _on_grid(span, growth.params.segment_length)
    return boundaries[growth.rng.randrange(len(boundaries))]


@POSITIONS.register("low_probability_block")
def low_probability_block(growth: Growth, leaf: Node, span: range) -> int:
    """Before an improbable block: softmax of the blocks' negative mean logprob."""
    return _block(growth, leaf, span, sign=-1)


@POSITIONS.register("high_probability_block")
def high_probability_block(growth: Growth, leaf: Node, span: range) -> int:
    """Before a probable block: softmax of the blocks' mean logprob."""
    return _block(growth, leaf, span, sign=1)


@POSITIONS.register("min_probability_token")
def min_probability_token(growth: Growth, leaf: Node, span: range) -> int:
    """Just before the least probable token; the first of several."""
    logprobs = _logprobs(leaf)
    return min(span, key=lambda at: logprobs[at])


@POSITIONS.register("misaligned")
def misaligned(growth: Growth, leaf: Node, span: range) -> int:
    """A random token, mostly in the middle of a segment (ablation, paper Fig. 6)."""
    return span[growth.rng.randrange(len(span))]


@POSITIONS.register("high_value")
def high_value_segment(growth: Growth, leaf: Node, span: range) -> int:
    """A fork below which finished paths were rewarded: softmax of their mean reward."""
    return _fork(growth, leaf, span, sign=1)


@POSITIONS.register("low_value")
def low_value_segment(growth: Growth, leaf: Node, span: range) -> int:
    """A fork below which finished paths failed: softmax of their negative mean reward."""
    return _fork(growth, leaf, span, sign=-1)


@POSITIONS.register("from_root")
def from_root(growth: Growth, leaf: Node, span: range) -> int:
    """A whole new response."""
    return 0


@POSITIONS.register("none")
def no_fallback(growth: Growth, leaf: Node, span: range) -> None:
    """No fallback: the tree stays narrower than w."""


def restart_nodes(growth: Growth) -> list[Node]:
    """Nodes from which the missing paths start, one entry a path; empty where none may.

    Raises UserError where a policy breaks its contract.
    """
    fallback, tree = growth.params.fallback, growth.tree
    leaves, count = tree.leaves(), startable(growth)
    if count < 1:
        return []
    weights = weigh(CANDIDATES, fallback.candidates, growth, leaves)
    starts: list[tuple[Node, int]] = []
    for leaf in growth.rng.choices(leaves, weights, k=count):
        span = allowed(growth, leaf)
        at = call(POSITIONS, fallback.position, growth, leaf, span)
        if at is not None and at not in span:
            raise UserError(
                f"{POSITIONS.key}: '{fallback.position}' gave position {at}, which is not in {span}"
            )
        if at is not None:
            starts.append((leaf, at))
    return [locate(tree, leaf, at) for leaf, at in starts]


def allowed(growth: Growth, leaf: Node) -> range:
    """Positions that a path may restart from: before its answer, within the window."""
    fallback, length = growth.params.fallback, growth.sampled(leaf)
    end = growth.answer_end(leaf) or length
    reach = length if fallback.window is None else fallback.window * growth.params.segment_length
    return range(min(max(0, length - reach), end - 1), end)


def locate(tree: Tree, leaf: Node, position: int) -> Node:
    """The node that ends after `position` response tokens of the leaf's path; splits if need be.

    Tokens that were put in stay together: a position among them becomes their end.
    """
    target = tree.root.end + position
    for node in leaf.path():
        if node.end == target or (node.forced and node.start < target < node.end):
            return node
        if node.end > target:
            return tree.split(node, target - node.start)
    raise ValueError(f"position {position} lies behind the leaf")


def _only(kept: Sequence[bool]) -> list[float]:
    """Equal weights for those that are kept, or for all where none is."""
    return [float(keep or not any(kept)) for keep in kept]


def _on_grid(span: range, step: int) -> list[int]:
    """Multiples of `step` in `span`; its first position where there is none."""
    first = -(-span.start // step) * step
    return list(range(first, span.stop, step)) or [span.start]


def _logprobs(leaf: Node) -> list[float]:
    """Of each response token; infinite for those that were not sampled."""
    parts = leaf.path()[1:]
    return [lp for node in parts for lp in (node.logprobs or [math.inf] * len(node.tokens))]


def _block(growth: Growth, leaf: Node, span: range, sign: int) -> int:
    """The start of a block, drawn by a softmax of sign x its mean logprob."""
    size, logprobs = growth.params.fallback.block, _logprobs(leaf)
    starts = _on_grid(span, size)
    scores: list[float] = []
    for start in starts:
        sampled = [lp for lp in logprobs[start : start + size] if lp < math.inf]
        scores.append(sign * sum(sampled) / max(1, len(sampled)))
    return growth.rng.choices(starts, _softmax(growth, scores))[0]


def _fork(growth: Growth, leaf: Node, span: range, sign: int) -> int:
    """The end of a node of the path, drawn by a softmax of sign x its value."""
    nodes = [node for node in leaf.path() if growth.sampled(node) in span]
    if not nodes:
        return span.start
    scores = [sign * growth.value(node) for node in nodes]
    return growth.sampled(growth.rng.choices(nodes, _softmax(growth, scores))[0])


def _softmax(growth: Growth, scores: Sequence[float]) -> list[float]:
    return softmax(scores, growth.params.fallback.temperature)
