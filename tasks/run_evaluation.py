"""The steps of an evaluation: which there are, which one run consists of."""

from __future__ import annotations

from dataclasses import replace

from tasks.benchmarks import (
    COLLECT,
    DATA,
    POLICY,
    POLICY_STEP,
    PROBLEMS,
    PROBLEMS_STEP,
    RESPOND,
    batches,
    policy_artifact,
    training_data,
)
from tasks.evaluation_report import READ, SUMMARIZE, summarize_step
from tasks.kind import Kind
from tasks.resolve import RESOLVE
from tasks.steps import Context, Step
from tasks.workspace import Workspace
from treepo.params import BenchmarkRunParams
from treepo.schemas import check_problems
from treepo.storage import read_table

SETTINGS = replace(RESOLVE, name="settings", reads=READ, params=BenchmarkRunParams)
STEPS = {
    step.name: step for step in (SETTINGS, POLICY_STEP, PROBLEMS_STEP, RESPOND, COLLECT, SUMMARIZE)
}
EVALUATION = Kind(BenchmarkRunParams, STEPS)


def steps_of(
    params: BenchmarkRunParams, workspace: Workspace, against: str | None
) -> dict[str, Step]:
    """The steps with the inputs that this evaluation has.

    Raises UserError where its policy, or the evaluation `against`, does not exist.
    """
    source = policy_artifact(params.policy, workspace)
    steps = EVALUATION.bound(
        {
            PROBLEMS_STEP.name: (source, *training_data(params.policy, workspace)),
            RESPOND.name: (source, DATA),
        }
    )
    steps[SUMMARIZE.name] = summarize_step(workspace, against)
    if source != POLICY:
        del steps[POLICY_STEP.name]
    return steps


def batch_numbers(context: Context) -> dict[str, list[int]]:
    """The numbers of each benchmark's batches, in the order of the benchmarks."""
    problems = read_table(context.workspace.path(f"{DATA}/{PROBLEMS}"), check_problems)
    numbers: dict[str, list[int]] = {}
    for number, batch in enumerate(batches(problems, context.params.batch)):
        numbers.setdefault(batch["family"][0].as_py(), []).append(number)
    return numbers
