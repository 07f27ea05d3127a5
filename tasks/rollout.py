"""Step `rollout`: the forest of one iteration, sampled by the policy before it or an older one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from tasks.machine import MEBIBYTE
from tasks.responses import grade, read_answers, read_prompts, sample
from tasks.salvage import salvaged
from tasks.steps import Job, Metrics, Step
from tasks.workspace import TRAIN, of_iteration, policy
from treepo.advantages import informative
from treepo.forest import Forest
from treepo.params import RolloutParams
from treepo.sampling import Prompt
from treepo.schemas import check_forest
from treepo.seeds import derive
from treepo.storage import write_table
from treepo.tree import Tree

CACHE = "cache_mebibytes"  # most memory of keys and values; 0 where the engine does not tell


def run(job: Job) -> Metrics:
    """Sample one tree a prompt; ask for more where the query filter would leave too few.

    The forest keeps every tree: what is left out later is part of the account.
    """
    folder = job.inputs[sampled_by(job.iteration, job.params.rollout)]
    with salvaged(job) as finished:
        trees, held = _informative_trees(job, folder, finished)
    forest = Forest.from_trees(trees)
    name = of_iteration(job.iteration, "forest.parquet")
    write_table(check_forest(forest.to_arrow(), name), job.output)
    return {
        "trees": float(forest.trees),
        "sampled_tokens": float(forest.sampled_tokens),
        CACHE: held / MEBIBYTE,
    }


def _informative_trees(
    job: Job, folder: Path, finished: dict[str, Tree]
) -> tuple[list[Tree], float]:
    """Trees of as many rounds as it takes, or as are allowed; most bytes of keys and values."""
    params = job.params.rollout
    chosen = job.resources.policy(folder, job.params.engine.device)
    source = prompt_order(read_prompts(job.inputs["data"] / "train.parquet"), job)
    answers = read_answers(job.inputs["data"] / "train.parquet")
    pool = job.resources.verifier(job.params.scoring)
    sampling = job.params.sampling.at(job.iteration)
    sampler = job.resources.trees(folder, job.params.engine, sampling, job.params.scoring)
    trees: list[Tree] = []
    missing = params.prompts
    for _ in range(1 + params.refill_rounds):
        prompts = list(islice(source, missing))
        new = sample(sampler, chosen, prompts, sampling, job.seed, finished, answers)
        trees += new
        if not (params.refill_rounds and job.params.advantage.query_filter):
            break
        forest = Forest.from_trees(new)
        verdicts = grade(forest, chosen, answers, pool, TRAIN)
        outcome = np.array([verdict.correct for verdict in verdicts])
        missing -= int(informative(forest, outcome).sum())
        if missing <= 0:
            break
    return trees, sampler.stats().peak_bytes


def prompt_order(prompts: Sequence[Prompt], job: Job) -> Iterator[Prompt]:
    """The iteration's prompts, then those for refills: no prompt twice in an iteration.

    Iterations walk through the data in an order drawn anew for each pass over it.
    """
    count, size = len(prompts), job.params.rollout.prompts
    first = (job.iteration - 1) * size
    passes = range(first // count, (first + size - 1) // count + 1)
    order = np.concatenate([_shuffled(count, job.params.seed, number) for number in passes])
    own = order[first - passes.start * count :][:size]
    spare = _shuffled(count, job.seed, 0)
    return (prompts[index] for index in dict.fromkeys([*own.tolist(), *spare.tolist()]))


def _shuffled(count: int, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(derive(seed, "prompts", number)).permutation(count)


def sampled_by(iteration: int, params: RolloutParams) -> str:
    """The policy that samples an iteration."""
    return policy(max(0, iteration - 1 - params.staleness))


ROLLOUT = Step(
    name="rollout",
    description="sample a tree for each prompt",
    inputs=lambda _: ("data",),
    asked=lambda k, params: (sampled_by(k, params.rollout),),
    outputs=lambda k: (of_iteration(k, "forest.parquet"),),
    reads=("plugins", "sampling", "rollout", "engine", "scoring", "advantage"),
    run=run,
)
