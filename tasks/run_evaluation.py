"""The steps of an evaluation: which there are, which one run consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from tasks.evaluation_report import READ, SUMMARIZE, observe, summarize_step
from tasks.resolve import RESOLVE, refuse_misfit
from tasks.steps import Context, Made, Step, make
from tasks.workspace import Workspace
from treepo.errors import UserError
from treepo.loading import load
from treepo.params import BenchmarkRunParams
from treepo.schemas import check_problems
from treepo.storage import read_table

SETTINGS = replace(RESOLVE, name="settings", reads=READ, params=BenchmarkRunParams)
STEPS = {
    step.name: step for step in (SETTINGS, POLICY_STEP, PROBLEMS_STEP, RESPOND, COLLECT, SUMMARIZE)
}


def evaluation_workspace(runs: Path, name: str) -> Workspace:
    """Where an evaluation lies: RUNS/evaluations/NAME."""
    return Workspace(runs, f"evaluations/{name}")


def resolve_evaluation(
    file: Path, workspace: Workspace, overrides: Sequence[str]
) -> BenchmarkRunParams:
    """Parameters of an evaluation; refused where made artifacts had others.

    Raises UserError before anything is written.
    """
    params = load(BenchmarkRunParams, file, overrides, "evaluation")
    if not params.benchmarks:
        raise UserError(f"{file}: benchmarks: names none")
    refuse_misfit(workspace, params, (SETTINGS.name, SUMMARIZE.name))
    return params


def steps_of(
    params: BenchmarkRunParams, workspace: Workspace, against: str | None
) -> dict[str, Step]:
    """The steps with the inputs that this evaluation has.

    Raises UserError where its policy, or the evaluation `against`, does not exist.
    """
    source = policy_artifact(params.policy, workspace)
    inputs = {
        PROBLEMS_STEP.name: (source, *training_data(params.policy, workspace)),
        RESPOND.name: (source, DATA),
    }
    bound = {name: _with_inputs(STEPS[name], names) for name, names in inputs.items()}
    steps = {**STEPS, **bound, SUMMARIZE.name: summarize_step(workspace, against)}
    if source != POLICY:
        del steps[POLICY_STEP.name]
    return steps


def _with_inputs(step: Step, names: tuple[str, ...]) -> Step:
    return replace(step, inputs=lambda _: names)


def batch_numbers(context: Context) -> dict[str, list[int]]:
    """The numbers of each benchmark's batches, in the order of the benchmarks."""
    problems = read_table(context.workspace.path(f"{DATA}/{PROBLEMS}"), check_problems)
    numbers: dict[str, list[int]] = {}
    for number, batch in enumerate(batches(problems, context.params.batch)):
        numbers.setdefault(batch["family"][0].as_py(), []).append(number)
    return numbers


def perform(step: Step, context: Context, iteration: int = 0) -> Made:
    """Make one step's artifacts, unless they are there."""
    observed = observe(context.lineage) if step.name == SUMMARIZE.name else None
    return make(step, context, iteration, observed)
