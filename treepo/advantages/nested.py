"""TreePO's advantages from nested groups, one value a trajectory (paper section 2.3, Eq. 5 to 7).

G_j(i) holds the leaves below trajectory i's ancestor at depth j; G_0(i) is the whole tree. All of
them are A_i = sum_j w_j (R_i - mean R over G_j(i)) / sum_j w_j and differ in the weights alone.
"""

from __future__ import annotations

import numpy as np

from treepo.advantages.groups import differing, group_means
from treepo.advantages.registry import of_trajectories
from treepo.forest import Forest

Array = np.ndarray


def nested(forest: Forest, rewards: Array, weight: Array) -> Array:
    """Weighted mean of R_i - mean R over the groups of trajectory i, float64 [trajectories].

    weight: [rows], of the group below each node; 0 leaves it out. Without any group: 0.
    """
    baseline = forest.sum_down(weight * group_means(forest, rewards))[forest.leaves]
    total = forest.sum_down(weight.astype(np.float64))[forest.leaves]
    return np.where(total > 0, rewards - baseline / np.where(total > 0, total, 1.0), 0.0)


def _counted(forest: Forest) -> Array:
    """Groups of one are skipped, except that the root's group always counts: bool [rows]."""
    return (forest.leaf_counts > 1) | (forest.parent < 0)


@of_trajectories("treepo")
def treepo(forest: Forest, rewards: Array) -> Array:
    """Eq. 5: mean over the nested groups of (reward - group mean).

    Example: rewards 0, 1, 0 of a, b, c. The root's group has mean 1/3, that of m 1/2:
    A = -1/3; ((1 - 1/3) + (1 - 1/2)) / 2 = 7/12; ((0 - 1/3) + (0 - 1/2)) / 2 = -5/12.
    """
    return nested(forest, rewards, _counted(forest))


@of_trajectories("treepo_size_weighted")
def treepo_size_weighted(forest: Forest, rewards: Array) -> Array:
    """Eq. 6: the same mean, each group weighted by its number of trajectories.

    Example: rewards 0, 1, 0. The root's group weighs 3, that of m weighs 2:
    A = -1/3; (3 (1 - 1/3) + 2 (1 - 1/2)) / 5 = 3/5; (3 (0 - 1/3) + 2 (0 - 1/2)) / 5 = -2/5.
    """
    return nested(forest, rewards, _counted(forest) * forest.leaf_counts)


@of_trajectories("subgroup_rejection")
def subgroup_rejection(forest: Forest, rewards: Array) -> Array:
    """Eq. 7: the same mean, without the groups whose rewards are all equal.

    Example: rewards 0, 1, 1. The group of m has zero deviation and is dropped; the root's has
    mean 2/3: A = -2/3, 1/3, 1/3.
    """
    return nested(forest, rewards, differing(forest, rewards))


@of_trajectories("no_root")
def no_root(forest: Forest, rewards: Array) -> Array:
    """Ablation of Eq. 5: without the root's group; 0 where a trajectory has no other.

    Example: rewards 0, 1, 0. Only the group of m is left: A = 0, 1/2, -1/2.
    """
    return nested(forest, rewards, _counted(forest) & (forest.parent >= 0))
