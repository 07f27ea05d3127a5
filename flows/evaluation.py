"""The flow `evaluation`: policy -> problems -> responses, a batch at a time -> scores and page.

One Prefect task a step, and one a benchmark for its responses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefect import flow

from flows.experiment import PARAMS_FOLDER
from flows.notification import notify
from flows.parameters import Name, Overrides, Runs, runs_folder
from flows.pick_up import pick_up
from flows.progress import Progress
from flows.running import call, on_page, step_task, tracked, version
from tasks.benchmarks import COLLECT, DATA, OVERLAP, POLICY_STEP, PROBLEMS_STEP, RESPOND
from tasks.evaluation_report import SUMMARIZE
from tasks.run import opened
from tasks.run_evaluation import (
    SETTINGS,
    STEPS,
    batch_numbers,
    evaluation_workspace,
    perform,
    resolve_evaluation,
    steps_of,
)
from tasks.steps import Context, Made, Step
from tasks.tracking import Tracker
from tasks.workspace import METRICS, REPORT
from treepo.evaluation import OVERALL

FOLDER = PARAMS_FOLDER / "evaluations"


@dataclass(frozen=True)
class Running:
    """What the tasks of one evaluation share; they find it by its folder."""

    context: Context
    steps: Mapping[str, Step]
    progress: Progress


_running: dict[str, Running] = {}


def _run_step(step: str, folder: str, iteration: int) -> Made:
    """Make the artifacts of one step, or find that they are there."""
    running = _running[folder]
    return perform(running.steps[step], running.context, iteration)


def _respond(folder: str, benchmark: str, batches: Sequence[int], total: int) -> int:
    """Make one benchmark's batches; returns how many were there already."""
    running = _running[folder]
    found = 0
    for number in batches:
        made = perform(running.steps[RESPOND.name], running.context, number)
        found += not made.fresh
        running.progress.advance(total)
    return found


TASKS = {name: step_task(_run_step, step, name, retried=False) for name, step in STEPS.items()}
RESPOND_TASK = step_task(_respond, RESPOND, "respond {benchmark}", retried=True)


@flow(
    name="evaluation",
    flow_run_name="{name}",
    description="Evaluate a policy on benchmarks; resumes where it stood.",
    persist_result=False,
    on_failure=[notify],
    on_crashed=[notify],
)
def evaluation(
    name: Name, runs: Runs = "runs", overrides: Overrides = None, against: str | None = None
) -> None:
    """Run or resume an evaluation.

    Args:
        name: the evaluation: params/evaluations/NAME.yaml
        runs: folder of all runs; {date} stands for the day that the run was scheduled for
        overrides: parameters of the evaluation to set, key=value, such as evaluation.samples=8
        against: name of another evaluation in the same folder, to compare with
    """
    pick_up()
    workspace = evaluation_workspace(runs_folder(runs), name)
    params = resolve_evaluation(FOLDER / f"{name}.yaml", workspace, overrides or ())
    steps = steps_of(params, workspace, against)
    folder = str(workspace.root)
    with (
        opened(workspace, params) as context,
        tracked(context) as (context, tracker),
        on_page(context, tracker),
        Progress(len(params.benchmarks), "batches") as progress,
    ):
        _running[folder] = Running(context, steps, progress)
        try:
            _pipeline(folder, tracker)
        finally:
            del _running[folder]
        version(workspace, "evaluations", name)


def _pipeline(folder: str, tracker: Tracker) -> None:
    """All steps in order."""
    running = _running[folder]
    context, progress = running.context, running.progress

    def step(name: str, iteration: int = 0) -> Made:
        with progress.step(name, 0):
            return call(TASKS[name], step=name, folder=folder, iteration=iteration)

    step(SETTINGS.name)
    if POLICY_STEP.name in running.steps:
        step(POLICY_STEP.name)
    problems = step(PROBLEMS_STEP.name).record.metrics
    progress.say(f"{problems['problems']:.0f} problems, {problems['filtered']:.0f} left out")
    if problems["overlap"]:
        progress.say(
            f"{problems['overlap']:.0f} of them are, or are nearly, problems that this policy was "
            f"trained on: {context.workspace.path(DATA)}/{OVERLAP}"
        )
    numbers = batch_numbers(context)
    total = sum(map(len, numbers.values()))
    for benchmark, batches in numbers.items():
        with progress.step(benchmark, 0):
            found = call(
                RESPOND_TASK, folder=folder, benchmark=benchmark, batches=batches, total=total
            )
        if found:
            progress.say(f"{benchmark}: {found} of {len(batches)} batches were there already")
    step(COLLECT.name, total)
    step(SUMMARIZE.name)
    _report(running, tracker)


def _report(running: Running, tracker: Tracker) -> None:
    """Say what was found, to the user and to MLflow."""
    workspace = running.context.workspace
    metrics = json.loads(workspace.path(METRICS).read_text())
    figures = {**metrics["benchmarks"], OVERALL: metrics[OVERALL]}
    for name, row in figures.items():
        tracker.log_metrics(0, {f"eval/{name}/{key}": value for key, value in row.items()})
        running.progress.say(_line(name, row))
    for name, row in metrics.get("against", {}).get("benchmarks", {}).items():
        running.progress.say(
            f"{name}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] against "
            f"{metrics['against']['evaluation']}, p = {row['p']:.3f}"
        )
    for file in (REPORT, METRICS):
        tracker.log_file(file)
    running.progress.say(f"report        {workspace.path(REPORT)}")


def _line(name: str, row: Mapping[str, float]) -> str:
    """One benchmark's scores."""
    k = f"{row['k']:.0f}"
    parts = [
        f"mean@{row['samples']:.0f} {row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        f"maj@{k} {row['maj@k']:.3f} [{row['maj@k/low']:.3f}, {row['maj@k/high']:.3f}]",
        f"pass@{k} {row['pass@k']:.3f} [{row['pass@k/low']:.3f}, {row['pass@k/high']:.3f}]",
        f"{row['problems']:.0f} problems, {row['tokens']:.0f} tokens a response",
    ]
    return f"{name:<13} {', '.join(parts)}"
