"""The flow `ablation`: every variant with every seed as a sub-flow, then what they tell together.

Runs go one after another: each has the machine to itself, and takes over what an earlier one made.
One that fails does so alone. Running again skips what is finished and goes on with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect import Flow, flow

from flows.ablation_tables import show_results
from flows.experiment import AHEAD, conduct
from flows.launch import launch
from flows.notification import notify
from flows.parameters import Name, Runs, runs_folder
from flows.pick_up import pick_up
from flows.progress import console
from flows.running import on_page, tracked, version
from tasks.ablation import PAGE, Study, write_plan, write_results
from tasks.lineage import Lineage
from tasks.resources import Resources
from tasks.run import EXPERIMENT, opened
from tasks.steps import Context
from tasks.tracking import Tracker
from treepo.ablation.plan import Run, load_plan
from treepo.errors import UserError, WorkError


@dataclass(frozen=True)
class _Going:
    """An ablation at work; parent: its MLflow run."""

    study: Study
    parent: str | None


_going: dict[str, _Going] = {}  # sub-flows are given names, never plans


@flow(
    name="ablation",
    flow_run_name="{name}",
    description="Run variants of an experiment with several seeds and compare them; resumes.",
    persist_result=False,
    on_failure=[notify],
    on_crashed=[notify],
)
def ablation(name: Name, runs: Runs = "runs") -> None:
    """Run or resume an ablation.

    Raises UserError before anything is written where the plan is wrong or does not fit what was
    made, WorkError at the end where runs failed.

    Args:
        name: the ablation: params/ablations/NAME.yaml; NAME-SIZE: in that size
        runs: folder of all runs; {date} stands for the day that the run was scheduled for
    """
    pick_up()
    study = Study(runs_folder(runs), load_plan(name))
    for run in study.plan.runs:
        EXPERIMENT.refuse_misfit(study.of(run), run.params)
    with study.workspace.lock(), Resources() as resources:
        lineage = Lineage(study.workspace.root)
        context = Context(study.workspace, study.plan.params, lineage, resources)
        with tracked(context) as (context, tracker), on_page(context, tracker):
            failed = _compare(study, context, tracker)
            version(study.workspace, study.plan.params.folder, study.plan.name)
            if failed:
                raise WorkError(f"{len(failed)} of {len(study.plan.runs)} runs failed; {failed[0]}")


def _compare(study: Study, context: Context, tracker: Tracker) -> list[str]:
    """All runs, then the tables and the report; says which runs failed, and why."""
    ids = {"mlflow_run": context.mlflow_run, "prefect_run": context.prefect_run}
    write_plan(study, ids)
    _going[study.workspace.name] = _Going(study, tracker.run_id)
    try:
        failures = _run_all(study)
    finally:
        del _going[study.workspace.name]
    tracker.log_metrics(0, write_results(study, failures, ids))
    tracker.log_file(PAGE)
    show_results(study)
    return [f"{name}: {reason}" for name, reason in failures.items()]


def _run_all(study: Study) -> dict[str, str]:
    """Run what is not finished; the reason of each failure by the run's name."""
    failures: dict[str, str] = {}
    for number, run in enumerate(study.plan.runs, 1):
        place = f"[{number}/{len(study.plan.runs)}] {run.name}"
        if study.is_finished(run):
            console.print(f"{place}: finished before", soft_wrap=True)
            continue
        console.print(place, soft_wrap=True)
        try:
            launch(_sub_flow(run), study.workspace.name, run.name)
        except Exception as error:  # whatever it is, the other runs can still tell something
            failures[run.name] = _one_line(error)
            console.print(f"{run.name} failed: {failures[run.name]}", soft_wrap=True)
    return failures


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | WorkError) else f"{type(error).__name__}: {text}"


def _sub_flow(run: Run) -> Flow[[str, str], None]:
    """The flow `variant` under a key of this run's own.

    Prefect counts the calls of a sub-flow. When an ablation is picked up, finished runs are not
    called again; a later one would be taken for the first, which is done, and be skipped.
    """

    def variant(study: str, name: str) -> None:
        """Run or resume one run of an ablation that is at work."""
        going = _going[study]
        with opened(going.study.of(run), run.params, going.study.siblings(run)) as context:
            conduct(context, going.study.plan.params.stop, going.parent)

    variant.__qualname__ = f"variant {run.name}".replace(".", "_")
    return flow(
        name="variant",
        flow_run_name="{name}",
        description="One variant of an ablation with one seed.",
        validate_parameters=False,
        persist_result=False,
        task_runner=AHEAD,
    )(variant)
