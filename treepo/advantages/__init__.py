"""Advantages: from the rewards of a forest's leaves to one number a segment and trajectory.

Pure functions of (forest structure, rewards); paper section 2.3. One file a
family of estimators; `compute` filters and normalises what they give. Knows no files, no model.
"""

from treepo.advantages import flat, nested, segments
from treepo.advantages.compute import EPSILON, Advantages, compute, kept_trees, whiten
from treepo.advantages.groups import group_means, informative
from treepo.advantages.registry import ESTIMATORS, Estimator, of_nodes, of_trajectories

__all__ = [
    "EPSILON",
    "ESTIMATORS",
    "Advantages",
    "Estimator",
    "compute",
    "flat",
    "group_means",
    "informative",
    "kept_trees",
    "nested",
    "of_nodes",
    "of_trajectories",
    "segments",
    "whiten",
]
