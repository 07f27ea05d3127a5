"""Step `update`: the next policy, and the account of the iteration that led to it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from tasks.steps import Job, Metrics, Step
from tasks.tables import outcomes, read_advantages, read_forest, read_scores
from tasks.workspace import of_iteration, policy
from treepo.advantages import Advantages, kept_trees
from treepo.forest import Forest
from treepo.models import save_policy
from treepo.storage import write_text
from treepo.trainer import Batch, Trainer
from treepo.tree import FINISHES

PARTS = ("forest", "scores", "advantages")


def run(job: Job) -> Metrics:
    """Update the policy on the packed trees; write policy/NNNNNN and update.json."""
    k = job.iteration
    names = [of_iteration(k, f"{part}.parquet") for part in PARTS]
    forest_file, scores_file, advantages_file = (job.inputs[name] for name in names)
    before = job.inputs[policy(k - 1)]
    forest = read_forest(forest_file)
    scores = read_scores(scores_file, forest)
    advantages = read_advantages(advantages_file, forest)
    kept = kept_trees(forest, outcomes(scores), job.params.advantage)
    chosen = job.resources.take_policy(before, job.params.engine.device)
    trainer = Trainer(chosen.model, job.params.update)
    trainer.load_state(before)
    batch = Batch(
        forest=forest,
        advantages=advantages,
        trees=np.flatnonzero(kept).tolist(),
        temperature=job.params.sampling.temperature,
    )
    update = trainer.update(batch, job.seed)
    folder = job.outputs[policy(k)]
    save_policy(chosen, folder)
    trainer.save_state(folder)
    job.resources.keep_policy(folder, chosen)
    metrics = {
        "iteration": float(k),
        **rollout_metrics(forest),
        **reward_metrics(forest, scores, len(batch.trees)),
        **advantage_metrics(forest, advantages, batch.trees),
        **{f"update/{name}": value for name, value in update.items()},
    }
    write_text(json.dumps(metrics, indent=1) + "\n", job.outputs[of_iteration(k, "update.json")])
    return metrics


def rollout_metrics(forest: Forest) -> Metrics:
    """What was sampled, and what the tree saved."""
    lengths = np.array([len(tokens) for tokens in forest.responses()])
    reasons = forest.finish[forest.leaves]
    return {
        "rollout/trees": float(forest.trees),
        "rollout/trajectories": float(len(forest.leaves)),
        "rollout/sampled_tokens": float(forest.sampled_tokens),
        "rollout/trajectory_tokens": float(forest.trajectory_tokens),
        "rollout/response_length": float(lengths.mean()),
        "rollout/depth": float(forest.depth[forest.leaves].mean()),
        **{f"rollout/finish/{name}": float((reasons == name).mean()) for name in FINISHES},
    }


def reward_metrics(forest: Forest, scores: pa.Table, informative: int) -> Metrics:
    """What the verifier said."""
    return {
        "reward/mean": float(scores["reward"].to_numpy().mean()),
        "reward/correct": float(scores["correct"].to_numpy().mean()),
        "reward/informative_trees": float(informative),
        "reward/dropped_share": 1.0 - informative / max(1, forest.trees),
    }


def advantage_metrics(forest: Forest, advantages: Advantages, trees: list[int]) -> Metrics:
    """Moments over the segments of the trees that are learned from."""
    values = advantages.value[np.isin(forest.tree[advantages.row], trees)]
    if not len(values):
        return {"advantage/mean": 0.0, "advantage/std": 0.0}
    return {
        "advantage/mean": float(values.mean()),
        "advantage/std": float(values.std()),
        "advantage/min": float(values.min()),
        "advantage/max": float(values.max()),
    }


UPDATE = Step(
    name="update",
    description="train the policy on the packed trees",
    inputs=lambda k: (
        policy(k - 1),
        *(of_iteration(k, f"{part}.parquet") for part in PARTS),
    ),
    outputs=lambda k: (policy(k), of_iteration(k, "update.json")),
    reads=("update", "advantage", "sampling", "engine"),
    run=run,
)
