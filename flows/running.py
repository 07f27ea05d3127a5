"""What the flows share: steps as Prefect tasks, the MLflow run that goes with a flow's run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import Task, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from flows.page import Page
from flows.progress import console
from tasks.steps import Context, Step
from tasks.tracking import Tracker
from tasks.versioning import commit, not_versioned
from tasks.workspace import REPORT, Workspace
from treepo.errors import UserError, WorkError

RETRIES = 3  # after about 1, 2 and 4 s


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
        retries=RETRIES if retried else 0,
        retry_delay_seconds=exponential_backoff(backoff_factor=1),
        retry_jitter_factor=0.5,
        retry_condition_fn=_worth_retrying,
    )


def call(asked: Task[..., Any], /, **arguments: Any) -> Any:
    """A step's task; its function alone where there is no flow, as `flows.launch` may call it."""
    return asked(**arguments) if runtime.flow_run.id else asked.fn(**arguments)


def _worth_retrying(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether trying again may help: not where the input is wrong or the work failed for good."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, UserError | WorkError)


@contextmanager
def on_page(context: Context, tracker: Tracker) -> Iterator[Page]:
    """The run's Prefect page, from the link to its MLflow run to the link to its report."""
    page = Page(context.workspace.name)
    if tracker.page:
        page.link("mlflow", tracker.page)
    try:
        yield page
        report = context.workspace.path(REPORT)
        if report.exists():
            page.link("report", report.resolve().as_uri())
    finally:
        page.close()


@contextmanager
def tracked(context: Context, parent: str | None = None) -> Iterator[tuple[Context, Tracker]]:
    """Keep an MLflow run for what an opened run does, and tell it in the end how it went.

    parent: the MLflow run above it. Yields the context that records both trackers' ids.
    """
    records = list(context.lineage)
    last_run = records[-1].mlflow_run if records else None
    tracker = Tracker(context.workspace, context.params, last_run, parent)
    prefect_run = str(runtime.flow_run.id or "")
    status = "FAILED"
    try:
        yield replace(context, mlflow_run=tracker.run_id, prefect_run=prefect_run), tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def version(workspace: Workspace, kind: str, name: str) -> None:
    """Have DVC record what a run wrote, where it runs in a DVC project."""
    reason = not_versioned(workspace)
    if reason:
        console.print(f"not versioned by DVC: {reason}", soft_wrap=True)
    else:
        commit(kind, name)
