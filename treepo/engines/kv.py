"""The keys and values of all trees in the batch: one buffer a layer, each token in it once.

Knows slots, not tokens or paths. Axes as in `treepo.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from treepo.attention import grouped_attention


class KVBuffer:
    """Keys and values [T, S, K, E] a layer; S grows by doubling where a tree needs more slots."""

    def __init__(self, config: PretrainedConfig, trees: int, like: Tensor) -> None:
        heads = int(config.num_attention_heads)
        width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        self.groups = heads // int(key_heads)
        self.trees = trees
        shape = (trees, 0, int(key_heads), int(width))
        self.layers = [
            (like.new_zeros(shape), like.new_zeros(shape))
            for _ in range(int(config.num_hidden_layers))
        ]

    @property
    def slots(self) -> int:
        """S: slots a tree."""
        return self.layers[0][0].shape[1]

    def reserve(self, slots: int) -> None:
        """Make room for at least `slots` a tree, keeping what is there."""
        if slots <= self.slots:
            return
        extra = max(slots, 2 * self.slots) - self.slots
        self.layers = [
            (_extend(keys, extra), _extend(values, extra)) for keys, values in self.layers
        ]

    def compact(self, tree: int, keep: Tensor) -> None:
        """Move the slots `keep` (int64, any order) of one tree to its first slots."""
        for pair in self.layers:
            for part in pair:
                part[tree, : len(keep)] = part[tree, keep]


def _extend(part: Tensor, extra: int) -> Tensor:
    trees, _, heads, width = part.shape
    return torch.cat([part, part.new_zeros(trees, extra, heads, width)], dim=1)


@dataclass(frozen=True)
class DecodeContext:
    """One forward call of the engine: where its tokens go in the buffer and what each sees.

    write: int64 [N], tree * S + slot; query: int64 [N], tree * Q + query row;
    mask: additive [T, 1, G * Q, s] with s <= S, the slots in use.
    """

    buffer: KVBuffer
    write: Tensor
    query: Tensor
    queries: int
    mask: Tensor

    @property
    def longest(self) -> int:
        """Slots in use, which bound the length of any path."""
        return self.mask.shape[-1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store this call's keys and values, then attend over the buffer."""
        keys, values = self.buffer.layers[layer]
        keys.flatten(0, 1).index_copy_(0, self.write, key)
        values.flatten(0, 1).index_copy_(0, self.write, value)
        trees, used = self.buffer.trees, self.mask.shape[-1]
        padded = query.new_zeros(trees * self.queries, *query.shape[1:])
        padded.index_copy_(0, self.query, query)
        out = grouped_attention(
            padded.unflatten(0, (trees, self.queries)),
            keys[:, :used],
            values[:, :used],
            self.mask,
            scale,
        )
        return out.flatten(0, 1).index_select(0, self.query)
