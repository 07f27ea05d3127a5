"""The steps of an efficiency experiment: which there are, which one run consists of."""

from __future__ import annotations

from dataclasses import replace

from tasks.benchmarks import DATA, POLICY, POLICY_STEP, PROBLEMS_STEP, policy_artifact
from tasks.efficiency import MEASURE
from tasks.efficiency_report import COMPARE, READ
from tasks.kind import Kind
from tasks.resolve import RESOLVE
from tasks.steps import Step
from tasks.workspace import Workspace
from treepo.params import EfficiencyParams

SETUP = replace(RESOLVE, name="setup", reads=READ, params=EfficiencyParams)
# Policy and problems are made as for an evaluation.
STEPS = {step.name: step for step in (SETUP, POLICY_STEP, PROBLEMS_STEP, MEASURE, COMPARE)}
EFFICIENCY = Kind(EfficiencyParams, STEPS)


def steps_of(params: EfficiencyParams, workspace: Workspace) -> dict[str, Step]:
    """The steps with the inputs that this one has. Raises UserError without such a policy."""
    source = policy_artifact(params.policy, workspace)
    steps = EFFICIENCY.bound({PROBLEMS_STEP.name: (source,), MEASURE.name: (source, DATA)})
    if source != POLICY:
        del steps[POLICY_STEP.name]
    return steps
