"""Attention of the update: a flat row of whole trees, each token seeing its ancestors only.

The tokens lie depth first, so a token k is an ancestor of q (or q itself) exactly where
k <= q < end[k], with end[k] the place just after the subtree of k. This one line is the mask: on
CPU it cuts the row into dense blocks without most of what it makes zero, on CUDA FlexAttention
takes it as it is.

Knows flat places, not forests or models. Axes as in `treepo.attention`; here R blocks of Q
consecutive queries, S keys that any query of a block sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from treepo.attention import grouped_attention, grouped_mask

Array = np.ndarray
# Queries of a block on CPU. Larger blocks waste more on what the mask hides, smaller ones copy
# more keys: 64 to 256 differed by less than a tenth (benchmarks/README.md).
BLOCK = 128
# Blocks with at least this share of the most keys are padded and computed together.
ALIKE = 0.75


def packed_context(
    end: Tensor, longest: int, groups: int, dtype: torch.dtype
) -> BlockContext | FlexContext:
    """The attention that suits the device of `end` (int64 [N], place after a token's subtree).

    longest: tokens of the longest path; groups: query heads a key head.
    """
    if end.device.type == "cuda":
        return FlexContext(flex_mask(end), longest, compiled=True)
    parts = [block.to(groups, dtype) for block in blocks(end.numpy())]
    order = torch.cat([part.order for part in parts])
    return BlockContext(tuple(parts), torch.argsort(order)[-len(end) :], longest)


@dataclass(frozen=True)
class Blocks:
    """Blocks with about as many keys.

    queries: int64 [R, Q], flat places, -1 beyond the last token; keys: int64 [R, S], padded with
    0; visible: bool [R, Q, S].
    """

    queries: Array
    keys: Array
    visible: Array

    def to(self, groups: int, dtype: torch.dtype) -> BlockTensors:
        """As tensors, with the additive mask of the attention."""
        mask = grouped_mask(torch.from_numpy(self.visible), groups, dtype)
        order = torch.from_numpy(self.queries.ravel())
        return BlockTensors(order, torch.from_numpy(self.keys), mask)


@dataclass(frozen=True)
class BlockTensors:
    """order: int64 [R * Q], flat places; keys: int64 [R, S]; mask: [R, 1, G * Q, S]."""

    order: Tensor
    keys: Tensor
    mask: Tensor


def blocks(end: Array, size: int = BLOCK) -> list[Blocks]:
    """Cut N flat tokens into blocks of `size` queries, with the keys that they see.

    A block's keys are its own tokens and the earlier ones whose subtree reaches into it.
    """
    place = np.arange(len(end))
    cuts = range(0, len(end), size)
    keys = [
        np.concatenate([np.flatnonzero(end[:first] > first), place[first : first + size]])
        for first in cuts
    ]
    together: list[list[int]] = []
    for index in sorted(range(len(cuts)), key=lambda index: -len(keys[index])):
        if not together or len(keys[index]) < ALIKE * len(keys[together[-1][0]]):
            together.append([])
        together[-1].append(index)
    return [_stack([(cuts[i], keys[i]) for i in sorted(group)], end, size) for group in together]


def _stack(group: list[tuple[int, Array]], end: Array, size: int) -> Blocks:
    """Pad the blocks of a group to the most keys among them."""
    most = max(len(keys) for _, keys in group)
    padded = np.stack([np.pad(keys, (0, most - len(keys))) for _, keys in group])
    real = np.stack([np.arange(most) < len(keys) for _, keys in group])
    queries = np.array([first for first, _ in group])[:, None] + np.arange(min(size, len(end)))
    seen = (padded[:, None] <= queries[..., None]) & (queries[..., None] < end[padded][:, None])
    visible = seen & real[:, None]
    beyond = queries >= len(end)
    # A query beyond the last token sees some key, so that no row of the softmax is empty.
    visible[beyond, 0] = True
    return Blocks(np.where(beyond, -1, queries), padded, visible)


@dataclass(frozen=True)
class BlockContext:
    """Attention on CPU, block by block. back: int64 [N], where each token's output lies."""

    parts: tuple[BlockTensors, ...]
    back: Tensor
    longest: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Gather each block's queries and keys, attend, put the outputs back in order."""
        outputs = [
            grouped_attention(
                query[part.order].unflatten(0, (len(part.keys), -1)),
                key[part.keys],
                value[part.keys],
                part.mask,
                scale,
            ).flatten(0, 1)
            for part in self.parts
        ]
        return torch.cat(outputs).index_select(0, self.back)


def flex_mask(end: Tensor) -> BlockMask:
    """The ancestor mask of N flat tokens for FlexAttention."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end[key])

    return create_block_mask(visible, None, None, len(end), len(end), device=str(end.device))


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


@dataclass(frozen=True)
class FlexContext:
    """Attention on CUDA: blocks that the mask makes zero are never computed."""

    mask: BlockMask
    longest: int
    compiled: bool

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """FlexAttention over the whole row."""
        attention: Any = _compiled() if self.compiled else flex_attention
        flat = [part.transpose(0, 1)[None] for part in (query, key, value)]
        out: Tensor = attention(*flat, block_mask=self.mask, scale=scale, enable_gqa=True)
        return out[0].transpose(0, 1)
