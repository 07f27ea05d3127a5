"""Estimators that credit each segment by itself: how a node's value differs from its parent's.

They differ in what the value V of a node is; V(root) = 0 unless said otherwise.
"""

from __future__ import annotations

import numpy as np

from treepo.advantages.groups import group_means, standardized
from treepo.advantages.nested import nested
from treepo.advantages.registry import ESTIMATORS, of_nodes
from treepo.forest import Forest
from treepo.params import AdvantageParams

Array = np.ndarray


def child_means(forest: Forest, value_of_leaves: Array) -> Array:
    """V of each node, float64 [rows]: a leaf's own, else the mean of its children's V."""
    value = np.zeros(len(forest))
    value[forest.leaves] = value_of_leaves
    below = np.flatnonzero(forest.parent >= 0)
    children = np.bincount(forest.parent_row[below], minlength=len(forest))
    for depth in range(int(forest.depth.max(initial=0)), 0, -1):
        rows = np.flatnonzero(forest.depth == depth)
        parents = forest.parent_row[rows]
        value += np.bincount(parents, value[rows] / children[parents], len(forest))
    return value


def from_root(forest: Forest, value: Array) -> Array:
    """The values with V(root) = 0, float64 [rows]."""
    return np.where(forest.parent < 0, 0.0, value)


@ESTIMATORS.register("treepo_segment")
def treepo_segment(forest: Forest, rewards: Array, params: AdvantageParams) -> Array:
    """Segment advantage V(node) - k V(parent), V of a leaf from its nested groups.

    V(leaf) is the mean of R - mean R over all groups of the leaf, root and its own group of one
    included, weighted by their sizes; V(inner) the mean of its children's. k = 1, or
    eta^(n + 1 - i) for the i-th of n segments where `advantage.eta` is given.

    Example: rewards 0, 1, 0. V(a) = 3 (0 - 1/3) / (3 + 1) = -1/4;
    V(b) = (3 (1 - 1/3) + 2 (1 - 1/2)) / (3 + 2 + 1) = 1/2; V(c) = (-1 - 1) / 6 = -1/3;
    V(m) = 1/12. A = -1/4; 1/12, 5/12; 1/12, -5/12. With eta = 1/2 the last segments of b and c
    have k = 1/2: A = -1/4; 1/12, 11/24; 1/12, -3/8.
    """
    value = from_root(forest, child_means(forest, nested(forest, rewards, forest.leaf_counts)))
    trajectory, row = forest.entries
    above = value[forest.parent_row[row]]
    if params.eta is not None:
        segments_left = forest.depth[forest.leaves][trajectory] + 1 - forest.depth[row]
        above = above * params.eta**segments_left
    return value[row] - above


@of_nodes("spo_tree")
def spo_tree(forest: Forest, rewards: Array) -> Array:
    """SPO-tree: V(node) - V(parent), V standardised among siblings.

    V(leaf) = R, V(inner) = mean of its children's; then each is standardised among its siblings
    (population deviation; 0 where that is 0), and an only child keeps its V.

    Example: rewards 0, 1, 0. V(m) = 1/2, so a and m become -1 and 1, b and c become 1 and -1:
    A = -1; 1, 0; 1, -2.
    """
    value = child_means(forest, rewards)
    below = np.flatnonzero(forest.parent >= 0)
    parents = forest.parent_row[below]
    several = np.bincount(parents, minlength=len(forest))[parents] > 1
    scaled = standardized(value[below], parents, len(forest))
    value[below] = np.where(several, scaled, value[below])
    value = from_root(forest, value)
    return value - value[forest.parent_row]


@of_nodes("treerl")
def treerl(forest: Forest, rewards: Array) -> Array:
    """TreeRL: ((V - V(root)) + (V - V(parent))) / sqrt(number of leaves below).

    V is the mean reward of the leaves at or below a node, that of the root included.

    Example: rewards 0, 1, 0. V(root) = 1/3, V(m) = 1/2: A = -2/3; (1/6 + 1/6) / sqrt(2) for m;
    2/3 + 1/2 = 7/6 for b; -1/3 - 1/2 = -5/6 for c.
    """
    value = group_means(forest, rewards)
    root = value[forest.tree_start[:-1]][forest.tree]
    gained = (value - root) + (value - value[forest.parent_row])
    return gained / np.sqrt(np.maximum(forest.leaf_counts, 1))
