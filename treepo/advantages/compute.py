"""The advantages of a forest: estimate, leave out uninformative trees, normalise over the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from treepo.advantages.groups import informative
from treepo.advantages.registry import ESTIMATORS
from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.schemas import ADVANTAGES_SCHEMA

Array = np.ndarray
EPSILON = 1e-8


@dataclass(frozen=True)
class Advantages:
    """One entry a node of a trajectory, as in `Forest.entries`.

    trajectory, row: int64 [entries], index of the trajectory and row of the node in the forest;
    value: float64 [entries].
    """

    trajectory: Array
    row: Array
    value: Array

    def to_arrow(self, forest: Forest, estimator: str) -> pa.Table:
        """The table `advantages.parquet`: one row a trajectory, zeros where a tree was left out."""
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

    @staticmethod
    def from_arrow(table: pa.Table, forest: Forest) -> Advantages:
        """Read back what `to_arrow` wrote; the table must match the forest (see schemas)."""
        value = pc.list_flatten(table["advantage"].combine_chunks()).to_numpy()
        return Advantages(*forest.entries, value.astype(np.float64))


def compute(forest: Forest, rewards: Array, outcome: Array, params: AdvantageParams) -> Advantages:
    """Estimate, leave out uninformative trees where asked, normalise over the rest.

    rewards: float64 [trajectories], in the order of `Forest.leaves`; outcome: the same, what the
    verifier said before any shaping, by which the query filter judges a tree.
    Raises UserError where the estimator's name is unknown.
    """
    estimate = ESTIMATORS.get(params.estimator)
    trajectory, row = forest.entries
    kept = kept_trees(forest, outcome, params)[forest.tree[row]]
    weight = {
        "tokens": forest.sampled_lengths[row],
        "trajectories": 1 / np.maximum(1, np.bincount(trajectory))[trajectory],
        "none": None,
    }[params.normalization]
    value = np.where(kept, estimate(forest, rewards, params), 0.0)
    if weight is not None:
        value = np.where(kept, whiten(value, weight * kept), 0.0)
    return Advantages(trajectory, row, value)


def kept_trees(forest: Forest, outcome: Array, params: AdvantageParams) -> Array:
    """The trees that are learned from: bool [trees]; see `compute` for the outcome."""
    return informative(forest, outcome) | (not params.query_filter)


def whiten(value: Array, weight: Array) -> Array:
    """Zero mean and unit standard deviation (population) under `weight`, as in REINFORCE++."""
    total = weight.sum()
    if total == 0:
        return value
    centred = value - (value * weight).sum() / total
    return centred / (np.sqrt((centred**2 * weight).sum() / total) + EPSILON)
