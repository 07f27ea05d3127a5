"""The flow `experiment`: dataset -> warm-up -> (rollout, score, advantage, update) x N -> report.

One Prefect task a step. Tasks are given names, never models; what they share is opened once and
found again by the experiment's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import Task, flow, runtime, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows.progress import Progress
from tasks.resolve import resolve
from tasks.run import ITERATION, STEPS, opened, perform, stage
from tasks.steps import Context, Made
from tasks.tracking import Tracker
from tasks.versioning import commit, not_versioned
from tasks.workspace import METRICS, REPORT, Workspace
from treepo.errors import UserError, WorkError

PARAMS_FOLDER = Path("params")
RETRIED = {"rollout", "score", "evaluate"}  # they hold worker processes, which may die
_open: dict[str, Context] = {}


def _worth_retrying(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether trying again may help: not where the input is wrong or the work failed for good."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError | WorkError)


def _run_step(step: str, folder: str, iteration: int) -> Made:
    """Make the artifacts of one step, or find that they are there."""
    return perform(step, _open[folder], iteration)


TASKS = {
    name: task(
        _run_step,
        name=name,
        description=step.description,
        task_run_name=f"{name} {{iteration}}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2 if name in RETRIED else 0,
        retry_delay_seconds=1,
        retry_condition_fn=_worth_retrying,
    )
    for name, step in STEPS.items()
}


@flow(
    name="experiment",
    flow_run_name="{name}",
    description="Train a policy with TreePO and evaluate it; resumes where it stood.",
    validate_parameters=False,
    persist_result=False,
)
def experiment(name: str, runs: str = "runs", overrides: Sequence[str] = ()) -> None:
    """Run or resume params/NAME.yaml."""
    workspace = Workspace(Path(runs), name)
    params = resolve(PARAMS_FOLDER, workspace, overrides)
    with opened(workspace, params) as context:
        records = list(context.lineage)
        tracker = Tracker(workspace, params, records[-1].mlflow_run if records else None)
        context = replace(
            context, mlflow_run=tracker.run_id, prefect_run=str(runtime.flow_run.id or "")
        )
        folder = str(workspace.root)
        _open[folder] = context
        status = "FAILED"
        try:
            with Progress(params.iterations) as progress:
                _pipeline(folder, context, tracker, progress)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            del _open[folder]
            tracker.close(status)


def _pipeline(folder: str, context: Context, tracker: Tracker, progress: Progress) -> None:
    """All steps in order; the first policy is judged before training starts."""
    params, workspace = context.params, context.workspace

    def step(name: str, iteration: int = 0) -> Made:
        with progress.step(name, iteration):
            return TASKS[name](step=name, folder=folder, iteration=iteration)

    step("resolve")
    data = step("prepare").record
    tracker.log_dataset("data", data.hash, data.metrics)
    progress.say(
        f"{data.metrics['train']:.0f} problems to train on, {data.metrics['heldout']:.0f} held "
        f"out, {data.metrics['filtered']:.0f} filtered (data/filtered.json)"
    )
    step("warm_up")
    evaluations = dict.fromkeys(k for _, k in stage("evaluate", params))

    def evaluate(iteration: int) -> None:
        made = step("evaluate", iteration)
        metrics = {f"eval/{key}": value for key, value in made.record.metrics.items()}
        tracker.log_metrics(iteration, metrics)
        progress.evaluated(iteration, made.record.metrics)

    evaluate(0)
    for iteration in range(1, params.iterations + 1):
        loop = {part.name: step(part.name, iteration) for part in ITERATION}
        made = loop["update"]
        spent = {f"time/{name}": part.record.seconds for name, part in loop.items()}
        metrics = {**made.record.metrics, **spent}
        tracker.log_iteration(iteration, metrics)
        if made.fresh:
            _show_on_page(workspace.name, iteration, metrics)
        progress.iterated(iteration, metrics, made.fresh)
        if iteration in evaluations and iteration:
            evaluate(iteration)
    step("report")
    for file in (REPORT, METRICS):
        tracker.log_file(file)
    _link_report(workspace)
    reason = not_versioned(workspace)
    if reason:
        progress.say(f"not versioned by DVC: {reason}")
    else:
        with progress.step("commit", 0):
            commit(workspace)


def _show_on_page(name: str, iteration: int, metrics: dict[str, float]) -> None:
    """The iteration's numbers as a table on the run's Prefect page."""
    rows = [{"metric": key, "value": round(value, 6)} for key, value in metrics.items()]
    create_table_artifact(
        rows, key=_slug(f"{name}-iteration"), description=f"iteration {iteration}"
    )


def _link_report(workspace: Workspace) -> None:
    report = workspace.path(REPORT).resolve().as_uri()
    create_link_artifact(report, link_text="report", key=_slug(f"{workspace.name}-report"))


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())
