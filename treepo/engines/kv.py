"""The keys and values of all trees in the batch: one pool a layer, each token in it once.

A token takes a slot and keeps it; a path is the list of its tokens' slots. Nothing is moved, and
memory that no token has taken yet is never touched. Axes as in `treepo.attention`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import transformers
from torch import Tensor

Array = np.ndarray
GIB = 2**30


class Slots:
    """The numbers 0 to `count` - 1, lent out. peak: most that were ever lent at a time."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.peak = 0
        self._returned = np.zeros(0, dtype=np.int64)
        self._fresh = 0  # nobody had this one yet, nor any above it

    @property
    def lent(self) -> int:
        """How many are out."""
        return self._fresh - len(self._returned)

    def take(self, count: int) -> Array:
        """`count` numbers that nobody has, the lowest first: a path's lie side by side."""
        old = self._returned[:count]
        fresh = np.arange(self._fresh, self._fresh + count - len(old))
        assert self._fresh + len(fresh) <= self.count  # admission sees to it
        self._returned = self._returned[count:]
        self._fresh += len(fresh)
        self.peak = max(self.peak, self.lent)
        return np.concatenate([old, fresh])

    def give_back(self, slots: Array) -> None:
        """These tokens are no longer needed."""
        self._returned = np.sort(np.concatenate([self._returned, slots]))


class KVPool:
    """layers: keys and values [2, slots, K, E] each. groups: query heads a key head."""

    def __init__(self, config: transformers.PretrainedConfig, like: Tensor, slots: int) -> None:
        keys, width = key_shape(config)
        shape = (2, slots, keys, width)
        self.groups = int(config.num_attention_heads) // keys
        self.layers = [_untouched(shape, like) for _ in range(int(config.num_hidden_layers))]

    def tensor(self, slots: Array) -> Tensor:
        """Indices on the pool's device."""
        return torch.from_numpy(slots).to(self.layers[0].device)


def _untouched(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the type and device of `like`: what is hidden is multiplied by 0, not NaN.

    On a CPU memory that comes from the system is zero, and is taken page by page when written to.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    empty = np.zeros(math.prod(shape) * like.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(empty).view(like.dtype).view(shape)


def key_shape(config: transformers.PretrainedConfig) -> tuple[int, int]:
    """K key heads and their width E."""
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return int(getattr(config, "num_key_value_heads", None) or heads), int(width)


def slot_bytes(config: transformers.PretrainedConfig, dtype: torch.dtype) -> int:
    """What one token's keys and values take over all layers [bytes]."""
    keys, width = key_shape(config)
    return 2 * int(config.num_hidden_layers) * keys * width * dtype.itemsize
