"""Which slots each path sees, as torch's attention wants it: masks that stay on the device.

A tree's mask is laid out when its plan is; with each step one more slot of every living path
shows. So a step costs the host a few small arrays, however long the paths are. Axes as in
`treepo.attention`; T trees, P paths a tree, S slots a tree, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from treepo.engines.decode import FillRows, RowAttention, TreeRows
from treepo.engines.kv import KVPool
from treepo.engines.plan import Plan

Array = np.ndarray
HIDDEN = float("-inf")


class TreeMasks:
    """For the trees of a batch, by their row: slots [T, S], and an additive mask [T, P, S]."""

    def __init__(self, pool: KVPool) -> None:
        self._pool = pool
        self._slots = pool.tensor(np.zeros((0, 0), dtype=np.int64))
        self._mask = pool.layers[0].new_zeros(0, 0, 0)
        self._plans: dict[int, Plan] = {}
        self.moves = 0  # how often the tensors came to lie elsewhere

    def parts(
        self, live: Array, standing: Mapping[int, Plan], plans: Mapping[int, Plan], apart: bool
    ) -> Sequence[RowAttention]:
        """The attention of a call: of its columns `live`, then of the tokens that `plans` feed.

        standing: the latest plan of each row. apart: tree by tree, in shapes of that tree alone.
        """
        self.show(live, standing)
        edges = np.flatnonzero(np.diff(live["row"], prepend=-1, append=-1))
        if not apart:
            edges = edges[[0, -1]] if len(live) else edges[:0]
        spans = (slice(start, end) for start, end in pairwise(edges.tolist()))
        return [self._columns(live, span) for span in spans] + [*self._filled(len(live), plans)]

    def show(self, live: Array, standing: Mapping[int, Plan]) -> None:
        """Let every column see its pending token; one whose plan is new, all above it too."""
        shown: list[Array] = []
        for number in np.unique(live["row"]).tolist():
            mine, plan = live[live["row"] == number], standing[number]
            path, position = mine["path"], mine["position"]
            if self._plans.get(number) is not plan:
                self._lay_out(number, plan)
                column, position = np.nonzero(np.arange(plan.places.shape[1]) <= position[:, None])
                path = path[column]
            rows = np.full(len(path), number)
            shown.append(np.stack([rows, path, plan.places[path, position]]))
        if shown:
            self._mask[tuple(self._pool.tensor(np.concatenate(shown, axis=1)))] = 0.0

    def trees(self, numbers: Tensor, paths: int, slots: int) -> tuple[Tensor, Tensor]:
        """Slots [T, S] and additive mask [T, 1, G * P, S] of these rows of the batch."""
        mask = self._mask[numbers, :paths, :slots].repeat(1, self._pool.groups, 1)[:, None]
        return self._slots[numbers, :slots], mask

    def _lay_out(self, number: int, plan: Plan) -> None:
        """Make room for a plan, in which nothing shows yet."""
        paths, slots = len(plan.places), len(plan.slots)
        room = (rounded(number + 1), rounded(paths), rounded(slots))
        before = self._mask
        self._slots = _grown(self._slots, (room[0], room[2]), 0)
        self._mask = _grown(self._mask, room, HIDDEN)
        self.moves += self._mask is not before
        self._slots[number, :slots] = self._pool.tensor(plan.slots)
        self._mask[number] = HIDDEN
        self._plans[number] = plan

    def _columns(self, live: Array, span: slice) -> TreeRows:
        mine, tensor = live[span], self._pool.tensor
        numbers, tree = np.unique(mine["row"], return_inverse=True)
        plans = [self._plans[number] for number in numbers.tolist()]
        path, position = mine["path"], mine["position"]
        # Below its latest token a path has seen all room; what is above is for later steps.
        latest = [
            plan.places[path[tree == at], position[tree == at]].max()
            for at, plan in enumerate(plans)
        ]
        parts = self.trees(tensor(numbers), max(len(p.places) for p in plans), max(latest) + 1)
        return TreeRows(span, tensor(tree), tensor(path.copy()), *parts)

    def _filled(self, start: int, plans: Mapping[int, Plan]) -> Iterator[FillRows]:
        for plan in plans.values():
            rows, start = slice(start, start + len(plan.fed)), start + len(plan.fed)
            living = self._pool.tensor(plan.slots[: plan.living])
            yield FillRows(rows, living, self._pool.tensor(plan.sees()))


def rounded(count: int) -> int:
    """`count` rounded up to one of 1 to 8, 10, 12, 14, 16, 20, 24, ...: by less than a quarter."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step


def _grown(tensor: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    """`tensor` with `fill` appended where an axis is shorter than `shape`."""
    pads = [max(0, want - have) for have, want in zip(tensor.shape, shape, strict=True)]
    if not any(pads):
        return tensor
    return pad(tensor, [part for more in reversed(pads) for part in (0, more)], value=fill)
