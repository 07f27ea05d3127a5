"""What the flows share: steps as Prefect tasks, the MLflow run that goes with a flow's run.

Tasks are given names, never models; what they share is opened once and found again by its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from prefect import Task, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from flows.page import Page
from flows.progress import Progress, console
from flows.stopping import finishing
from tasks.run import opened
from tasks.steps import Context, Made, RunParams, Step, make
from tasks.tracking import Tracker
from tasks.versioning import commit, not_versioned
from tasks.workspace import REPORT, Workspace
from treepo.errors import UserError, WorkError

RETRIES = 3  # after about 1, 2 and 4 s
Tasks = Mapping[str, Task[..., Any]]


class Performer(Protocol):
    """A run at work: what the tasks of its steps call."""

    def perform(self, step: str, iteration: int) -> Made:
        """Make the artifacts of one step, or find that they are there."""
        ...


_at_work: dict[str, Any] = {}


@contextmanager
def at_work(folder: str, performer: Performer) -> Iterator[None]:
    """The tasks of the run in `folder` reach `performer` meanwhile."""
    _at_work[folder] = performer
    try:
        yield
    finally:
        del _at_work[folder]


def performer_of(folder: str) -> Any:
    """What is at work in a folder."""
    return _at_work[folder]


def step_tasks(
    steps: Mapping[str, Step], numbered: Collection[str], retried: Collection[str]
) -> Tasks:
    """All steps as Prefect tasks; `numbered`: those whose name on the page has their iteration."""
    return {
        name: step_task(_perform, step, name + " {iteration}" * (name in numbered), name in retried)
        for name, step in steps.items()
    }


def _perform(step: str, folder: str, iteration: int) -> Made:
    """Make the artifacts of one step, or find that they are there."""
    return performer_of(folder).perform(step, iteration)


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
    with finishing():
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
    status = "KILLED"
    try:
        yield replace(context, mlflow_run=tracker.run_id, prefect_run=prefect_run), tracker
        status = "FINISHED"
    except Exception:
        status = "FAILED"
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


@dataclass(frozen=True)
class Running:
    """A run whose every step is a task, at work: an evaluation, a measurement of speed."""

    context: Context
    steps: Mapping[str, Step]
    tasks: Tasks
    tracker: Tracker
    progress: Progress

    def perform(self, step: str, iteration: int) -> Made:
        """Make the artifacts of one step, or find that they are there."""
        return make(self.steps[step], self.context, iteration)

    def step(self, name: str, iteration: int = 0) -> Made:
        """One step as a task."""
        return self.call(self.tasks[name], name, step=name, iteration=iteration)

    def call(self, asked: Task[..., Any], shown: str, /, **arguments: Any) -> Any:
        """A task of this run, shown as what is at work."""
        with self.progress.step(shown, arguments.get("iteration", 0)):
            return call(asked, folder=str(self.context.workspace.root), **arguments)


@contextmanager
def running(
    workspace: Workspace,
    params: RunParams,
    steps: Mapping[str, Step],
    tasks: Tasks,
    progress: Progress,
) -> Iterator[Running]:
    """Open a run and keep its pages while it is at work; in the end DVC is told of it."""
    with (
        opened(workspace, params) as context,
        tracked(context) as (context, tracker),
        on_page(context, tracker),
        progress,
    ):
        going = Running(context, steps, tasks, tracker, progress)
        with at_work(str(workspace.root), going):
            yield going
        version(workspace, params.folder, Path(workspace.name).name)
