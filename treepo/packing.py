"""Packing: trees as rows of unique tokens, each token computed once (DESIGN section 7).

Knows forests and per-node numbers; knows no model and no loss. Axes: N flat tokens of a micro-
batch, M targets (sampled tokens), U unique predictors, T trees, S tokens of the largest tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from treepo.attention import grouped_attention, grouped_mask
from treepo.forest import Forest

Array = np.ndarray


@dataclass(frozen=True)
class PackedTrees:
    """A micro-batch of whole trees.

    tokens, positions: int64 [N]. slot: int64 [N], tree * S + place in the tree. visible: bool
    [T, S, S], token sees token. predictors: int64 [U], flat index of every token that predicts a
    target. target: int64 [M], token ids; predictor: int64 [M], index into `predictors`;
    target_row: int64 [M], row of the target's node in the forest; target_token: int64 [M], its
    index in the forest's tokens.
    """

    tokens: Tensor
    positions: Tensor
    slot: Tensor
    visible: Tensor
    predictors: Tensor
    target: Tensor
    predictor: Tensor
    target_row: Array
    target_token: Array

    def to(self, device: torch.device) -> PackedTrees:
        """The same micro-batch with its tensors on `device`."""
        moved = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **moved)

    def context(self, config: PretrainedConfig, dtype: torch.dtype) -> PackedContext:
        """What the model's attention needs for this micro-batch."""
        heads = int(config.num_attention_heads)
        groups = heads // int(getattr(config, "num_key_value_heads", None) or heads)
        mask = grouped_mask(self.visible, groups, dtype)
        return PackedContext(self.slot, (len(self.visible), self.visible.shape[1]), mask)


@dataclass(frozen=True)
class PackedContext:
    """Attention within each tree of a micro-batch; see `treepo.attention.TreeContext`."""

    slot: Tensor
    shape: tuple[int, int]
    mask: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Spread the flat tokens over [T, S], attend, gather them back."""
        spread = [
            part.new_zeros(self.shape[0] * self.shape[1], *part.shape[1:])
            .index_copy(0, self.slot, part)
            .unflatten(0, self.shape)
            for part in (query, key, value)
        ]
        out = grouped_attention(spread[0], spread[1], spread[2], self.mask, scale)
        return out.flatten(0, 1).index_select(0, self.slot)


def micro_batches(forest: Forest, trees: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group whole trees under a budget of tokens, trees of like size together.

    A tree larger than the budget gets a micro-batch of its own. Deterministic.
    """
    sizes = np.add.reduceat(forest.lengths, forest.tree_start[:-1])
    batch: list[int] = []
    for tree in sorted(trees, key=lambda tree: (-sizes[tree], tree)):
        # Attention pads to the largest tree, the first of its batch.
        if batch and (len(batch) + 1) * sizes[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def pack(forest: Forest, trees: Sequence[int]) -> PackedTrees:
    """Lay the unique tokens of whole trees side by side."""
    start = forest.tree_start
    rows = [np.arange(start[tree], start[tree + 1]) for tree in trees]
    sizes = [int(forest.lengths[r].sum()) for r in rows]
    largest = max(sizes)
    visible = np.zeros((len(trees), largest, largest), dtype=bool)
    for index, (tree_rows, size) in enumerate(zip(rows, sizes, strict=True)):
        visible[index, :size, :size] = _visible(forest, tree_rows)
        # A padding query sees itself, so that no row of the softmax is empty.
        visible[index, range(size, largest), range(size, largest)] = True
    row = np.concatenate([np.repeat(r, forest.lengths[r]) for r in rows])
    token = np.concatenate(
        [np.arange(forest.offsets[r[0]], forest.offsets[r[-1] + 1]) for r in rows]
    )
    place = np.concatenate([np.arange(size) for size in sizes])
    flat_start = np.concatenate([[0], np.cumsum(sizes)])
    tree_of = np.repeat(np.arange(len(trees)), sizes)
    within = token - forest.offsets[row]
    # The token before a node's first is its parent's last.
    shift = flat_start[tree_of] - forest.offsets[start[np.array(trees)]][tree_of]
    parent_last = forest.offsets[forest.parent_row[row] + 1] - 1 + shift
    before = np.where(within > 0, np.arange(len(token)) - 1, parent_last)
    targets = np.flatnonzero(forest.sampled[row])
    predictors, predictor = np.unique(before[targets], return_inverse=True)
    tokens = forest.tokens[token].astype(np.int64)
    return PackedTrees(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(forest.start[row] + within),
        slot=torch.from_numpy(tree_of * largest + place),
        visible=torch.from_numpy(visible),
        predictors=torch.from_numpy(predictors),
        target=torch.from_numpy(tokens[targets]),
        predictor=torch.from_numpy(predictor),
        target_row=row[targets],
        target_token=token[targets],
    )


def _visible(forest: Forest, rows: Array) -> Array:
    """Ancestor mask of one tree's tokens: bool [tokens, tokens]."""
    ancestor = np.eye(len(rows), dtype=bool)
    for node in range(1, len(rows)):
        ancestor[node] |= ancestor[forest.parent[rows[node]]]
    node = np.repeat(np.arange(len(rows)), forest.lengths[rows])
    return np.tril(ancestor[np.ix_(node, node)])
