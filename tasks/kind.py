"""A kind of run -- experiment, evaluation, speed measurement: its parameters, place and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from tasks.lineage import Lineage
from tasks.steps import RunParams, Step, refuse_other_files, refuse_other_params
from tasks.workspace import Workspace
from treepo.loading import PARAMS, load
from treepo.params import BenchmarkRunParams, EfficiencyParams, ExperimentParams

Run = TypeVar("Run", ExperimentParams, BenchmarkRunParams, EfficiencyParams)


@dataclass(frozen=True)
class Kind(Generic[Run]):
    """What there is to a kind of run; `steps` by name, as they are where no run binds them."""

    params: type[Run]
    steps: Mapping[str, Step]

    def workspace(self, runs: Path, name: str) -> Workspace:
        """Where a run lies: RUNS/NAME an experiment, RUNS/evaluations/NAME an evaluation."""
        return Workspace(runs, str(Path(self.params.folder, name)))

    def load(
        self, workspace: Workspace, overrides: Sequence[str] = (), folder: Path = PARAMS
    ) -> Run:
        """Parameters of a run from its YAML. Raises UserError for whatever is wrong there."""
        return load(self.params, folder / f"{workspace.name}.yaml", overrides)

    def resolve(
        self, workspace: Workspace, overrides: Sequence[str] = (), folder: Path = PARAMS
    ) -> Run:
        """The same, refused where made artifacts had others, or other files of the user's.

        Raises UserError before anything is written.
        """
        params = self.load(workspace, overrides, folder)
        self.refuse_misfit(workspace, params)
        return params

    def refuse_misfit(self, workspace: Workspace, params: RunParams) -> None:
        """Raise UserError where an artifact, other than a view, was made otherwise.

        That is with other parameters, or from files of the user's that have changed.
        """
        values = params.model_dump(mode="json")
        for record in Lineage(workspace.root):
            path = workspace.path(record.artifact)
            step = self.steps.get(record.step)
            if step and not step.view and path.exists():
                now = {name: values.get(name) for name in record.params}
                refuse_other_params(path, record, now)
                refuse_other_files(path, record)

    def bound(self, inputs: Mapping[str, tuple[str, ...]]) -> dict[str, Step]:
        """All steps, those named with these inputs in the place of their own."""
        return {
            name: replace(step, inputs=lambda _, names=inputs[name]: names)
            if name in inputs
            else step
            for name, step in self.steps.items()
        }
