"""The account of an iteration: what was sampled, how it was judged, what credit it got."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tasks.steps import Metrics
from treepo.advantages import Advantages
from treepo.forest import Forest
from treepo.tree import FINISHES


def rollout_metrics(forest: Forest) -> Metrics:
    """What was sampled, and what the tree saved."""
    trajectory, row = forest.entries
    lengths = np.bincount(trajectory, forest.lengths[row], len(forest.leaves))
    reasons = forest.finish[forest.leaves]
    return {
        "rollout/trees": float(forest.trees),
        "rollout/trajectories": float(len(forest.leaves)),
        "rollout/sampled_tokens": float(forest.sampled_tokens),
        "rollout/trajectory_tokens": float(forest.trajectory_tokens),
        "rollout/response_length": float(lengths.mean()),
        "rollout/response_length_max": float(lengths.max()),
        "rollout/fallbacks": float(forest.restarted.sum()),
        "rollout/depth": float(forest.depth[forest.leaves].mean()),
        **{f"rollout/finish/{name}": float((reasons == name).mean()) for name in FINISHES},
    }


def reward_metrics(scores: pa.Table, informative: np.ndarray, kept: np.ndarray) -> Metrics:
    """What the verifier said. informative, kept: bool [trees]; the others are dropped."""
    return {
        "reward/mean": float(scores["reward"].to_numpy().mean()),
        "reward/correct": float(scores["correct"].to_numpy().mean()),
        "reward/informative_trees": float(informative.sum()),
        "reward/dropped_share": 1.0 - float(kept.mean()),
    }


def advantage_metrics(forest: Forest, advantages: Advantages, trees: list[int]) -> Metrics:
    """Moments over the segments of the trees that are learned from, in all and at each depth.

    group_size: mean number of trajectories through a node of that depth.
    """
    kept = np.isin(forest.tree[advantages.row], trees)
    value, depth = advantages.value[kept], forest.depth[advantages.row[kept]]
    if not len(value):
        return {"advantage/mean": 0.0, "advantage/std": 0.0, "advantage/zero_share": 1.0}
    metrics = {
        "advantage/mean": float(value.mean()),
        "advantage/std": float(value.std()),
        "advantage/min": float(value.min()),
        "advantage/max": float(value.max()),
        "advantage/zero_share": float((value == 0).mean()),
    }
    of_node = np.isin(forest.tree, trees)
    for level in range(1, int(depth.max()) + 1):
        here = value[depth == level]
        sizes = forest.leaf_counts[of_node & (forest.depth == level)]
        name = f"advantage/depth_{level:02}"
        metrics[f"{name}/mean"] = float(here.mean())
        metrics[f"{name}/std"] = float(here.std())
        metrics[f"{name}/group_size"] = float(sizes.mean())
    return metrics
