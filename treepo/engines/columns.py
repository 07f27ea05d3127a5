"""The living paths of all trees in the batch, as parallel arrays: no Python loop over paths.

A column is one living path. The columns of a tree are opened together, lie side by side and are
closed together; a path that ends early leaves the arrays at once. T trees, P paths a tree,
S slots a tree, L tokens a segment, C living columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class PathResult:
    """What one path sampled. slots: where its tokens lie, the last (never fed) excluded."""

    tokens: list[int]
    logprobs: list[float]
    slots: list[int]
    ended: bool


@dataclass(frozen=True)
class Opening:
    """New columns of one tree: one entry a path, and the slots that each path sees."""

    tree: int
    seeds: Sequence[int]
    limits: Sequence[int]
    positions: Sequence[int]
    sees: Sequence[Sequence[int]]
    used: int


class Columns:
    """row, path, seed, length, limit, position, token: [C]. used: [T]. visible: [T, P, S]."""

    def __init__(self, trees: int) -> None:
        self.row, self.path, self.length, self.limit, self.position, self.token = (
            np.zeros(0, dtype=np.int64) for _ in range(6)
        )
        self.seed = np.zeros(0, dtype=np.uint64)
        self.used = np.zeros(trees, dtype=np.int64)
        self.visible = np.zeros((trees, 0, 0), dtype=bool)
        self._tokens = np.zeros((trees, 0, 0), dtype=np.int64)
        self._slots = np.zeros((trees, 0, 0), dtype=np.int64)
        self._logprobs = np.zeros((trees, 0, 0), dtype=np.float32)
        self._lengths = np.zeros((trees, 0), dtype=np.int64)
        self._ended = np.zeros((trees, 0), dtype=bool)

    def busy(self, tree: int) -> bool:
        """Whether a path of this tree is still sampling."""
        return bool((self.row == tree).any())

    def reserve_slots(self, slots: int) -> None:
        """Make `visible` as wide as the key buffer."""
        self.visible = _grown(self.visible, (*self.visible.shape[:2], slots))

    def take_slots(self) -> Array:
        """Give each column's pending token the next free slot of its tree: int64 [C]."""
        if not len(self.row):
            return np.zeros(0, dtype=np.int64)
        first = np.flatnonzero(np.diff(self.row, prepend=-1))
        counts = np.diff(np.append(first, len(self.row)))
        rank = np.arange(len(self.row)) - np.repeat(first, counts)
        slots = self.used[self.row] + rank
        self.used[self.row[first]] += counts
        self._slots[self.row, self.path, self.length - 1] = slots
        return slots

    def open(self, new: Opening) -> None:
        """Add the columns of a tree; the next `append` gives them their first token."""
        count = len(new.seeds)
        trees, _, slots = self.visible.shape
        paths, length = count, max(new.limits)
        self.visible = _grown(self.visible, (trees, paths, slots))
        self._tokens = _grown(self._tokens, (trees, paths, length))
        self._slots = _grown(self._slots, (trees, paths, length))
        self._logprobs = _grown(self._logprobs, (trees, paths, length))
        self._lengths = _grown(self._lengths, (trees, paths))
        self._ended = _grown(self._ended, (trees, paths))
        self.visible[new.tree] = False
        for path, sees in enumerate(new.sees):
            self.visible[new.tree, path, sees] = True
        self.used[new.tree] = new.used
        self._ended[new.tree] = False
        self.row = np.append(self.row, np.full(count, new.tree))
        self.path = np.append(self.path, np.arange(count))
        self.length = np.append(self.length, np.zeros(count, dtype=np.int64))
        self.limit = np.append(self.limit, np.array(new.limits))
        self.position = np.append(self.position, np.array(new.positions) - 1)
        self.token = np.append(self.token, np.zeros(count, dtype=np.int64))
        self.seed = np.append(self.seed, np.array(new.seeds, dtype=np.uint64))

    def append(self, tokens: Array, logprobs: Array, ended: Array) -> None:
        """Add one drawn token to every column and drop the columns that are done."""
        where = (self.row, self.path, self.length)
        self._tokens[where] = tokens
        self._logprobs[where] = logprobs
        self._ended[self.row, self.path] = ended
        self.length = self.length + 1
        self._lengths[self.row, self.path] = self.length
        self.position = self.position + 1
        self.token = tokens
        living = ~(ended | (self.length >= self.limit))
        if not living.all():
            for name in ("row", "path", "length", "limit", "position", "token", "seed"):
                setattr(self, name, getattr(self, name)[living])

    def close(self, tree: int, paths: int) -> list[PathResult]:
        """What the first `paths` paths of a tree sampled since they were opened."""
        results: list[PathResult] = []
        for path in range(paths):
            length = int(self._lengths[tree, path])
            results.append(
                PathResult(
                    tokens=self._tokens[tree, path, :length].tolist(),
                    logprobs=self._logprobs[tree, path, :length].tolist(),
                    slots=self._slots[tree, path, : length - 1].tolist(),
                    ended=bool(self._ended[tree, path]),
                )
            )
        return results


def _grown(array: Array, shape: tuple[int, ...]) -> Array:
    """`array` with zeros appended where an axis is shorter than `shape`."""
    if all(have >= want for have, want in zip(array.shape, shape, strict=True)):
        return array
    pads = [(0, max(0, want - have)) for have, want in zip(array.shape, shape, strict=True)]
    return np.pad(array, pads)
