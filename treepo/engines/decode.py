"""Attention of one forward call of the engine: every token over the slots of its path.

What is here attends with torch, on any device; `treepo.engines.kernel` is faster where it can be
had. Axes as in `treepo.attention`; C columns, P columns a tree, N flat tokens of the call
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


class RowAttention(Protocol):
    """Attention of some of the call's rows."""

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """Write its rows of `out` [N, H, E] for `query` [N, H, E] over `store` of a layer."""
        ...


@dataclass(frozen=True)
class TreeRows:
    """Columns, trees side by side: a path multiplies with all of its tree's slots, under a mask.

    rows: which of the call; tree, path: int64 [C]; slots: int64 [T, S]; mask: additive
    [T, 1, G * P, S].
    """

    rows: slice
    tree: Tensor
    path: Tensor
    slots: Tensor
    mask: Tensor

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `RowAttention`."""
        keys, values = store[:, self.slots]
        paths = self.mask.shape[2] * keys.shape[2] // query.shape[1]
        grid = query.new_zeros(len(self.slots), paths, *query.shape[1:])
        grid[self.tree, self.path] = query[self.rows]
        attended = grouped_attention(grid, keys, values, self.mask, scale)
        out[self.rows] = attended[self.tree, self.path]


@dataclass(frozen=True)
class FillRows:
    """The fed tokens of one tree; they see `visible`, bool [rows, n], of its living slots."""

    rows: slice
    slots: Tensor
    visible: Tensor

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `RowAttention`."""
        pair = store.index_select(1, self.slots).transpose(1, 2)
        filled = scaled_dot_product_attention(
            query[self.rows].transpose(0, 1)[None],
            pair[None, 0],
            pair[None, 1],
            attn_mask=self.visible,
            scale=scale,
            enable_gqa=True,
        )
        out[self.rows] = filled[0].transpose(0, 1)


@dataclass(frozen=True)
class DecodeContext:
    """One forward call: `write`, int64: where the keys and values of its first tokens go."""

    pool: KVPool
    write: Tensor
    parts: Sequence[RowAttention]
    longest: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store this call's keys and values, then attend over the pool."""
        store, count = self.pool.layers[layer], len(self.write)
        store[0].index_copy_(0, self.write, key[:count])
        store[1].index_copy_(0, self.write, value[:count])
        shape = query.shape
        out = query.new_zeros(shape) if count < len(query) else query.new_empty(shape)
        for part in self.parts:
            part.attend(store, query, out, scale)
        return out
