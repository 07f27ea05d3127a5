"""Step `warm_up`: the policy that RL starts from."""

from __future__ import annotations

import logging

from tasks.steps import Job, Metrics, Step
from tasks.workspace import policy
from treepo.errors import UserError
from treepo.models import initial_policy, save_policy
from treepo.schemas import check_problems
from treepo.storage import read_table
from treepo.warm_up import examples, warm_up

log = logging.getLogger(__name__)
LOG_EVERY = 50


def run(job: Job) -> Metrics:
    """Load or make the model, train it on the worked solutions, write policy/000000."""
    chosen = initial_policy(job.params.model, job.seed)
    params = job.params.warm_up
    metrics: Metrics = {}
    if params.steps:
        table = read_table(job.inputs["data"] / "train.parquet", check_problems)
        rows = table.select(["prompt_tokens", "solution", "answer"]).to_pylist()
        pairs = examples(rows, chosen.tokenizer, min(chosen.eos), params, job.seed)
        if not pairs:
            raise UserError(
                "warm_up.steps: no problem has a worked solution; set it to 0, or give the data "
                "a column 'solution'"
            )
        for step, metrics in enumerate(warm_up(chosen, pairs, params, job.seed), 1):
            if step % LOG_EVERY == 0 or step == params.steps:
                log.info("warm-up %d/%d, loss %.3f nats", step, params.steps, metrics["loss"])
    save_policy(chosen, job.output)
    return metrics


WARM_UP = Step(
    name="warm_up",
    description="the policy that RL starts from, trained on worked solutions where asked",
    inputs=lambda _: ("data",),
    outputs=lambda _: (policy(0),),
    reads=("model", "warm_up"),
    run=run,
)
