"""The report of a run that is not at its end: from the iterations and evaluations made so far.

Shows what is there and records nothing: the run that goes on holds the lock and the lineage.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks import report
from tasks.lineage import Lineage
from tasks.report_trees import shown_iterations, tree_artifacts
from tasks.resolve import resolved
from tasks.resources import Resources
from tasks.run import ITERATION
from tasks.steps import Job, Sections
from tasks.workspace import METRICS, PARAMS, REPORT, Workspace, of_iteration
from treepo.params import ExperimentParams
from treepo.storage import write_text

LIVE = "live.html"
RELOAD = 10  # the page loads itself again so often [s]


def write_live(workspace: Workspace) -> int | None:
    """Write the page; returns the iteration that it shows, None where there is nothing to show."""
    if not workspace.path(PARAMS).exists():
        return None
    lineage = Lineage(workspace.root)
    made = {record.artifact for record in lineage if workspace.path(record.artifact).exists()}
    evaluations = sorted(name for name in made if name.startswith("evaluation/"))
    if not evaluations:
        return None
    params = resolved(workspace)
    last = _whole_iterations(lineage, params.iterations)
    params = params.model_copy(update={"iterations": last})
    names = ["data", *evaluations]
    names += [of_iteration(k, "update.json") for k in range(1, last + 1)]
    names += [name for k in shown_iterations(last) for name in tree_artifacts(k)]
    if not made.issuperset(names):
        return None
    page = _render(workspace, params, names, lineage)
    reload = f'<head>\n<meta http-equiv="refresh" content="{RELOAD}">'
    write_text(page.replace("<head>", reload, 1), workspace.path(LIVE))
    return last


def _whole_iterations(lineage: Lineage, most: int) -> int:
    """How many iterations, from the first on, have all their steps behind them."""
    done = {(record.step, record.iteration) for record in lineage}
    whole = (all((step.name, k) in done for step in ITERATION) for k in range(1, most + 1))
    return next((k for k, is_whole in enumerate(whole) if not is_whole), most)


def _render(
    workspace: Workspace, params: ExperimentParams, names: list[str], lineage: Lineage
) -> str:
    """The step `report`, on these artifacts, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as temporary, Resources() as resources:
        elsewhere = Workspace(Path(temporary), workspace.name)
        outputs = {name: elsewhere.path(name) for name in (REPORT, METRICS)}
        outputs[REPORT].parent.mkdir(parents=True)
        job = Job(
            iteration=params.iterations,
            seed=params.seed,
            inputs={name: workspace.path(name) for name in names},
            outputs=outputs,
            params=Sections(params, report.READ),
            resources=resources,
            observed=report.observe(lineage),
        )
        report.run(job)
        return outputs[REPORT].read_text(encoding="utf-8")
