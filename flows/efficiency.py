"""The flow `efficiency`: policy -> problems -> rounds of all arms, side by side -> table and page.

One Prefect task a step, and one a round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prefect import flow
from rich.table import Table

from flows.notification import notify
from flows.parameters import Name, Overrides, Runs, runs_folder
from flows.pick_up import pick_up
from flows.progress import Progress, console
from flows.running import Running, running, step_tasks
from tasks.benchmarks import POLICY_STEP, PROBLEMS_STEP
from tasks.efficiency import MEASURE
from tasks.efficiency_report import COMPARE, TABLE
from tasks.run_efficiency import EFFICIENCY, SETUP, STEPS, steps_of
from tasks.steps import Made
from tasks.workspace import METRICS, REPORT

TASKS = step_tasks(STEPS, numbered=(MEASURE.name,), retried=(MEASURE.name,))


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
    workspace = EFFICIENCY.workspace(runs_folder(runs), name)
    params = EFFICIENCY.resolve(workspace, overrides or ())
    steps = steps_of(params, workspace)
    with running(workspace, params, steps, TASKS, Progress(params.rounds, "rounds")) as run:
        _pipeline(run)


def _pipeline(run: Running) -> None:
    """All steps in order."""
    params, say = run.context.params, run.progress.say
    run.step(SETUP.name)
    if POLICY_STEP.name in run.steps:
        run.step(POLICY_STEP.name)
    problems = run.step(PROBLEMS_STEP.name).record.metrics
    say(
        f"{problems['problems']:.0f} problems, {problems['filtered']:.0f} left out; "
        f"{len(params.arms)} arms, {params.rounds} rounds"
    )
    for number in range(1, params.rounds + 1):
        say(f"round {number}: {_speeds(run.step(MEASURE.name, number))}")
        run.progress.advance(params.rounds)
    run.step(COMPARE.name, params.rounds)
    _report(run)


def _speeds(made: Made) -> str:
    if not made.fresh:
        return "was there already"
    found = made.record.metrics.items()
    speeds = [f"{key.partition('/')[2]} {speed:.3g}" for key, speed in found]
    return f"{', '.join(speeds)} trajectories/s"


def _report(run: Running) -> None:
    """Say what was found, to the user and to MLflow."""
    workspace = run.context.workspace
    metrics = json.loads(workspace.path(METRICS).read_text())
    for name, row in metrics["arms"].items():
        run.tracker.log_metrics(0, {f"{name}/{key}": value for key, value in row.items()})
    for file in (REPORT, METRICS, TABLE):
        run.tracker.log_file(file)
    console.print(_table(metrics["arms"], run.context.params.arms))
    run.progress.say(f"report        {workspace.path(REPORT)}")


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
