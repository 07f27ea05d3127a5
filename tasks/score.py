"""Step `score`: a verdict for each trajectory of the forest."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tasks.responses import grade, read_answers, scores_table
from tasks.steps import Job, Metrics, Step
from tasks.tables import read_forest
from tasks.workspace import TRAIN, of_iteration, policy
from treepo.schemas import check_scores, check_scores_match
from treepo.storage import write_table


def run(job: Job) -> Metrics:
    """Decode, verify, write scores.parquet."""
    forest = read_forest(job.inputs[of_iteration(job.iteration, "forest.parquet")])
    chosen = job.resources.policy(job.inputs[policy(job.iteration - 1)], job.params.engine.device)
    answers = read_answers(job.inputs["data"] / "train.parquet")
    pool = job.resources.verifier(job.params.scoring)
    verdicts = grade(forest, chosen, answers, pool, TRAIN)
    name = of_iteration(job.iteration, "scores.parquet")
    table = check_scores(scores_table(forest, verdicts), name)
    write_table(check_scores_match(table, forest, name), job.output)
    components = {
        f"component/{name}": float(np.mean([verdict.components[name] for verdict in verdicts]))
        for name in job.params.scoring.weights
    }
    reasons = Counter(verdict.reason.split(":")[0] for verdict in verdicts if verdict.reason)
    return {
        "reward": float(np.mean([verdict.reward for verdict in verdicts])),
        **components,
        **{f"reason/{reason}": float(count) for reason, count in sorted(reasons.items())},
    }


SCORE = Step(
    name="score",
    description="verify every response",
    inputs=lambda k: ("data", policy(k - 1), of_iteration(k, "forest.parquet")),
    outputs=lambda k: (of_iteration(k, "scores.parquet"),),
    reads=("plugins", "scoring", "engine"),
    run=run,
)
