"""Packing: trees as rows of unique tokens, each token computed once.

A micro-batch is one flat row of whole trees under a budget of tokens; a tree beyond the budget is
cut into smaller ones first. Knows forests; knows no model and no loss. Axes: N flat tokens of a
micro-batch, M targets (sampled tokens), U unique predictors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import transformers
from torch import Tensor

from treepo.attention import TreeContext
from treepo.forest import Forest
from treepo.packed_attention import packed_context

Array = np.ndarray


@dataclass(frozen=True)
class PackedTrees:
    """A micro-batch of whole trees, the tokens of each in depth-first order.

    tokens, positions: int64 [N]. end: int64 [N], the place just after a token's subtree, so that
    token q sees k where k <= q < end[k]. predictors: int64 [U], flat place of every token that
    predicts a target. target: int64 [M], token ids; predictor: int64 [M], index into `predictors`;
    target_row: int64 [M], row of the target's node in the forest; target_token: int64 [M], its
    index in the forest's tokens.
    """

    tokens: Tensor
    positions: Tensor
    end: Tensor
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

    def context(self, config: transformers.PretrainedConfig, dtype: torch.dtype) -> TreeContext:
        """What the model's attention needs for this micro-batch."""
        heads = int(config.num_attention_heads)
        groups = heads // int(getattr(config, "num_key_value_heads", None) or heads)
        return packed_context(self.end, int(self.positions.max()) + 1, groups, dtype)


def tree_tokens(forest: Forest) -> Array:
    """Unique tokens of each tree, the prompt included: int64 [trees]."""
    return np.bincount(forest.tree, forest.lengths, forest.trees).astype(np.int64)


def micro_batches(forest: Forest, trees: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Fill rows of at most `budget` tokens with whole trees: first fit, the largest first.

    A tree larger than the budget gets a micro-batch of its own (see `cut`). Deterministic.
    """
    sizes = tree_tokens(forest)
    bins: list[list[int]] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda tree: (-sizes[tree], tree)):
        size = int(sizes[tree])
        fits = next((index for index, free in enumerate(room) if free >= size), len(bins))
        if fits == len(bins):
            bins.append([])
            room.append(budget)
        bins[fits].append(tree)
        room[fits] -= size
    yield from bins


def pack(forest: Forest, trees: Sequence[int]) -> PackedTrees:
    """Lay the unique tokens of whole trees side by side, depth first."""
    start = forest.tree_start
    rows = np.concatenate([np.arange(start[tree], start[tree + 1]) for tree in trees])
    lengths = forest.lengths[rows]
    up = rows - forest.parent_row[rows]
    parent = np.where(forest.parent[rows] < 0, -1, np.arange(len(rows)) - up)
    first, end = _depth_first(parent, lengths)
    order = np.argsort(first, kind="stable")
    # The node that a flat token belongs to, and its place in that node.
    owner = np.repeat(order, lengths[order])
    flat = np.arange(len(owner))
    within = flat - first[owner]
    token = forest.offsets[rows[owner]] + within
    # The token before a node's first is its parent's last.
    parent_last = (first + lengths - 1)[parent[owner]]
    before = np.where(within > 0, flat - 1, parent_last)
    targets = np.flatnonzero(forest.sampled[rows[owner]])
    predictors, predictor = np.unique(before[targets], return_inverse=True)
    tokens = forest.tokens[token].astype(np.int64)
    return PackedTrees(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(forest.start[rows[owner]] + within),
        end=torch.from_numpy(end[owner]),
        predictors=torch.from_numpy(predictors),
        target=torch.from_numpy(tokens[targets]),
        predictor=torch.from_numpy(predictor),
        target_row=rows[owner][targets],
        target_token=token[targets],
    )


def _depth_first(parent: Array, lengths: Array) -> tuple[Array, Array]:
    """Flat place of each node's first token and the place after its subtree: int64 [nodes] each.

    parent: index of each node's parent, before the node; -1 for roots, which lie side by side.
    """
    size = lengths.copy()
    for node in range(len(parent) - 1, -1, -1):
        if parent[node] >= 0:
            size[parent[node]] += size[node]
    first, free = np.zeros_like(size), np.zeros_like(size)
    top = 0
    for node, above in enumerate(parent):
        if above < 0:
            first[node], top = top, top + size[node]
        else:
            first[node] = free[above]
            free[above] += size[node]
        free[node] = first[node] + lengths[node]
    return first, first + size
