"""Cutting: a tree beyond the budget of a micro-batch becomes several that repeat what they share.

The trajectories stay as they are and in their order, each in one tree, so that whatever is a sum
over trajectories, as the loss and its gradient, does not change. Knows forests only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.errors import UserError
from treepo.forest import Forest

Array = np.ndarray


@dataclass(frozen=True)
class Cut:
    """A forest whose trees fit a budget.

    row: int64 [rows], the row that each was before; token: int64 [tokens], the index that each had;
    tree: int64 [trees], the tree that each is part of.
    """

    forest: Forest
    row: Array
    token: Array
    tree: Array

    def parts(self, trees: Sequence[int]) -> list[int]:
        """What these trees became."""
        return np.flatnonzero(np.isin(self.tree, trees)).tolist()

    @property
    def repeated_tokens(self) -> int:
        """Tokens beyond those of the forest before it was cut."""
        again = np.ones(len(self.row), dtype=bool)
        again[np.unique(self.row, return_index=True)[1]] = False
        return int(self.forest.lengths[again].sum())


def cut(forest: Forest, budget: int, trees: Sequence[int]) -> Cut:
    """Cut those of `trees` that have more than `budget` tokens, between trajectories.

    All other trees stay whole. Of all cuts into runs of neighbouring trajectories that fit, the one
    that repeats the fewest tokens. Raises UserError where a single trajectory does not fit.
    """
    whole = np.split(np.arange(len(forest)), forest.tree_start[1:-1])
    sizes = np.bincount(forest.tree, forest.lengths, forest.trees)
    large = {tree for tree in trees if sizes[tree] > budget}
    if not large:
        same = (np.arange(count) for count in (len(forest), len(forest.tokens), forest.trees))
        return Cut(forest, *same)
    parts: list[Array] = []
    tree: list[int] = []
    leaf_tree = forest.tree[forest.leaves]
    for index, rows in enumerate(whole):
        found = [rows]
        if index in large:
            chosen = np.flatnonzero(leaf_tree == index)
            paths = [np.append(rows[0], forest.paths[leaf]) for leaf in chosen]
            found = _fewest_tokens(forest, paths, budget)
        parts += found
        tree += [index] * len(found)
    row = np.concatenate(parts)
    lengths = forest.lengths[row]
    first = np.cumsum(lengths) - lengths
    token = np.arange(lengths.sum()) + np.repeat(forest.offsets[row] - first, lengths)
    return Cut(_select(forest, parts, token), row, token, np.array(tree))


def _fewest_tokens(forest: Forest, paths: Sequence[Array], budget: int) -> list[Array]:
    """Rows of each part, ascending: the best split of the paths into runs, by their last run."""
    best = [0.0] + [np.inf] * len(paths)
    begin = [0] * (len(paths) + 1)
    for stop in range(1, len(paths) + 1):
        rows: set[int] = set()
        for start in range(stop - 1, -1, -1):
            rows |= set(paths[start].tolist())
            tokens = int(forest.lengths[list(rows)].sum())
            if tokens > budget:
                if start == stop - 1:
                    raise _too_long(forest, paths[start], tokens, budget)
                break
            if best[start] + tokens < best[stop]:
                best[stop], begin[stop] = best[start] + tokens, start
    parts: list[Array] = []
    stop = len(paths)
    while stop:
        parts.append(np.unique(np.concatenate(paths[begin[stop] : stop])))
        stop = begin[stop]
    return parts[::-1]


def _too_long(forest: Forest, path: Array, tokens: int, budget: int) -> UserError:
    return UserError(
        f"update.micro_batch_tokens: {budget}, but a trajectory of prompt "
        f"'{forest.prompt_id[path[0]]}' has {tokens} tokens; raise it to at least that"
    )


def _select(forest: Forest, parts: Sequence[Array], token: Array) -> Forest:
    """The forest with one tree for each of these sets of rows, which hold their ancestors.

    token: where the tokens of these rows lie, in order.
    """
    rows = np.concatenate(parts)
    counts = [len(part) for part in parts]
    node = np.concatenate([np.arange(count) for count in counts])
    parent = np.concatenate(
        [
            np.where(forest.parent[part] < 0, -1, np.searchsorted(part, forest.parent_row[part]))
            for part in parts
        ]
    )
    return Forest(
        tree=np.repeat(np.arange(len(parts)), counts),
        prompt_id=forest.prompt_id[rows],
        node=node,
        parent=parent,
        depth=forest.depth[rows],
        start=forest.start[rows],
        tokens=forest.tokens[token],
        logprobs=forest.logprobs[token],
        offsets=np.concatenate([[0], np.cumsum(forest.lengths[rows])]),
        finish=forest.finish[rows],
        forced=forest.forced[rows],
        restarted=forest.restarted[rows],
    )
