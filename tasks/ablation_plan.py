"""Before an ablation runs: what its runs will take over from each other, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.report import evaluated_policies
from tasks.run import ITERATION, STEPS
from tasks.steps import Sections, Step
from treepo.ablation.cost import Cost, estimate
from treepo.ablation.plan import Plan, Run, differences
from treepo.params import ExperimentParams

EVALUATION_0 = "evaluation 0"


@dataclass(frozen=True)
class PlannedRun:
    """One run, what sets it apart from the reference, what it takes over from whom, its cost."""

    run: Run
    differs: dict[str, object]
    shared: dict[str, str]
    cost: Cost


def planned(plan: Plan) -> list[PlannedRun]:
    """All runs in their order. What is shared follows from what each step reads."""
    makers: dict[str, str] = {}
    rows: list[PlannedRun] = []
    for run in plan.runs:
        shared: dict[str, str] = {}
        for part, identity in _identities(run.params):
            maker = makers.setdefault(identity, run.name)
            if maker != run.name:
                shared[part] = maker
        rows.append(PlannedRun(run, differences(plan, run), shared, _cost(plan, run, shared)))
    return rows


def _identities(params: ExperimentParams) -> Iterator[tuple[str, str]]:
    """Parts of a run, and all that decides their content: as `tasks.sharing`, before the fact.

    Later iterations read what the first reads, so they are shared where it is shared.
    """
    known: dict[str, str] = {}
    first = [(step.name, step, 1) for step in ITERATION] if params.iterations else []
    start = [("data", STEPS["prepare"], 0), ("warm-up", STEPS["warm_up"], 0)]
    for part, step, k in (*start, (EVALUATION_0, STEPS["evaluate"], 0), *first):
        identity = _identity(step, k, params, known)
        known |= dict.fromkeys(step.outputs(k), identity)
        yield part, identity


def _identity(step: Step, iteration: int, params: ExperimentParams, known: dict[str, str]) -> str:
    inputs = [known[name] for name in step.needs(iteration, params)]
    machine = (params.engine.device, params.engine.threads)
    return json.dumps([step.name, Sections(params, step.reads).values(), inputs, machine])


def _cost(plan: Plan, run: Run, shared: dict[str, str]) -> Cost:
    """The cost of what this run makes itself."""
    params = run.params
    evaluations = len(evaluated_policies(params)) - (EVALUATION_0 in shared)
    if "update" in shared:
        params = params.model_copy(update={"iterations": 0})
    return estimate(params, plan.params.cost, plan.params.stop, evaluations)
