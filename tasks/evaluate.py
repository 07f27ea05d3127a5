"""Graded responses: of one policy to problems, one row each; step `evaluate` on the held-out ones.

Benchmarks (`tasks.benchmarks`) take the same way from problems to graded responses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.responses import grade, sample
from tasks.salvage import salvaged
from tasks.steps import Job, Metrics, Step
from tasks.tables import table_of
from tasks.workspace import HELDOUT, evaluation, policy
from treepo.evaluation import group_answers, summarize
from treepo.forest import Forest
from treepo.models import Policy
from treepo.sampling import Prompt
from treepo.schemas import EVALUATION_SCHEMA, check_evaluation, check_problems
from treepo.scoring import Verdict, VerifierPool
from treepo.storage import read_table, write_table


def run(job: Job) -> Metrics:
    """Sample n responses a problem, grade them, write one row each."""
    problems = read_table(job.inputs["data"] / "heldout.parquet", check_problems)
    table, seconds = respond(job, job.inputs[policy(job.iteration)], problems, job.seed)
    write_table(check_evaluation(table, evaluation(job.iteration)), job.output)
    figures = summarize(table, job.params.seed, job.params.evaluation.k)
    return {**figures, "device_seconds": seconds}


def respond(job: Job, folder: Path, problems: pa.Table, seed: int) -> tuple[pa.Table, float]:
    """Graded responses of the policy in `folder` (EVALUATION_SCHEMA), and the engine's seconds.

    Reads the sections evaluation, engine and scoring. A problem's responses depend on `seed` and
    on the problem alone, up to rounding.
    """
    ids = problems["prompt_id"].to_pylist()
    prompts = list(map(Prompt, ids, problems["prompt_tokens"].to_pylist()))
    chosen = job.resources.policy(folder, job.params.engine.device)
    sampling = job.params.evaluation.sampling
    sampler = job.resources.trees(folder, job.params.engine, sampling, job.params.scoring)
    started = time.perf_counter()
    with salvaged(job) as finished:
        trees = sample(sampler, chosen, prompts, sampling, seed, finished)
    seconds = time.perf_counter() - started
    pool = job.resources.verifier(job.params.scoring)
    return graded(Forest.from_trees(trees), chosen, problems, pool), seconds


def graded(forest: Forest, chosen: Policy, problems: pa.Table, pool: VerifierPool) -> pa.Table:
    """One row a response (EVALUATION_SCHEMA), with its verdict and the class of its answer."""
    ids = problems["prompt_id"].to_pylist()
    answers = dict(zip(ids, problems["answer"].to_pylist(), strict=True))
    verdicts = grade(forest, chosen, answers, pool, HELDOUT)
    groups = group_answers(
        forest.prompt_id[forest.leaves].tolist(),
        [verdict.answer for verdict in verdicts],
        [verdict.correct for verdict in verdicts],
        pool.same,
    )
    benchmarks = dict(zip(ids, problems["family"].to_pylist(), strict=True))
    return evaluation_table(forest, verdicts, groups, chosen, benchmarks)


def evaluation_table(
    forest: Forest,
    verdicts: Sequence[Verdict],
    groups: Sequence[int],
    chosen: Policy,
    benchmarks: dict[str, str],
) -> pa.Table:
    """One row a response; `benchmarks`: of each prompt_id."""
    responses = forest.responses()
    leaves, ids = forest.leaves, forest.prompt_id[forest.leaves]
    tree = forest.tree[leaves]
    columns = [
        [benchmarks[name] for name in ids],
        ids,
        np.arange(len(leaves)) - np.searchsorted(tree, tree),
        [chosen.decode(tokens) for tokens in responses],
        [len(tokens) for tokens in responses],
        new_tokens(forest),
        forest.finish[leaves],
        [verdict.reward for verdict in verdicts],
        [verdict.correct for verdict in verdicts],
        [verdict.answer for verdict in verdicts],
        groups,
    ]
    return table_of(EVALUATION_SCHEMA, columns)


def new_tokens(forest: Forest) -> list[int]:
    """Tokens of each trajectory that no earlier one holds; their sum is what was sampled."""
    seen = np.zeros(len(forest), dtype=bool)
    counts: list[int] = []
    for path in forest.paths:
        counts.append(int(forest.lengths[path[~seen[path]]].sum()))
        seen[path] = True
    return counts


EVALUATE = Step(
    name="evaluate",
    description="held-out accuracy of one policy",
    inputs=lambda k: ("data", policy(k)),
    outputs=lambda k: (evaluation(k),),
    reads=("plugins", "evaluation", "engine", "scoring"),
    run=run,
)
