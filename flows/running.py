"""What the flows share: steps as Prefect tasks, the MLflow run that goes with a flow's run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import Task, runtime, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows.progress import Progress
from tasks.run import opened
from tasks.steps import Context, RunParams, Step
from tasks.tracking import Tracker
from tasks.versioning import commit, not_versioned
from tasks.workspace import REPORT, Workspace
from treepo.errors import UserError, WorkError


def step_task(
    function: Callable[..., Any], step: Step, run_name: str, retried: bool
) -> Task[..., Any]:
    """A step as a Prefect task; `retried` where it holds worker processes, which may die."""
    return task(
        function,
        name=step.name,
        description=step.description,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2 if retried else 0,
        retry_delay_seconds=1,
        retry_condition_fn=_worth_retrying,
    )


def _worth_retrying(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether trying again may help: not where the input is wrong or the work failed for good."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError | WorkError)


@contextmanager
def tracked(workspace: Workspace, params: RunParams) -> Iterator[tuple[Context, Tracker]]:
    """Hold a run open, with its MLflow run, which is told in the end how it went."""
    with opened(workspace, params) as context:
        records = list(context.lineage)
        tracker = Tracker(workspace, params, records[-1].mlflow_run if records else None)
        status = "FAILED"
        try:
            flow_run = str(runtime.flow_run.id or "")
            yield replace(context, mlflow_run=tracker.run_id, prefect_run=flow_run), tracker
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracker.close(status)


def link_report(workspace: Workspace) -> None:
    """Link the report from the run's Prefect page."""
    report = workspace.path(REPORT).resolve().as_uri()
    create_link_artifact(report, link_text="report", key=slug(f"{workspace.name}-report"))


def version(workspace: Workspace, progress: Progress, kind: str, name: str) -> None:
    """Give what was made to DVC, or say why not."""
    reason = not_versioned(workspace)
    if reason:
        progress.say(f"not versioned by DVC: {reason}")
        return
    with progress.step("commit", 0):
        commit(kind, name)


def slug(text: str) -> str:
    """A name as Prefect's keys allow it."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())
