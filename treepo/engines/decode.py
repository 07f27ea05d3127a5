"""Attention of one forward call of the engine: every token over the slots of its path.

Decoding columns attend with torch, on any device; `treepo.engines.kernel` is faster where it can
be had. Axes as in `treepo.attention`; C columns, P columns a tree, N flat tokens of the call
(columns first, then the tokens that are filled in, then padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.attention import grouped_attention
from treepo.engines.kv import KVPool


class ColumnAttention(Protocol):
    """Attention of the decoding columns, the first rows of the call."""

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """Write these rows of `out` [N, H, E] for `query` [N, H, E] over `store` of a layer."""
        ...


@dataclass(frozen=True)
class TreeRows:
    """Trees side by side: each path multiplies with all of its tree's slots, under a mask.

    columns: which; row, path: int64 [C]; slots: int64 [T, S]; mask: additive [T, 1, G * P, S].
    """

    columns: slice
    row: Tensor
    path: Tensor
    slots: Tensor
    mask: Tensor

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `ColumnAttention`."""
        keys, values = store[:, self.slots]
        paths = self.mask.shape[2] * keys.shape[2] // query.shape[1]
        rows = query.new_zeros(len(self.slots), paths, *query.shape[1:])
        rows[self.row, self.path] = query[self.columns]
        attended = grouped_attention(rows, keys, values, self.mask, scale)
        out[self.columns] = attended[self.row, self.path]


@dataclass(frozen=True)
class Parts:
    """Parts of the columns one after the other."""

    parts: Sequence[ColumnAttention]

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `ColumnAttention`."""
        for part in self.parts:
            part.attend(store, query, out, scale)


@dataclass(frozen=True)
class FillPart:
    """The fed tokens of one tree: flat rows `rows` see `visible`, bool [rows, n], of its slots."""

    rows: slice
    slots: Tensor
    visible: Tensor


@dataclass(frozen=True)
class DecodeContext:
    """One forward call: `write`, int64: where the keys and values of its first tokens go."""

    pool: KVPool
    write: Tensor
    columns: ColumnAttention
    fills: Sequence[FillPart]
    longest: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store this call's keys and values, then attend over the pool."""
        store, count = self.pool.layers[layer], len(self.write)
        store[0].index_copy_(0, self.write, key[:count])
        store[1].index_copy_(0, self.write, value[:count])
        shape = query.shape
        out = query.new_zeros(shape) if count < len(query) else query.new_empty(shape)
        self.columns.attend(store, query, out, scale)
        for fill in self.fills:
            pair = store.index_select(1, fill.slots).transpose(1, 2)
            rows = query[fill.rows].transpose(0, 1)
            filled = scaled_dot_product_attention(
                rows[None],
                pair[None, 0],
                pair[None, 1],
                attn_mask=fill.visible,
                scale=scale,
                enable_gqa=True,
            )
            out[fill.rows] = filled[0].transpose(0, 1)
        return out
