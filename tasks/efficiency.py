"""Step `measure` of `treepo efficiency`: one round, in which every arm has its turn.

A round is one artifact: its arms follow one another in one process, on the same prompts and the
same seed, so that quotients taken within it are fair. A stopped experiment loses a round at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from tasks.benchmarks import DATA, POLICY, PROBLEMS
from tasks.clocks import clocked
from tasks.evaluate import graded
from tasks.responses import read_prompts, refuse_too_long, sample
from tasks.steps import Job, Metrics, Step
from treepo.efficiency import Measurement, costs, expected_tokens
from treepo.engines.orders import TreeSampler
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.models import Policy
from treepo.params import EfficiencyParams, SamplingParams
from treepo.sampling import Prompt
from treepo.schemas import check_evaluation, check_problems
from treepo.schemas.efficiency import MEASUREMENTS_SCHEMA, check_arm_responses, check_measurements
from treepo.storage import read_table, write_table

SPEED = "trajectories_per_second"


def measurements(number: int) -> str:
    """What round `number`, from 1, has measured."""
    return f"measurements/{number:06d}.parquet"


def responses(number: int) -> str:
    """The graded responses of all arms in round `number`."""
    return f"responses/{number:06d}.parquet"


@dataclass(frozen=True)
class Round:
    """What all arms of a round share."""

    job: Job
    folder: Path
    policy: Policy
    problems: pa.Table
    prompts: list[Prompt]

    def sampled(
        self, name: str, sampling: SamplingParams, place: int
    ) -> tuple[Forest, Measurement]:
        """Sample every problem's tree once, against the clock."""
        number = self.job.iteration
        # No arm may find what another one has computed.
        sampler = self._sampler(sampling, f" {number} {name}")
        with clocked(self.job.params.engine) as spent:
            trees = sample(sampler, self.policy, self.prompts, sampling, self.job.seed, {})
        forest, counts = Forest.from_trees(trees), sampler.stats()
        return forest, Measurement(
            round=number,
            place=place,
            arm=name,
            problems=len(self.prompts),
            trajectories=len(forest.leaves),
            trajectory_tokens=forest.trajectory_tokens,
            sampled_tokens=forest.sampled_tokens,
            prefill_tokens=counts.prefill_tokens,
            context_tokens=counts.context_tokens,
            forward_calls=counts.forward_calls,
            peak_bytes=counts.peak_bytes,
            wall_seconds=spent.wall,
            device_seconds=spent.device,
            tokens_of_k=expected_tokens(forest),
        )

    def warm_up(self, sampling: SamplingParams) -> None:
        """Sample one problem off the record: the first to run also pays for what is made once."""
        prompts, seed = self.prompts[:1], self.job.seed
        sample(self._sampler(sampling, ""), self.policy, prompts, sampling, seed, {})

    def _sampler(self, sampling: SamplingParams, freshness: str) -> TreeSampler:
        params = self.job.params
        resources = self.job.resources
        return resources.trees(self.folder, params.engine, sampling, params.scoring, freshness)

    def graded(self, name: str, forest: Forest) -> pa.Table:
        """The arm's responses with their verdicts."""
        pool = self.job.resources.verifier(self.job.params.scoring)
        table = graded(forest, self.policy, self.problems, pool)
        table = check_evaluation(table, responses(self.job.iteration))
        return table.add_column(0, "arm", pa.array([name] * table.num_rows, pa.string()))


def run(job: Job) -> Metrics:
    """Write what every arm took, and its graded responses."""
    current = _opened(job)
    arms = {name: arm.sampling for name, arm in job.params.arms.items()}
    for name, sampling in arms.items():
        try:
            refuse_too_long(current.policy, current.prompts, sampling)
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from None
    current.warm_up(next(iter(arms.values())))
    measured: list[Measurement] = []
    tables: list[pa.Table] = []
    for place, name in enumerate(turns(arms, job.iteration)):
        forest, one = current.sampled(name, arms[name], place)
        measured.append(one)
        tables.append(current.graded(name, forest))
    table = pa.Table.from_pylist([asdict(one) for one in measured], schema=MEASUREMENTS_SCHEMA)
    first, second = measurements(job.iteration), responses(job.iteration)
    write_table(check_measurements(table, first), job.outputs[first])
    write_table(check_arm_responses(pa.concat_tables(tables), second), job.outputs[second])
    return {f"{SPEED}/{one.arm}": costs(one)[SPEED] for one in measured}


def turns(arms: Iterable[str], number: int) -> list[str]:
    """The arms in the order of round `number`: there in odd rounds, and back in even ones.

    What changes steadily while rounds go by, such as the processor's heat, so favours no arm.
    """
    names = list(arms)
    return names if number % 2 else names[::-1]


def _opened(job: Job) -> Round:
    source, data = job.inputs.values()
    problems = data / PROBLEMS
    policy = job.resources.policy(source, job.params.engine.device)
    return Round(job, source, policy, read_table(problems, check_problems), read_prompts(problems))


MEASURE = Step(
    name="measure",
    description="one round: every arm samples the same prompts in turn",
    inputs=lambda _: (POLICY, DATA),
    outputs=lambda number: (measurements(number), responses(number)),
    reads=("plugins", "arms", "engine", "scoring"),
    run=run,
    params=EfficiencyParams,
)
