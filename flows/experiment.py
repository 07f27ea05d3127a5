"""The flow `experiment`: dataset -> warm-up -> (rollout, score, advantage, update) x N -> report.

One Prefect task a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from prefect import flow, runtime
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.notification import notify
from flows.page import Page
from flows.parameters import Name, Overrides, Runs, runs_folder
from flows.pick_up import pick_up
from flows.progress import Progress
from flows.running import at_work, call, on_page, step_tasks, tracked, version
from flows.stopping import finishing
from tasks.machine import Machine
from tasks.report import evaluated_policies
from tasks.resources import Resources
from tasks.rollout import CACHE, ROLLOUT
from tasks.run import (
    EXPERIMENT,
    ITERATION,
    STEPS,
    first_policies,
    opened,
    perform,
    standing,
)
from tasks.steps import Context, Made
from tasks.tracking import Tracker
from tasks.workspace import METRICS, REPORT
from treepo.ablation.stopping import History, reason_to_stop
from treepo.params.ablation import StopParams

RETRIED = {"rollout", "score", "evaluate"}  # they hold worker processes, which may die
TASKS = step_tasks(STEPS, numbered=STEPS, retried=RETRIED)
AHEAD = ThreadPoolTaskRunner[Any](max_workers=1)  # of rollouts beside an update, in their order


@flow(
    name="experiment",
    flow_run_name="{name}",
    description="Train a policy with TreePO and evaluate it; resumes where it stood.",
    persist_result=False,
    task_runner=AHEAD,
    on_failure=[notify],
    on_crashed=[notify],
)
def experiment(name: Name, runs: Runs = "runs", overrides: Overrides = None) -> None:
    """Run or resume an experiment.

    Args:
        name: the experiment: params/NAME.yaml
        runs: folder of all runs; {date} stands for the day that the run was scheduled for
        overrides: parameters of the experiment to set, key=value, such as sampling.width=8
    """
    pick_up()
    workspace = EXPERIMENT.workspace(runs_folder(runs), name)
    with opened(workspace, EXPERIMENT.resolve(workspace, overrides or ())) as context:
        conduct(context)
        version(workspace, "experiments", name)


def conduct(context: Context, stop: Sequence[StopParams] = (), parent: str | None = None) -> None:
    """All steps of an opened experiment, tracked by an MLflow run; `parent`: the run above it."""
    with (
        tracked(context, parent) as (context, tracker),
        on_page(context, tracker) as page,
        Progress(context.params.iterations) as progress,
        _resources_of_rollouts(context) as resources,
    ):
        sampling = replace(context, resources=resources)
        pipeline = Pipeline(context, sampling, tracker, page, progress, stop)
        with at_work(str(context.workspace.root), pipeline):
            pipeline.run()


def _resources_of_rollouts(context: Context) -> AbstractContextManager[Resources]:
    """Their own where they go on beside the update, which changes its policy in place."""
    stale = context.params.rollout.staleness
    return context.resources.beside() if stale else nullcontext(context.resources)


@dataclass
class Pipeline:
    """The steps of an experiment in order; the first policy is judged before training starts.

    sampling: the context of the rollouts. ahead: rollouts under way, by iteration.
    """

    context: Context
    sampling: Context
    tracker: Tracker
    page: Page
    progress: Progress
    stop: Sequence[StopParams]
    updates: list[dict[str, float]] = field(default_factory=list)
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    ahead: dict[int, PrefectConcurrentFuture[Made]] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)

    def run(self) -> None:
        """From the dataset to the report; when it ends or fails, no rollout is left under way."""
        try:
            self._run()
        finally:
            self._settle()

    def _run(self) -> None:
        self._prepare()
        self._evaluate(0)
        for iteration in range(1, self.context.params.iterations + 1):
            self._iterate(iteration)
            if iteration in evaluated_policies(self.context.params):
                self._evaluate(iteration)
            reason = reason_to_stop(History(self.updates, self.evaluations), self.stop)
            if reason:
                self._end_at(iteration, reason)
                break
        self._report()

    def perform(self, step: str, iteration: int) -> Made:
        """Make the artifacts of one step, or find that they are there."""
        context = self.sampling if step == ROLLOUT.name else self.context
        return perform(step, context, iteration)

    def step(self, name: str, iteration: int = 0) -> Made:
        """One step: found, or made in a Prefect task.

        What stands needs no task: one costs 50 ms, and a resumed run may hold thousands.
        """
        found = standing(name, self.context, iteration)
        if found:
            return found
        folder = str(self.context.workspace.root)
        with self.progress.step(name, iteration):
            return call(TASKS[name], step=name, folder=folder, iteration=iteration)

    def rollout(self, iteration: int) -> Made:
        """The iteration's forest; those of the next `staleness` ones are begun beside its update.

        The one-thread runner works on them in their order.
        """
        name, folder = ROLLOUT.name, str(self.context.workspace.root)
        staleness = self.context.params.rollout.staleness
        if not (staleness and runtime.flow_run.id):  # without a flow nothing runs beside it
            return self.step(name, iteration)
        for k in range(iteration, min(iteration + staleness, self.context.params.iterations) + 1):
            if k not in self.ahead:
                self.ahead[k] = TASKS[name].submit(step=name, folder=folder, iteration=k)
        with self.progress.step(name, iteration), finishing():
            return self.ahead[iteration].result()

    def _settle(self) -> None:
        """Call off what has not begun; what has keeps its resources and the lock to its end."""
        with finishing():
            found = [future.wrapped_future for future in self.ahead.values()]
            wait([future for future in found if not future.cancel()])

    def _prepare(self) -> None:
        self.step("resolve")
        data = self.step("prepare").record
        self.tracker.log_dataset("data", data.hash, data.metrics)
        self.progress.say(
            f"{data.metrics['train']:.0f} problems to train on, {data.metrics['heldout']:.0f} held "
            f"out, {data.metrics['filtered']:.0f} filtered (data/filtered.json)"
        )
        for name in first_policies(self.context.params):
            self.step(name)

    def _evaluate(self, iteration: int) -> None:
        record = self.step("evaluate", iteration).record
        figures = record.metrics
        self.evaluations[iteration] = figures
        shown = {f"eval/{key}": value for key, value in figures.items()}
        self.tracker.log_metrics(iteration, {**shown, "time/evaluate": record.seconds})
        self.tracker.log_policy(iteration, figures)
        if iteration:
            self.tracker.log_trajectories(iteration)
        self.progress.evaluated(iteration, figures)

    def _iterate(self, iteration: int) -> None:
        loop = {ROLLOUT.name: self.rollout(iteration)}
        loop |= {part.name: self.step(part.name, iteration) for part in ITERATION[1:]}
        made = loop["update"]
        spent = {f"time/{name}": part.record.seconds for name, part in loop.items()}
        metrics = {**made.record.metrics, **spent}
        self.updates.append(metrics)
        held = {f"system/{CACHE}": loop[ROLLOUT.name].record.metrics.get(CACHE, 0.0)}
        machine = {**self.machine.read(), **held} if made.fresh else {}
        self.tracker.log_iteration(iteration, {**metrics, **machine})
        if made.fresh:
            self.page.iterated(iteration, self.context.params.iterations, metrics)
        self.progress.iterated(iteration, metrics, made.fresh)

    def _end_at(self, iteration: int, reason: str) -> None:
        """End as an experiment of `iteration` iterations would."""
        self.progress.say(f"stopped after iteration {iteration}: {reason}")
        params = self.context.params.model_copy(update={"iterations": iteration})
        self.context = replace(self.context, params=params)
        self.step("resolve")
        if iteration not in self.evaluations:
            self._evaluate(iteration)

    def _report(self) -> None:
        self.step("report")
        for file in (REPORT, METRICS):
            self.tracker.log_file(file)
