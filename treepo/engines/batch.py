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

from treepo.attention import grouped_mask
from treepo.engines import kernel
from treepo.engines.columns import Columns
from treepo.engines.decode import DecodeContext, FillRows, RowAttention, TreeRows
from treepo.engines.fixed import padded
from treepo.engines.kv import KVPool
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
    columns: Columns,
    standing: Mapping[int, Plan],
    plans: Mapping[int, Plan],
    deterministic: bool,
) -> Feed:
    """The call that decodes the columns and does `plans`.

    standing: the latest plan of each row. deterministic: rows in whole chunks, and
    attention tree by tree where a tree's shape would change another's sums.
    """
    device, live = pool.layers[0].device, columns.live
    starts = len(live) + np.cumsum([0, *(len(new.tokens) for new in plans.values())])
    total = int(starts[-1])
    rows = padded(total) if deterministic else total
    tokens, positions = np.zeros((2, rows), dtype=np.int64)
    tokens[:total] = np.concatenate([live["token"], *(new.tokens for new in plans.values())])
    positions[:total] = np.concatenate([live["position"], *(p.positions for p in plans.values())])
    last = [start + new.last for start, new in zip(starts, plans.values(), strict=False)]
    keep, place = np.unique(np.concatenate([np.arange(len(live)), *last]), return_inverse=True)
    write = [columns.pending(), *(new.living[new.fed] for new in plans.values())]
    context = DecodeContext(
        pool,
        write=pool.tensor(np.concatenate(write)),
        parts=kernel.visible_slots(columns, plans)
        if kernel.fits(pool)
        else _with_torch(pool, columns, standing, plans, deterministic),
        longest=max(each.places.shape[1] for each in standing.values()),
    )
    tensors = [torch.from_numpy(part).to(device) for part in (tokens, positions, keep, place)]
    return Feed(*tensors, context=context)


def _with_torch(
    pool: KVPool,
    columns: Columns,
    standing: Mapping[int, Plan],
    plans: Mapping[int, Plan],
    apart: bool,
) -> Sequence[RowAttention]:
    """Columns all at once, or tree by tree with shapes that depend on that tree alone; fills."""
    live, parts = columns.live, list[RowAttention]()
    edges = np.flatnonzero(np.diff(live["row"], prepend=-1, append=-1))
    if not apart:
        edges = edges[[0, -1]] if len(live) else edges[:0]
    for start, end in pairwise(edges.tolist()):
        parts.append(_side_by_side(pool, live, slice(start, end), standing))
    start = len(live)
    for new in plans.values():
        rows, start = slice(start, start + len(new.fed)), start + len(new.fed)
        visible = torch.from_numpy(new.sees).to(pool.layers[0].device)
        parts.append(FillRows(rows, pool.tensor(new.living), visible))
    return parts


def _side_by_side(pool: KVPool, live: Array, rows: slice, standing: Mapping[int, Plan]) -> TreeRows:
    mine = live[rows]
    numbers, tree = np.unique(mine["row"], return_inverse=True)
    plans = [standing[number] for number in numbers.tolist()]
    slots = np.zeros((len(plans), max(len(each.slots) for each in plans)), dtype=np.int64)
    visible = np.zeros((len(plans), int(mine["path"].max()) + 1, slots.shape[1]), dtype=bool)
    for at, each in enumerate(plans):
        slots[at, : len(each.slots)] = each.slots
        its = mine[tree == at]
        column, position = np.nonzero(np.arange(each.places.shape[1]) <= its["position"][:, None])
        path = its["path"][column]
        visible[at, path, each.places[path, position]] = True
    like = pool.layers[0]
    mask = grouped_mask(torch.from_numpy(visible).to(like.device), pool.groups, like.dtype)
    path = pool.tensor(mine["path"].copy())
    return TreeRows(rows, pool.tensor(tree), path, pool.tensor(slots), mask)
