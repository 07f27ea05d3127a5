"""The living paths of all trees in the batch, as parallel arrays: no Python loop over paths.

A column is one living path. The columns of a tree are opened together, lie side by side and are
closed together; a path that ends early leaves the arrays at once. T trees, P paths a tree, L tokens
a path (its own segment, or with what is above it), C living columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_FIELDS = ("row", "path", "length", "limit", "position", "token")
_COLUMN = np.dtype([(name, np.int64) for name in _FIELDS] + [("seed", np.uint64)])


@dataclass(frozen=True)
class PathResult:
    """What one path sampled. slots: where its tokens lie, the last (never fed) excluded."""

    tokens: list[int]
    logprobs: list[float]
    slots: Array
    ended: bool


@dataclass(frozen=True)
class Opening:
    """New columns of one tree: one entry a path.

    positions: of the first tokens to be sampled; slots: int64 [P, L] of the path's tokens, then of
    those that it may come to sample.
    """

    row: int
    seeds: Sequence[int]
    limits: Sequence[int]
    positions: Sequence[int]
    slots: Array


class Columns:
    """live: one record a column, with row, path, length, limit, position, token (the pending one,
    which lies there) and seed. slots: int64 [T, P, L] of each path's tokens.
    """

    def __init__(self) -> None:
        self.live = np.zeros(0, dtype=_COLUMN)
        self.slots = np.zeros((0, 0, 0), dtype=np.int64)
        self._tokens = np.zeros((0, 0, 0), dtype=np.int64)
        self._logprobs = np.zeros((0, 0, 0), dtype=np.float32)
        self._lengths = np.zeros((0, 0), dtype=np.int64)
        self._ended = np.zeros((0, 0), dtype=bool)

    def __len__(self) -> int:
        return len(self.live)

    def pending(self) -> Array:
        """Slots that the pending tokens go to: [C]."""
        return self.slots[self.live["row"], self.live["path"], self.live["position"]]

    def open(self, new: Opening) -> None:
        """Add the columns of a tree; the next `append` gives them their first token."""
        count = len(new.seeds)
        trees, paths, length = new.row + 1, count, max(new.limits)
        self.slots = _grown(self.slots, (trees, paths, new.slots.shape[1]))
        self.slots[new.row, :count, : new.slots.shape[1]] = new.slots
        self._tokens = _grown(self._tokens, (trees, paths, length))
        self._logprobs = _grown(self._logprobs, (trees, paths, length))
        self._lengths = _grown(self._lengths, (trees, paths))
        self._ended = _grown(self._ended, (trees, paths))
        fresh = np.zeros(count, dtype=_COLUMN)
        fresh["row"], fresh["path"] = new.row, np.arange(count)
        fresh["limit"], fresh["position"] = new.limits, np.array(new.positions) - 1
        fresh["seed"] = np.array(new.seeds, dtype=np.uint64)
        self.live = np.concatenate([self.live, fresh])

    def append(self, tokens: Array, logprobs: Array, ended: Array) -> None:
        """Add one drawn token to every column and drop the columns that are done."""
        live = self.live
        where = (live["row"], live["path"], live["length"])
        self._tokens[where] = tokens
        self._logprobs[where] = logprobs
        self._ended[where[:2]] = ended
        live["length"] += 1
        live["position"] += 1
        live["token"] = tokens
        self._lengths[where[:2]] = live["length"]
        living = ~(ended | (live["length"] >= live["limit"]))
        if not living.all():
            self.live = live[living]

    def close(self, row: int, positions: Sequence[int]) -> list[PathResult]:
        """What the paths of a tree sampled since they were opened, from these positions on."""
        results: list[PathResult] = []
        for path, first in enumerate(positions):
            length = int(self._lengths[row, path])
            results.append(
                PathResult(
                    tokens=self._tokens[row, path, :length].tolist(),
                    logprobs=self._logprobs[row, path, :length].tolist(),
                    slots=self.slots[row, path, first : first + length - 1].copy(),
                    ended=bool(self._ended[row, path]),
                )
            )
        return results


def _grown(array: Array, shape: tuple[int, ...]) -> Array:
    """`array` with zeros appended where an axis is shorter than `shape`."""
    if all(have >= want for have, want in zip(array.shape, shape, strict=True)):
        return array
    pads = [(0, max(0, want - have)) for have, want in zip(array.shape, shape, strict=True)]
    return np.pad(array, pads)
