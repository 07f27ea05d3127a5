"""One step, or one stage of dvc.yaml, alone and without a server: what DVC calls."""

from __future__ import annotations

from pathlib import Path

from flows.progress import console
from tasks.resolve import resolved
from tasks.run import EXPERIMENT, ITERATION, STEPS, opened, perform, stage
from tasks.steps import Made, let_go
from tasks.workspace import PARAMS, Workspace
from treepo.errors import UserError
from treepo.params import ExperimentParams

LOOP = [step.name for step in ITERATION]


def _params(name: str, workspace: Workspace) -> ExperimentParams:
    """What the step reads: params.yaml, or where there is none what it would hold.

    Step `resolve` says how things are to be: what was made otherwise, DVC removes and makes anew
    after it, and every other step refuses.
    """
    if name == "resolve":
        return EXPERIMENT.load(workspace)
    if workspace.path(PARAMS).exists():
        return resolved(workspace)
    return EXPERIMENT.resolve(workspace)


def single_step(name: str, experiment: str, iteration: int | None, runs: Path) -> None:
    """Make the artifacts of a step or stage; says which were there already.

    Raises UserError for an unknown step or a missing iteration.
    """
    known = [*STEPS, "train"]
    if name not in known:
        raise UserError(f"unknown step '{name}'; there are: {', '.join(known)}")
    workspace = EXPERIMENT.workspace(runs, experiment)
    params = _params(name, workspace)
    if iteration is None:
        if name in LOOP:
            raise UserError(f"step {name} needs --iteration K")
        steps = stage(name, params)
    elif name == "train":
        steps = [(part, iteration) for part in LOOP]
    else:
        steps = [(name, iteration)]
    with opened(workspace, params) as context:
        for part, number in steps:
            made = perform(part, context, number)
            console.print(f"{made.record.artifact}: {_state(made, workspace)}, {made.record.hash}")


def _state(made: Made, workspace: Workspace) -> str:
    if made.fresh:
        return "made"
    is_there = workspace.path(made.record.artifact).exists()
    return "there already" if is_there else let_go(made.record)
