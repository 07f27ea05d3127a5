"""The flow `efficiency`: policy -> problems -> rounds of all arms, side by side -> table and page.

One Prefect task a step, and one a round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import flow
from rich.table import Table

from flows.experiment import PARAMS_FOLDER
from flows.notification import notify
from flows.parameters import Name, Overrides, Runs, runs_folder
from flows.pick_up import pick_up
from flows.progress import Progress, console
from flows.running import call, on_page, step_task, tracked, version
from tasks.benchmarks import POLICY_STEP, PROBLEMS_STEP
from tasks.efficiency import MEASURE
from tasks.efficiency_report import COMPARE, TABLE
from tasks.run import opened
from tasks.run_efficiency import (
    FOLDER,
    SETUP,
    STEPS,
    efficiency_workspace,
    perform,
    resolve_efficiency,
    steps_of,
)
from tasks.steps import Context, Made, Step
from tasks.tracking import Tracker
from tasks.workspace import METRICS, REPORT


@dataclass(frozen=True)
class Running:
    """What the tasks of one efficiency experiment share; they find it by its folder."""

    context: Context
    steps: Mapping[str, Step]
    progress: Progress


_running: dict[str, Running] = {}


def _run_step(step: str, folder: str, iteration: int) -> Made:
    """Make the artifacts of one step, or find that they are there."""
    running = _running[folder]
    return perform(running.steps[step], running.context, iteration)


TASKS = {
    name: step_task(
        _run_step,
        step,
        f"{name} {{iteration}}" if step is MEASURE else name,
        retried=step is MEASURE,
    )
    for name, step in STEPS.items()
}


@flow(
    name="efficiency",
    flow_run_name="{name}",
    description="Measure ways of sampling side by side (paper section 4.1); resumes.",
    persist_result=False,
    on_failure=[notify],
    on_crashed=[notify],
)
def efficiency(name: Name, runs: Runs = "runs", overrides: Overrides = None) -> None:
    """Run or resume an efficiency experiment.

    Args:
        name: the experiment: params/efficiency/NAME.yaml
        runs: folder of all runs; {date} stands for the day that the run was scheduled for
        overrides: parameters of the experiment to set, key=value, such as rounds=5
    """
    pick_up()
    workspace = efficiency_workspace(runs_folder(runs), name)
    file = PARAMS_FOLDER / FOLDER / f"{name}.yaml"
    params = resolve_efficiency(file, workspace, overrides or ())
    steps = steps_of(params, workspace)
    folder = str(workspace.root)
    with (
        opened(workspace, params) as context,
        tracked(context) as (context, tracker),
        on_page(context, tracker),
        Progress(params.rounds, "rounds") as progress,
    ):
        _running[folder] = Running(context, steps, progress)
        try:
            _pipeline(folder, tracker)
        finally:
            del _running[folder]
        version(workspace, FOLDER, name)


def _pipeline(folder: str, tracker: Tracker) -> None:
    """All steps in order."""
    running = _running[folder]
    params, progress = running.context.params, running.progress

    def step(name: str, iteration: int = 0) -> Made:
        with progress.step(name, iteration):
            return call(TASKS[name], step=name, folder=folder, iteration=iteration)

    step(SETUP.name)
    if POLICY_STEP.name in running.steps:
        step(POLICY_STEP.name)
    problems = step(PROBLEMS_STEP.name).record.metrics
    progress.say(
        f"{problems['problems']:.0f} problems, {problems['filtered']:.0f} left out; "
        f"{len(params.arms)} arms, {params.rounds} rounds"
    )
    for number in range(1, params.rounds + 1):
        made = step(MEASURE.name, number)
        progress.say(f"round {number}: {_speeds(made)}")
        progress.advance(params.rounds)
    step(COMPARE.name, params.rounds)
    _report(running, tracker)


def _speeds(made: Made) -> str:
    if not made.fresh:
        return "was there already"
    found = made.record.metrics.items()
    speeds = [f"{key.partition('/')[2]} {speed:.3g}" for key, speed in found]
    return f"{', '.join(speeds)} trajectories/s"


def _report(running: Running, tracker: Tracker) -> None:
    """Say what was found, to the user and to MLflow."""
    workspace = running.context.workspace
    metrics = json.loads(workspace.path(METRICS).read_text())
    for name, row in metrics["arms"].items():
        tracker.log_metrics(0, {f"{name}/{key}": value for key, value in row.items()})
    for file in (REPORT, METRICS, TABLE):
        tracker.log_file(file)
    console.print(_table(metrics["arms"], running.context.params.arms))
    running.progress.say(f"report        {workspace.path(REPORT)}")


def _table(arms: Mapping[str, Mapping[str, float]], params: Mapping[str, Any]) -> Table:
    """Medians, one row an arm; a ratio is by the arm that it is compared with."""
    table = Table("arm", "against", box=None, pad_edge=False)
    headings = ("TrajPS", "ratio", "TokenPS", "saved", "cache hits", "wall [s]", "device [s]")
    for heading in (*headings, "accuracy", "maj@k"):
        table.add_column(heading, justify="right")
    for name, row in arms.items():
        against = params[name].against
        ratio = row.get(f"trajectories_per_second/{against}")
        table.add_row(
            name,
            against or "–",
            f"{row['trajectories_per_second']:.3g}",
            "–" if ratio is None else f"{ratio:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['tokens_saved']:.0%}",
            f"{row['cache_hit_rate']:.0%}",
            f"{row['wall_seconds']:.3g}",
            f"{row['device_seconds']:.3g}",
            f"{row['accuracy']:.3f}",
            f"{row['maj@k']:.3f}",
        )
    return table
