"""Step `update`: the next policy, and the account of the iteration that led to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tasks.account import advantage_metrics, reward_metrics, rollout_metrics
from tasks.steps import Job, Metrics, Step
from tasks.tables import outcomes, read_advantages, read_forest, read_scores
from tasks.workspace import of_iteration, policy
from treepo.advantages import informative, kept_trees
from treepo.batch import Batch
from treepo.forest import Forest
from treepo.logprobs import old_logprobs
from treepo.models import load_policy, save_policy
from treepo.params import ExperimentParams
from treepo.storage import write_text
from treepo.trainer import Trainer

PARTS = ("forest", "scores", "advantages")


def run(job: Job) -> Metrics:
    """Update the policy on the packed trees; write policy/NNNNNN and update.json."""
    k = job.iteration
    forest_file, scores_file, advantages_file = (
        job.inputs[of_iteration(k, f"{part}.parquet")] for part in PARTS
    )
    before = job.inputs[policy(k - 1)]
    forest = read_forest(forest_file)
    scores = read_scores(scores_file, forest)
    kept = kept_trees(forest, outcomes(scores), job.params.advantage)
    trees = np.flatnonzero(kept).tolist()
    batch = Batch(
        forest=forest,
        advantages=read_advantages(advantages_file, forest),
        trees=trees,
        temperature=job.params.sampling.temperature,
        token_limit=job.params.sampling.token_limit,
        reference=reference_logprobs(job, forest, trees),
    )
    chosen = job.resources.take_policy(before, job.params.engine.device)
    trainer = Trainer(chosen.model, job.params.update)
    trainer.load_state(before)
    update = trainer.update(batch, job.seed)
    folder = job.outputs[policy(k)]
    save_policy(chosen, folder)
    trainer.save_state(folder)
    job.resources.keep_policy(folder, chosen)
    metrics = {
        "iteration": float(k),
        **rollout_metrics(forest),
        **reward_metrics(scores, informative(forest, outcomes(scores)), kept),
        **advantage_metrics(forest, batch.advantages, trees),
        **{f"update/{name}": value for name, value in update.items()},
    }
    write_text(json.dumps(metrics, indent=1) + "\n", job.outputs[of_iteration(k, "update.json")])
    return metrics


def reference_logprobs(job: Job, forest: Forest, trees: list[int]) -> np.ndarray | None:
    """Logprobs of the forest's tokens under the KL's reference policy; None without a KL."""
    params = job.params.update
    if not params.kl_coefficient:
        return None
    folder = Path(params.reference) if params.reference else job.inputs[policy(0)]
    reference = load_policy(folder, job.params.engine.device).model
    budget, temperature = params.micro_batch_tokens, job.params.sampling.temperature
    return old_logprobs(reference, forest, trees, temperature, budget)


def asked(params: ExperimentParams) -> tuple[str, ...]:
    """The policy that RL starts from, where it is the KL's reference."""
    update = params.update
    return (policy(0),) if update.kl_coefficient and update.reference is None else ()


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
    asked=asked,
)
