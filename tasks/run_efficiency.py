"""The steps of an efficiency experiment: which there are, which one run consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.benchmarks import DATA, POLICY, POLICY_STEP, PROBLEMS_STEP, policy_artifact
from tasks.efficiency import MEASURE
from tasks.efficiency_report import COMPARE, READ, observe
from tasks.resolve import RESOLVE, refuse_misfit
from tasks.steps import Context, Made, Step, make
from tasks.workspace import Workspace
from treepo.loading import load
from treepo.params import EfficiencyParams

FOLDER = "efficiency"  # beside the experiments: params/efficiency/NAME.yaml, RUNS/efficiency/NAME
SETUP = replace(RESOLVE, name="setup", reads=READ, params=EfficiencyParams)
# Policy and problems are made as for an evaluation.
STEPS = {step.name: step for step in (SETUP, POLICY_STEP, PROBLEMS_STEP, MEASURE, COMPARE)}


def efficiency_workspace(runs: Path, name: str) -> Workspace:
    """Where an efficiency experiment lies: RUNS/efficiency/NAME."""
    return Workspace(runs, f"{FOLDER}/{name}")


def resolve_efficiency(
    file: Path, workspace: Workspace, overrides: Sequence[str]
) -> EfficiencyParams:
    """Parameters of an efficiency experiment; refused where made artifacts had others.

    Raises UserError before anything is written.
    """
    params = load(EfficiencyParams, file, overrides, "efficiency experiment")
    refuse_misfit(workspace, params, (SETUP.name, COMPARE.name))
    return params


def steps_of(params: EfficiencyParams, workspace: Workspace) -> dict[str, Step]:
    """The steps with the inputs that this one has. Raises UserError without such a policy."""
    source = policy_artifact(params.policy, workspace)
    inputs = {PROBLEMS_STEP.name: (source,), MEASURE.name: (source, DATA)}
    bound = {
        name: replace(STEPS[name], inputs=lambda _, names=names: names)
        for name, names in inputs.items()
    }
    steps = {**STEPS, **bound}
    if source != POLICY:
        del steps[POLICY_STEP.name]
    return steps


def perform(step: Step, context: Context, iteration: int = 0) -> Made:
    """Make one step's artifacts, unless they are there."""
    observed = observe(context.lineage) if step.name == COMPARE.name else None
    return make(step, context, iteration, observed)
