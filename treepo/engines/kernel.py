"""Attention of the decoding columns by the kernel in `decode_attention.cpp`: CPU, float32.

It is compiled when treepo is installed, where there is a compiler; without one `decode` does the
same with torch. Axes as in `treepo.attention`; besides: C columns.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from treepo.engines.columns import Columns
from treepo.engines.kv import KVPool

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
    """The pool's slots that each column sees: of c, the first lengths[c] of slots[paths[c]].

    slots: int64 [paths, L]; paths, lengths: int64 [C].
    """

    slots: Array
    paths: Array
    lengths: Array

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `ColumnAttention`: the first C rows of `out`."""
        kernel, rows = library(), query.contiguous()
        assert kernel is not None
        heads, width = store.shape[2:]
        keys, values = store
        call = Call(
            *(part.data_ptr() for part in (rows, keys, values, out)),
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


def visible_slots(columns: Columns) -> VisibleSlots:
    """What the columns see: their paths down to the pending tokens, which this call stores."""
    live, (trees, paths, longest) = columns.live, columns.slots.shape
    slots = columns.slots.reshape(trees * paths, longest)
    return VisibleSlots(slots, live["row"] * paths + live["path"], live["position"] + 1)
