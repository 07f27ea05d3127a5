"""Advantages: from the rewards of a forest's leaves to one number a segment and trajectory.

Pure functions of (forest structure, rewards); DESIGN section 6, paper section 2.3. An estimator
returns one value a trajectory, which every segment of its path gets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.registry import Registry
from treepo.schemas import ADVANTAGES_SCHEMA

Array = np.ndarray
EPSILON = 1e-8

Estimator = Callable[[Forest, Array], Array]
ESTIMATORS: Registry[Estimator] = Registry("advantage.estimator")


@dataclass(frozen=True)
class Advantages:
    """One entry a node of a trajectory, trajectories in the order of `Forest.leaves`.

    trajectory, row: int64 [entries], index of the trajectory and row of the node in the forest;
    value: float64 [entries].
    """

    trajectory: Array
    row: Array
    value: Array

    def to_arrow(self, forest: Forest, estimator: str) -> pa.Table:
        """The table of DESIGN section 3: one row a trajectory, zeros where a tree was left out."""
        counts = np.bincount(self.trajectory, minlength=len(forest.leaves))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        columns = [
            pa.array(forest.tree[forest.leaves], pa.int32()),
            pa.array(forest.node[forest.leaves], pa.int32()),
            pa.ListArray.from_arrays(offsets, pa.array(forest.node[self.row], pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array(self.value, pa.float32())),
            pa.array([estimator] * len(forest.leaves), pa.string()),
        ]
        return pa.table(columns, schema=ADVANTAGES_SCHEMA)

    def of_nodes(self, forest: Forest) -> tuple[Array, Array]:
        """P and Q, float64 [rows]: sums of positive and of negative advantages through a node."""
        positive, negative = np.zeros(len(forest)), np.zeros(len(forest))
        np.add.at(positive, self.row, np.maximum(self.value, 0))
        np.add.at(negative, self.row, np.minimum(self.value, 0))
        return positive, negative

    @staticmethod
    def from_arrow(table: pa.Table, forest: Forest) -> Advantages:
        """Read back what `to_arrow` wrote; the table must match the forest (see schemas)."""
        trajectory, row = entries(forest)
        value = pc.list_flatten(table["advantage"].combine_chunks()).to_numpy()
        return Advantages(trajectory, row, value.astype(np.float64))


def entries(forest: Forest) -> tuple[Array, Array]:
    """(trajectory, row) of every node of every trajectory, top down: int64 [entries] each."""
    counts = np.array([len(path) for path in forest.paths], dtype=np.int64)
    rows = np.concatenate(forest.paths) if len(counts) else np.zeros(0, dtype=np.int64)
    return np.repeat(np.arange(len(counts)), counts), rows


def compute(forest: Forest, rewards: Array, params: AdvantageParams) -> Advantages:
    """Estimate, leave out uninformative trees where asked, normalise over the rest.

    rewards: float64 [trajectories], in the order of `forest.leaves`.
    Raises UserError where the estimator's name is unknown.
    """
    estimate = ESTIMATORS.get(params.estimator)
    trajectory, row = entries(forest)
    value = estimate(forest, rewards)[trajectory]
    kept = np.ones(len(trajectory), dtype=bool)
    if params.query_filter:
        kept = informative(forest, rewards)[forest.tree[forest.leaves]][trajectory]
    weight = {
        "tokens": (forest.lengths * forest.sampled)[row],
        "trajectories": 1 / np.maximum(1, np.bincount(trajectory))[trajectory],
        "none": None,
    }[params.normalization]
    value = np.where(kept, value, 0.0)
    if weight is not None:
        value = whiten(value, weight * kept)
    return Advantages(trajectory, row, np.where(kept, value, 0.0))


def whiten(value: Array, weight: Array) -> Array:
    """Zero mean and unit standard deviation (population) under `weight`, as in REINFORCE++."""
    total = weight.sum()
    if total == 0:
        return value
    centred = value - (value * weight).sum() / total
    return centred / (np.sqrt((centred**2 * weight).sum() / total) + EPSILON)


def informative(forest: Forest, rewards: Array) -> Array:
    """Whether a tree's rewards differ at all: bool [trees] (query filter of DAPO)."""
    tree = forest.tree[forest.leaves]
    low, high = np.full(forest.trees, np.inf), np.full(forest.trees, -np.inf)
    np.minimum.at(low, tree, rewards)
    np.maximum.at(high, tree, rewards)
    return high > low


def group_means(forest: Forest, rewards: Array) -> Array:
    """Mean reward of the leaves at or below each node: float64 [rows]."""
    total = np.zeros(len(forest))
    total[forest.leaves] = rewards
    return forest.sum_up(total) / np.maximum(forest.leaf_counts, 1)


@ESTIMATORS.register("treepo")
def treepo(forest: Forest, rewards: Array) -> Array:
    """Eq. 5: A_i = mean over j of (R_i - mean R over G_j(i)), float64 [trajectories].

    G_j(i) holds the leaves below trajectory i's ancestor at depth j. Groups of one are skipped,
    except that the root's group always counts.

    Example: a root forks into a leaf (reward 0) and a node with two leaves (1 and 0). The root's
    group has mean 1/3, the node's 1/2: A = -1/3; ((1 - 1/3) + (1 - 1/2)) / 2 = 7/12;
    ((0 - 1/3) + (0 - 1/2)) / 2 = -5/12.
    """
    means = group_means(forest, rewards)
    counted = (forest.leaf_counts > 1) | (forest.parent < 0)
    baseline = forest.sum_down(np.where(counted, means, 0.0))
    groups = forest.sum_down(counted.astype(np.float64))
    return rewards - (baseline / groups)[forest.leaves]


@ESTIMATORS.register("grpo")
def grpo(forest: Forest, rewards: Array) -> Array:
    """Reward standardised within its tree (population std; 0 where that is 0).

    Example: rewards 1, 0, 0, 0 have mean 1/4 and std sqrt(3)/4: A = sqrt(3), and -1/sqrt(3) thrice.
    """
    tree = forest.tree[forest.leaves]
    count = np.maximum(np.bincount(tree, minlength=forest.trees), 1)
    centred = rewards - (np.bincount(tree, rewards, forest.trees) / count)[tree]
    std = np.sqrt(np.bincount(tree, centred**2, forest.trees) / count)[tree]
    differs = informative(forest, rewards)[tree] & (std > 0)
    return np.where(differs, centred / np.where(differs, std, 1.0), 0.0)
