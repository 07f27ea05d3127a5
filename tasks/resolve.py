"""Step `resolve`: the experiment's parameters, complete, as every other step reads them."""

from __future__ import annotations

import yaml

from tasks.report import READ
from tasks.steps import Job, Metrics, Step
from tasks.workspace import PARAMS, Workspace
from treepo.loading import load_experiment
from treepo.params import ExperimentParams
from treepo.storage import write_text


def run(job: Job) -> Metrics:
    """Write params.yaml."""
    text = yaml.safe_dump(job.params.values(), sort_keys=False, allow_unicode=True, width=100)
    write_text(text, job.output)
    return {}


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
