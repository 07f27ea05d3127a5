"""Statistics of groups of leaves: those below a node, and any others that carry a number.

Pure functions of the forest and of numbers on its leaves; no estimator lives here.
"""

from __future__ import annotations

import numpy as np

from treepo.forest import Forest

Array = np.ndarray
# A deviation this small beside the values themselves is rounding: it counts as 0.
ROUNDING = 1e-12


def group_means(forest: Forest, rewards: Array) -> Array:
    """Mean reward of the leaves at or below each node: float64 [rows]."""
    total = np.zeros(len(forest))
    total[forest.leaves] = rewards
    return forest.sum_up(total) / np.maximum(forest.leaf_counts, 1)


def differing(forest: Forest, outcome: Array) -> Array:
    """Whether the leaves at or below each node have more than one outcome: bool [rows]."""
    low, high = np.full(len(forest), np.inf), np.full(len(forest), -np.inf)
    low[forest.leaves] = high[forest.leaves] = outcome
    return forest.fold_up(high, np.maximum) > forest.fold_up(low, np.minimum)


def informative(forest: Forest, outcome: Array) -> Array:
    """Whether a tree's outcomes differ at all: bool [trees] (query filter of DAPO)."""
    return differing(forest, outcome)[forest.tree_start[:-1]]


def means_of(values: Array, group: Array, groups: int) -> Array:
    """Mean of the values of each group, float64 [groups]; 0 for an empty one."""
    count = np.bincount(group, minlength=groups)
    return np.bincount(group, values, groups) / np.maximum(count, 1)


def standardized(values: Array, group: Array, groups: int) -> Array:
    """Values less their group's mean, over its population deviation; 0 where that is 0.

    values: float64 [n]; group: int64 [n], which of the `groups` each belongs to.
    """
    centred = values - means_of(values, group, groups)[group]
    std = np.sqrt(means_of(centred**2, group, groups))
    size = np.zeros(groups)
    np.maximum.at(size, group, np.abs(values))
    differs = std > ROUNDING * size
    return np.where(differs[group], centred / np.where(differs, std, 1.0)[group], 0.0)
