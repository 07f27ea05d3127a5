"""The keys and values of all trees in the batch: one pool a layer, each token in it once.

A tree's tokens lie in two kinds of place. Its *trunk* holds what columns of several bundles see;
a *bundle* is up to R neighbouring columns with all the tokens that only they see. A column so
attends to two dense blocks, and hardly reads a token that its mask then hides.

Knows slots, not tokens or paths. Axes as in `treepo.attention`; besides: B bundles, R columns a
bundle, U slots a bundle, P columns a tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from torch import Tensor

Array = np.ndarray
BUNDLE = 4  # R: chosen in docs/decisions.md
_GROUP = 32  # bits of an address below the number of the tree or bundle
_BUNDLED = 1 << 60


def trunk_address(tree: int, slots: Array) -> Array:
    """Where a tree's trunk slots lie: numbers that outlive any growth of the pool."""
    return (tree << _GROUP) + slots


def slot_of(addresses: Array) -> Array:
    """The slot within its trunk or bundle."""
    return addresses & ((1 << _GROUP) - 1)


def bundle_address(bundle: Array | int, slots: Array) -> Array:
    """Where slots of bundles lie."""
    return _BUNDLED + (np.asarray(bundle, dtype=np.int64) << _GROUP) + slots


@dataclass
class Block:
    """All trunks, or all bundles: `count` blocks of `slots` slots, seen by `lanes` columns each.

    mask: additive [count, 1, lanes * G, slots], for the flat rows (column, query group).
    """

    mask: Tensor
    lanes: int
    groups: int

    @property
    def count(self) -> int:
        """T or B."""
        return self.mask.shape[0]

    @property
    def slots(self) -> int:
        """S or U."""
        return self.mask.shape[-1]

    def grow(self, count: int, lanes: int, slots: int) -> None:
        """Make room for so many; what is new is hidden."""
        old = self.mask
        self.lanes = max(lanes, self.lanes)
        shape = (max(count, self.count), 1, self.lanes * self.groups, max(slots, self.slots))
        if shape != tuple(old.shape):
            self.mask = old.new_full(shape, float("-inf"))
            self.mask[: old.shape[0], :, : old.shape[2], : old.shape[3]] = old

    def hide(self, blocks: Array | list[int]) -> None:
        """Let nobody see anything of these blocks."""
        self.mask[torch.as_tensor(blocks, device=self.mask.device)] = float("-inf")

    def show(self, block: Array, lane: Array, slot: Array) -> None:
        """Let a block's column `lane` see a slot, for each entry of the three lists."""
        mask = self.mask.unflatten(2, (self.lanes, self.groups))
        where = [torch.from_numpy(part).to(mask.device) for part in (block, lane, slot)]
        mask[where[0], 0, where[1], :, where[2]] = 0.0


@dataclass
class KVPool:
    """layers: keys and values [2, T * S + B * U, K, E] each, trunks first.

    used: slots taken, of each bundle; room: slots that its columns may come to take. peak: most
    bytes held so far.
    """

    layers: list[Tensor]
    trunks: Block
    bundles: Block
    used: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    room: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    peak: int = 0
    _free: list[int] = field(default_factory=list[int])

    @staticmethod
    def empty(config: transformers.PretrainedConfig, like: Tensor) -> KVPool:
        """A pool without any slot; `like` gives type and device."""
        keys, width = key_shape(config)
        groups = int(config.num_attention_heads) // keys
        layers = [like.new_zeros(2, 0, keys, width) for _ in range(int(config.num_hidden_layers))]
        trunks, bundles = (
            Block(like.new_zeros(0, 1, lanes * groups, 0), lanes, groups) for lanes in (0, BUNDLE)
        )
        return KVPool(layers, trunks, bundles)

    def take_bundles(self, count: int) -> list[int]:
        """Numbers of `count` bundles that nobody uses, the lowest first."""
        while len(self._free) < count:
            self._free.append(len(self.used))
            self.used, self.room = np.append(self.used, 0), np.append(self.room, 0)
        self._free.sort()
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def give_back(self, bundles: list[int]) -> None:
        """These bundles' tokens are no longer needed."""
        self.used[bundles] = self.room[bundles] = 0
        self._free += bundles

    def reserve(self, trees: int, paths: int, slots: int) -> None:
        """Make room for trunks of `slots` slots and for all bundles, keeping what is there."""
        trunks, bundles = self.trunks, self.bundles
        before = (trunks.count, trunks.slots, bundles.count, bundles.slots)
        trunks.grow(trees, paths, slots)
        bundles.grow(len(self.used), BUNDLE, int(self.room.max(initial=0)))
        if before == (trunks.count, trunks.slots, bundles.count, bundles.slots):
            return
        for layer, old in enumerate(self.layers):
            # One layer after the other, so that the old and the new pool never exist together.
            self.layers[layer] = self._regrown(old, before)
        held = [*self.layers, trunks.mask, bundles.mask]
        self.peak = max(self.peak, sum(part.nbytes for part in held) + self.layers[0].nbytes)

    def _regrown(self, old: Tensor, before: tuple[int, int, int, int]) -> Tensor:
        trees, slots, bundles, bundle_slots = before
        size = self.trunks.count * self.trunks.slots + self.bundles.count * self.bundles.slots
        new = old.new_zeros(2, size, *old.shape[2:])
        edge = trees * slots
        trunk, bundle = self.views(new)
        trunk[:, :trees, :slots] = old[:, :edge].unflatten(1, (trees, slots))
        bundle[:, :bundles, :bundle_slots] = old[:, edge:].unflatten(1, (bundles, bundle_slots))
        return new

    def views(self, layer: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's trunks [2, T, S, K, E] and bundles [2, B, U, K, E]."""
        edge = self.trunks.count * self.trunks.slots
        return (
            layer[:, :edge].unflatten(1, (self.trunks.count, self.trunks.slots)),
            layer[:, edge:].unflatten(1, (self.bundles.count, self.bundles.slots)),
        )

    def flat(self, addresses: Array) -> Tensor:
        """Index into a layer's slots for each address: int64 on the pool's device."""
        slots = slot_of(addresses)
        groups = (addresses & (_BUNDLED - 1)) >> _GROUP
        trunk = groups * self.trunks.slots + slots
        edge = self.trunks.count * self.trunks.slots
        index = np.where(addresses & _BUNDLED, edge + groups * self.bundles.slots + slots, trunk)
        return torch.from_numpy(index).to(self.layers[0].device)

    def move(self, source: Array, target: Array) -> None:
        """Copy slots to other slots; the two lists may overlap."""
        moved = source != target
        if not moved.any():
            return
        read, write = self.flat(source[moved]), self.flat(target[moved])
        for layer in self.layers:
            layer.index_copy_(1, write, layer.index_select(1, read))


def key_shape(config: transformers.PretrainedConfig) -> tuple[int, int]:
    """K key heads and their width E."""
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return int(getattr(config, "num_key_value_heads", None) or heads), int(width)


def slot_bytes(config: transformers.PretrainedConfig, dtype: torch.dtype) -> int:
    """What one token's keys and values take over all layers [bytes]."""
    keys, width = key_shape(config)
    return 2 * int(config.num_hidden_layers) * keys * width * dtype.itemsize
