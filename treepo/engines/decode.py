"""Attention of one forward call of the engine: every column over its trunk and its bundle.

With torch, on any device; `treepo.engines.kernel` is faster where it can be had. Knows the pool and
flat rows of tokens, no trees. Axes as in `treepo.engines.kv`; C columns,
N flat tokens of the call (columns first, then the tokens that are filled in, then padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.engines.kv import KVPool

Blocks = slice | Tensor


@dataclass(frozen=True)
class Seat:
    """Where columns sit in the blocks of one kind.

    blocks: which of the pool's blocks are read; lanes, slots: how far; block, lane: int64 [C],
    of each column, `block` counted within `blocks`.
    """

    blocks: Blocks
    count: int
    lanes: int
    slots: int
    block: Tensor
    lane: Tensor

    def attend(
        self, query: Tensor, pair: Tensor, mask: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output [C, K, G, E] and log-sum-exp [C, K, G] of query [C, K, G, E] over the blocks.

        pair: keys and values [2, blocks, slots, K, E] of the whole pool; mask: its mask.
        """
        heads, groups, width = query.shape[1:]
        rows = query.new_zeros(self.count, heads, self.lanes, groups, width)
        rows[self.block, :, self.lane] = query
        used = pair[:, self.blocks, : self.slots].transpose(2, 3)
        seen = mask[self.blocks, :, : self.lanes * groups, : self.slots]
        out, total = partial_attention(rows.flatten(2, 3), used[0], used[1], seen, scale)
        out, total = (part.unflatten(2, (self.lanes, groups)) for part in (out, total))
        return out[self.block, :, self.lane], total[self.block, :, self.lane]


@dataclass(frozen=True)
class Part:
    """Columns whose attention is computed together: all, or those of one tree."""

    columns: slice
    trunk: Seat
    bundle: Seat


class ColumnAttention(Protocol):
    """Attention of the decoding columns, the first rows of the call."""

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """Write these rows of `out` [N, H, E] for `query` [N, H, E] over `store` of a layer."""
        ...


@dataclass(frozen=True)
class Parts:
    """Column attention part by part, over dense blocks of the pool under masks."""

    pool: KVPool
    parts: Sequence[Part]

    def attend(self, store: Tensor, query: Tensor, out: Tensor, scale: float) -> None:
        """As `ColumnAttention`."""
        pool = self.pool
        trunks, bundles = pool.views(store)
        grouped = query.unflatten(1, (store.shape[2], -1))
        for part in self.parts:
            mine = grouped[part.columns]
            above, heavy = part.trunk.attend(mine, trunks, pool.trunks.mask, scale)
            own, light = part.bundle.attend(mine, bundles, pool.bundles.mask, scale)
            share = torch.sigmoid(heavy - light).unsqueeze(-1).to(own.dtype)
            out[part.columns] = torch.lerp(own, above, share).flatten(1, 2)


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

    @property
    def longest(self) -> int:
        """No path has more tokens than this."""
        return self.pool.trunks.slots + self.pool.bundles.slots

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


def partial_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys, and the log-sum-exp that weighs it against the rest.

    query [n, K, Q, E], key and value [n, K, S, E], mask additive [n, 1, Q, S]. Rows that see
    nothing yield undefined numbers.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=mask, scale=scale
        )
    scores = torch.matmul(query, key.transpose(2, 3)).float() * scale + mask
    total = scores.logsumexp(-1)
    weights = (scores - total.unsqueeze(-1)).exp().to(value.dtype)
    return torch.matmul(weights, value), total
