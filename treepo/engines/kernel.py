"""Attention by the kernel in `decode_attention.cpp`: CPU, float32.

It is compiled when treepo is installed, where there is a compiler; without one `decode` does the
same with torch. Each row is computed by itself, in the same way whether its token is decoded or
filled in. Axes as in `treepo.attention`; besides: C rows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from treepo.engines.columns import Columns
from treepo.engines.kv import KVPool
from treepo.engines.plan import Plan

Array = np.ndarray
MODULE = "treepo.engines._decode_attention"


class Call(ctypes.Structure):
    """The arguments of one call, as the kernel takes them."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "keys", "values", "out")),
        *((name, c_void_p) for name in ("slots", "paths", "lengths")),
        *(
            (name, c_int64)
            for name in ("columns", "longest", "heads", "groups", "width", "threads")
        ),
        ("scale", c_float),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None where it was not compiled, or for other processors or sources."""
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        return None
    kernel = ctypes.CDLL(spec.origin)
    kernel.treepo_fits.argtypes = [c_int64] * 4
    kernel.treepo_attend.argtypes = [ctypes.POINTER(Call)]
    kernel.treepo_attend.restype = None
    return kernel if kernel.treepo_fits(ctypes.sizeof(Call), 1, 1, 16) else None


def fits(pool: KVPool) -> bool:
    """Whether the kernel is there, and takes keys of this kind and shape."""
    like, kernel = pool.layers[0], library()
    if kernel is None or like.device.type != "cpu" or like.dtype != torch.float32:
        return False
    shape = (like.shape[2], pool.groups, like.shape[3])
    return bool(kernel.treepo_fits(ctypes.sizeof(Call), *shape))


@dataclass(frozen=True)
class VisibleSlots:
    """The pool's slots that rows of the call see, from row `first` on: of row c, the first
    lengths[c] of slots[paths[c]].

    slots: int64 [paths, L]; paths, lengths: int64 [C].
    """

    first: int
    slots: Array
    paths: Array
    lengths: Array

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `RowAttention`."""
        kernel, rows = library(), slice(self.first, self.first + len(self.paths))
        assert kernel is not None
        asked = query[rows].contiguous()
        heads, width = store.shape[2:]
        keys, values = store
        call = Call(
            *(part.data_ptr() for part in (asked, keys, values, out[rows])),
            *(part.ctypes.data for part in (self.slots, self.paths, self.lengths)),
            len(self.paths),
            self.slots.shape[1],
            heads,
            query.shape[1] // heads,
            width,
            torch.get_num_threads(),
            scale,
        )
        kernel.treepo_attend(ctypes.byref(call))


def visible_slots(columns: Columns, plans: Mapping[int, Plan]) -> Sequence[VisibleSlots]:
    """Columns see their paths down to the pending tokens, fed tokens theirs down to themselves."""
    live, (trees, paths, longest) = columns.live, columns.slots.shape
    slots = columns.slots.reshape(trees * paths, longest)
    decoded = VisibleSlots(0, slots, live["row"] * paths + live["path"], live["position"] + 1)
    return [decoded, _filled(len(live), plans)] if plans else [decoded]


def _filled(first: int, plans: Mapping[int, Plan]) -> VisibleSlots:
    tables = [new.path_slots for new in plans.values()]
    slots = np.zeros((sum(map(len, tables)), max(each.shape[1] for each in tables)), dtype=np.int64)
    paths, before = list[Array](), 0
    for new, table in zip(plans.values(), tables, strict=True):
        slots[before : before + len(table), : table.shape[1]] = table
        paths.append(new.paths + before)
        before += len(table)
    lengths = np.concatenate([new.positions + 1 for new in plans.values()])
    return VisibleSlots(first, slots, np.concatenate(paths), lengths)
