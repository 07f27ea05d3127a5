"""An experiment's run: what is opened once, and the steps by name.

`opened` gives the context that all steps of a process share; `STEPS` is the pipeline's alphabet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tasks.advantage import ADVANTAGE
from tasks.evaluate import EVALUATE
from tasks.hashing import remembered
from tasks.kind import Kind
from tasks.lineage import Lineage
from tasks.prepare import PREPARE
from tasks.reference import REFERENCE_STEP, reference_artifact
from tasks.report import REPORT_STEP, evaluated_policies, report_step
from tasks.resolve import RESOLVE
from tasks.resources import Resources
from tasks.retention import Retention
from tasks.rollout import ROLLOUT
from tasks.score import SCORE
from tasks.sharing import NO_SIBLINGS, Siblings
from tasks.steps import Context, Keeping, Made, RunParams, find, make
from tasks.update import UPDATE
from tasks.warm_up import WARM_UP
from tasks.workspace import HASHES, REFERENCE, Workspace
from treepo.params import BenchmarkRunParams, ExperimentParams

STEPS = {
    step.name: step
    for step in (
        RESOLVE, PREPARE, WARM_UP, REFERENCE_STEP, ROLLOUT, SCORE, ADVANTAGE, UPDATE, EVALUATE,
        REPORT_STEP,
    )
}  # fmt: skip
EXPERIMENT = Kind(ExperimentParams, STEPS)
ITERATION = (ROLLOUT, SCORE, ADVANTAGE, UPDATE)


@contextmanager
def opened(
    workspace: Workspace, params: RunParams, siblings: Siblings = NO_SIBLINGS
) -> Iterator[Context]:
    """Hold the lock of an experiment or evaluation, and what is dear to open."""
    with workspace.lock(), remembered(workspace.path(HASHES)), resources_of(params) as resources:
        lineage = Lineage(workspace.root)
        is_experiment = isinstance(params, ExperimentParams)
        keeping = Retention(workspace, params) if is_experiment else Keeping()
        with _threads(params, lineage):
            yield Context(workspace, params, lineage, resources, siblings, keeping=keeping)


def resources_of(params: RunParams) -> Resources:
    """What a run's steps open. Speed is measured on this machine alone."""
    if isinstance(params, ExperimentParams | BenchmarkRunParams):
        return Resources(params.compute, params.plugins)
    return Resources()


@contextmanager
def _threads(params: RunParams, lineage: Lineage) -> Iterator[None]:
    """The number asked for; else the one that the run began with, as results depend on it."""
    before = torch.get_num_threads()
    began = next((record.device.get("threads") for record in lineage if record.device), None)
    torch.set_num_threads(params.engine.threads or began or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def perform(name: str, context: Context, iteration: int) -> Made:
    """Make one step's artifacts, unless they are there."""
    if name == REPORT_STEP.name:
        return make(report_step(context.params), context, context.params.iterations)
    made = make(STEPS[name], context, iteration)
    if name == UPDATE.name and made.fresh and isinstance(context.keeping, Retention):
        context.keeping.tidy(context.lineage)
    return made


def standing(name: str, context: Context, iteration: int) -> Made | None:
    """One step's artifacts, where they are there and as they should be; makes nothing."""
    return None if name == REPORT_STEP.name else find(STEPS[name], context, iteration)


def first_policies(params: ExperimentParams) -> list[str]:
    """The steps that make the policies which RL needs before its first iteration."""
    has_own_reference = reference_artifact(params.update) == REFERENCE
    return [WARM_UP.name, *([REFERENCE_STEP.name] if has_own_reference else [])]


def stage(name: str, params: ExperimentParams) -> list[tuple[str, int]]:
    """The steps of one stage of dvc.yaml, in order; any other name is that step alone."""
    if name == "train":
        loop = [(step.name, k) for k in range(1, params.iterations + 1) for step in ITERATION]
        return [*((step, 0) for step in first_policies(params)), *loop]
    if name == "evaluate":
        return [("evaluate", k) for k in evaluated_policies(params)]
    return [(name, 0)]
