"""Step `resolve`: the experiment's parameters, complete, as every other step reads them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from tasks.lineage import Lineage
from tasks.report import READ
from tasks.steps import Job, Metrics, RunParams, Step, refuse_other_params
from tasks.workspace import PARAMS, Workspace
from treepo.loading import load_experiment
from treepo.params import ExperimentParams
from treepo.storage import write_text


def run(job: Job) -> Metrics:
    """Write params.yaml."""
    text = yaml.safe_dump(job.params.values(), sort_keys=False, allow_unicode=True, width=100)
    write_text(text, job.output)
    return {}


def resolve(folder: Path, workspace: Workspace, overrides: Sequence[str]) -> ExperimentParams:
    """Parameters of an experiment from its YAML; refused where made artifacts had others.

    Raises UserError before anything is written.
    """
    params = load_experiment(folder / f"{workspace.name}.yaml", overrides)
    refuse_misfit(workspace, params)
    return params


def refuse_misfit(
    workspace: Workspace, params: RunParams, views: Collection[str] = ("resolve", "report")
) -> None:
    """Raise UserError where an artifact, except what `views` made, has other parameters."""
    values = params.model_dump(mode="json")
    for record in Lineage(workspace.root):
        path = workspace.path(record.artifact)
        if record.step not in views and path.exists():
            now = {name: values.get(name) for name in record.params}
            refuse_other_params(path, record, now)


def resolved(workspace: Workspace) -> ExperimentParams:
    """Parameters of an experiment as `resolve` wrote them."""
    return load_experiment(workspace.path(PARAMS))


RESOLVE = Step(
    name="resolve",
    description="the experiment's parameters, complete",
    inputs=lambda _: (),
    outputs=lambda _: (PARAMS,),
    reads=READ,
    run=run,
    view=True,
)
