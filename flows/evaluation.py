"""The flow `evaluation`: policy -> problems -> responses, a batch at a time -> scores and page.

One Prefect task a step, and one a benchmark for its responses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from prefect import flow

from flows.notification import notify
from flows.parameters import Name, Overrides, Runs, runs_folder
from flows.pick_up import pick_up
from flows.progress import Progress
from flows.running import Running, performer_of, running, step_task, step_tasks
from tasks.benchmarks import COLLECT, DATA, OVERLAP, POLICY_STEP, PROBLEMS_STEP, RESPOND
from tasks.evaluation_report import SUMMARIZE
from tasks.run_evaluation import EVALUATION, SETTINGS, STEPS, batch_numbers, steps_of
from tasks.workspace import METRICS, REPORT
from treepo.evaluation import OVERALL


def _respond(folder: str, benchmark: str, batches: Sequence[int], total: int) -> int:
    """Make one benchmark's batches; returns how many were there already."""
    del benchmark  # names the task
    run: Running = performer_of(folder)
    found = 0
    for number in batches:
        found += not run.perform(RESPOND.name, number).fresh
        run.progress.advance(total)
    return found


TASKS = step_tasks(STEPS, numbered=(), retried=())
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
    workspace = EVALUATION.workspace(runs_folder(runs), name)
    params = EVALUATION.resolve(workspace, overrides or ())
    steps = steps_of(params, workspace, against)
    progress = Progress(len(params.benchmarks), "batches")
    with running(workspace, params, steps, TASKS, progress) as run:
        _pipeline(run)


def _pipeline(run: Running) -> None:
    """All steps in order."""
    say = run.progress.say
    run.step(SETTINGS.name)
    if POLICY_STEP.name in run.steps:
        run.step(POLICY_STEP.name)
    problems = run.step(PROBLEMS_STEP.name).record.metrics
    say(f"{problems['problems']:.0f} problems, {problems['filtered']:.0f} left out")
    if problems["overlap"]:
        say(
            f"{problems['overlap']:.0f} of them are, or are nearly, problems that this policy was "
            f"trained on: {run.context.workspace.path(DATA)}/{OVERLAP}"
        )
    numbers = batch_numbers(run.context)
    total = sum(map(len, numbers.values()))
    for benchmark, batches in numbers.items():
        asked = {"benchmark": benchmark, "batches": batches, "total": total}
        found = run.call(RESPOND_TASK, benchmark, **asked)
        if found:
            say(f"{benchmark}: {found} of {len(batches)} batches were there already")
    run.step(COLLECT.name, total)
    run.step(SUMMARIZE.name)
    _report(run)


def _report(run: Running) -> None:
    """Say what was found, to the user and to MLflow."""
    workspace = run.context.workspace
    metrics = json.loads(workspace.path(METRICS).read_text())
    figures = {**metrics["benchmarks"], OVERALL: metrics[OVERALL]}
    for name, row in figures.items():
        run.tracker.log_metrics(0, {f"eval/{name}/{key}": value for key, value in row.items()})
        run.progress.say(_line(name, row))
    for name, row in metrics.get("against", {}).get("benchmarks", {}).items():
        run.progress.say(
            f"{name}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] against "
            f"{metrics['against']['evaluation']}, p = {row['p']:.3f}"
        )
    for file in (REPORT, METRICS):
        run.tracker.log_file(file)
    run.progress.say(f"report        {workspace.path(REPORT)}")


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
