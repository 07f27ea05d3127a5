"""One forward call of the engine as tensors: which tokens are fed, and what each attends to.

Flat rows: one for each decoding column, then the tokens of each tree that is filled, then, in
deterministic mode, padding to whole chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from treepo.engines import kernel
from treepo.engines.decode import DecodeContext, FillPart, Part, Parts, Seat
from treepo.engines.fixed import padded
from treepo.engines.kv import KVPool, slot_of
from treepo.engines.plan import Plan

Array = np.ndarray


@dataclass(frozen=True)
class Feed:
    """tokens, positions: int64 [N]. keep: int64 [U], flat rows whose logits are wanted. rows:
    int64 [C'], for each column that draws, decoding ones first, its place in `keep`.
    """

    tokens: Tensor
    positions: Tensor
    keep: Tensor
    rows: Tensor
    context: DecodeContext


def assemble(
    pool: KVPool,
    live: Array,
    addresses: Array,
    plans: Mapping[int, Plan],
    slots: Mapping[int, int],
    deterministic: bool,
) -> Feed:
    """The call that decodes the columns `live`, whose tokens go to `addresses`, and does `plans`.

    slots: of each row's trunk. deterministic: attention tree by tree, rows in whole chunks.
    """
    device = pool.layers[0].device
    pool.bundles.show(live["bundle"], live["lane"], slot_of(addresses))
    starts = len(live) + np.cumsum([0, *(len(new.tokens) for new in plans.values())])
    total = int(starts[-1])
    rows = padded(total) if deterministic else total
    tokens, positions = np.zeros((2, rows), dtype=np.int64)
    tokens[:total] = np.concatenate([live["token"], *(new.tokens for new in plans.values())])
    positions[:total] = np.concatenate([live["position"], *(p.positions for p in plans.values())])
    write = np.concatenate([addresses, *(new.order[new.fed] for new in plans.values())])
    last = [
        # Columns of one bundle lie side by side, in the order in which `Columns.open` sorts them.
        start + new.last[np.argsort(new.bundle, kind="stable")]
        for start, new in zip(starts, plans.values(), strict=False)
    ]
    keep, place = np.unique(np.concatenate([np.arange(len(live)), *last]), return_inverse=True)
    context = DecodeContext(
        pool,
        write=pool.flat(write),
        columns=kernel.visible_slots(pool, live)
        if kernel.fits(pool)
        else Parts(pool, _parts(pool, live, slots, deterministic)),
        fills=[
            FillPart(
                slice(int(start), int(start) + len(new.tokens)),
                pool.flat(new.order),
                torch.from_numpy(new.sees).to(device),
            )
            for start, new in zip(starts, plans.values(), strict=False)
        ],
    )
    tensors = [torch.from_numpy(part).to(device) for part in (tokens, positions, keep, place)]
    return Feed(*tensors, context=context)


def _parts(
    pool: KVPool, live: Array, slots: Mapping[int, int], deterministic: bool
) -> Sequence[Part]:
    """All columns at once, or tree by tree with shapes that depend on that tree alone."""
    if not len(live):
        return []
    if not deterministic:
        return [_part(pool, live, slice(0, len(live)), max(slots.values()), False)]
    edges = np.flatnonzero(np.diff(live["row"], prepend=-1, append=-1))
    return [
        _part(pool, live, slice(a, b), slots[int(live["row"][a])], True)
        for a, b in pairwise(edges.tolist())
    ]


def _part(pool: KVPool, live: Array, columns: slice, slots: int, alone: bool) -> Part:
    mine = live[columns]
    numbers = np.unique(mine["bundle"])
    used = int(pool.used[numbers].max())
    trees, bundles = int(mine["row"].max()) + 1, int(numbers[-1]) + 1
    rows, groups = mine["row"], mine["bundle"]
    above, own = slice(0, trees), slice(0, bundles)
    if alone:
        above = slice(trees - 1, trees)
        own = torch.from_numpy(numbers).to(pool.layers[0].device)
        rows, groups = rows - rows[0], np.searchsorted(numbers, groups)
        trees, bundles = 1, len(numbers)
    device = pool.layers[0].device

    def seat(blocks: slice | Tensor, count: int, lanes: int, slots: int, at: list[Array]) -> Seat:
        block, lane = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in at)
        return Seat(blocks, count, lanes, slots, block, lane)

    return Part(
        columns,
        trunk=seat(above, trees, int(mine["path"].max()) + 1, slots, [rows, mine["path"]]),
        bundle=seat(own, bundles, int(mine["lane"].max()) + 1, used, [groups, mine["lane"]]),
    )
