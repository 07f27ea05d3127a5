"""Step `evaluate`: graded responses of one policy to the held-out problems."""

from __future__ import annotations

import pyarrow as pa

from tasks.responses import grade, read_answers, read_prompts, sample
from tasks.salvage import salvaged
from tasks.steps import Job, Metrics, Step
from tasks.tables import table_of
from tasks.workspace import HELDOUT, evaluation, policy
from treepo.evaluation import summarize
from treepo.forest import Forest
from treepo.models import Policy
from treepo.params import SamplingParams
from treepo.schemas import EVALUATION_SCHEMA, check_evaluation
from treepo.scoring import Verdict
from treepo.storage import write_table


def run(job: Job) -> Metrics:
    """Sample k independent responses a problem, grade them, write one row each."""
    params = job.params.evaluation
    folder = job.inputs[policy(job.iteration)]
    chosen = job.resources.policy(folder, job.params.engine.device)
    engine = job.resources.engine(folder, job.params.engine, params.temperature)
    path = job.inputs["data"] / "heldout.parquet"
    sampling = SamplingParams.sequential(params.samples, params.max_tokens, params.temperature)
    with salvaged(job, folder, sampling) as finished:
        trees = sample(engine, chosen, read_prompts(path), sampling, job.seed, finished)
    forest = Forest.from_trees(trees)
    pool = job.resources.verifier(job.params.scoring)
    verdicts = grade(forest, chosen, read_answers(path), pool, HELDOUT)
    table = evaluation_table(forest, verdicts, chosen)
    write_table(check_evaluation(table, evaluation(job.iteration)), job.output)
    return summarize(table, job.params.seed)


def evaluation_table(forest: Forest, verdicts: list[Verdict], chosen: Policy) -> pa.Table:
    """One row a response."""
    responses = forest.responses()
    leaves = forest.leaves
    columns = [
        forest.prompt_id[leaves],
        forest.node[leaves] - 1,
        [chosen.decode(tokens) for tokens in responses],
        [len(tokens) for tokens in responses],
        forest.finish[leaves],
        [verdict.reward for verdict in verdicts],
        [verdict.correct for verdict in verdicts],
        [verdict.answer for verdict in verdicts],
    ]
    return table_of(EVALUATION_SCHEMA, columns)


EVALUATE = Step(
    name="evaluate",
    description="held-out accuracy of one policy",
    inputs=lambda k: ("data", policy(k)),
    outputs=lambda k: (evaluation(k),),
    reads=("evaluation", "engine", "scoring"),
    run=run,
)
