"""One forward call of the engine as tensors: which tokens are fed, and what each attends to.

Flat rows: one for each decoding column, then the tokens of each tree that is filled, then, in
deterministic mode, padding to whole chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from treepo.engines import kernel
from treepo.engines.columns import Columns
from treepo.engines.decode import DecodeContext
from treepo.engines.fixed import padded
from treepo.engines.kv import KVPool
from treepo.engines.masks import TreeMasks
from treepo.engines.plan import Plan


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
    masks: TreeMasks | None,
    columns: Columns,
    standing: Mapping[int, Plan],
    plans: Mapping[int, Plan],
    deterministic: bool,
) -> Feed:
    """The call that decodes the columns and does `plans`.

    masks: of torch's attention; None: the kernel attends. standing: the latest plan of each row.
    deterministic: rows in whole chunks, and attention tree by tree where a tree's shape would
    change another's sums.
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
    write = [columns.pending(), *(new.slots[new.fed] for new in plans.values())]
    context = DecodeContext(
        pool,
        write=pool.tensor(np.concatenate(write)),
        parts=masks.parts(live, standing, plans, deterministic)
        if masks
        else kernel.visible_slots(columns, plans),
        longest=max(each.places.shape[1] for each in standing.values()),
    )
    tensors = [torch.from_numpy(part).to(device) for part in (tokens, positions, keep, place)]
    return Feed(*tensors, context=context)
