"""Step `advantage`: from scores to one advantage a segment and trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.steps import Job, Metrics, Step
from tasks.tables import outcomes, read_forest, read_scores
from tasks.workspace import of_iteration
from treepo.advantages import compute
from treepo.params import AdvantageParams
from treepo.schemas import check_advantages
from treepo.storage import write_table


def estimate(
    forest_file: Path, scores_file: Path, output: Path, params: AdvantageParams
) -> Metrics:
    """Read forest and scores, write the advantages."""
    forest = read_forest(forest_file)
    scores = read_scores(scores_file, forest)
    rewards = scores["reward"].to_numpy()
    advantages = compute(forest, rewards, outcomes(scores), params)
    write_table(
        check_advantages(advantages.to_arrow(forest, params.estimator), str(output)), output
    )
    values = advantages.value
    return {"mean_absolute": float(np.abs(values).mean()) if len(values) else 0.0}


def run(job: Job) -> Metrics:
    """Write advantages.parquet."""
    files = (job.inputs[of_iteration(job.iteration, f"{p}.parquet")] for p in ("forest", "scores"))
    return estimate(*files, job.output, job.params.advantage)


ADVANTAGE = Step(
    name="advantage",
    description="segment advantages from the tree's nested groups",
    inputs=lambda k: (of_iteration(k, "forest.parquet"), of_iteration(k, "scores.parquet")),
    outputs=lambda k: (of_iteration(k, "advantages.parquet"),),
    reads=("plugins", "advantage"),
    run=run,
)
