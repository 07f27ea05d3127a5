"""What `treepo gc` removes: policies that retention lets go, and their objects in DVC's cache.

Nothing goes that could not be had again: before a policy is removed, the artifacts that its replay
would read are read and compared with lineage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.hashing import content_hash
from tasks.lineage import FILE, Lineage
from tasks.retention import Retention, remove
from tasks.update import UPDATE
from tasks.workspace import PARAMS, Workspace, policy
from treepo.errors import UserError
from treepo.loading import file_of, load_experiment
from treepo.params import ExperimentParams


@dataclass(frozen=True)
class Plan:
    """What may go in one run. held: policies that must stay though retention lets them go, why."""

    workspace: Workspace
    retention: Retention
    lineage: Lineage
    removable: list[str]
    held: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of what goes in the workspace; linked cache objects count too."""
        files = (f for name in self.removable for f in self.workspace.path(name).rglob("*"))
        return sum(file.stat().st_size for file in files if file.is_file())

    @property
    def gone(self) -> set[str]:
        """Hashes of all policies that are not, or will not be, in the workspace."""
        return {
            record.hash
            for record in self.lineage
            if self.retention.expendable(record.artifact, self.lineage)
            and (
                record.artifact in self.removable
                or not self.workspace.path(record.artifact).exists()
            )
        }

    def carry_out(self) -> None:
        """Remove the policies from the workspace."""
        for name in self.removable:
            remove(self.workspace, name)


def runs_named(runs: Path, name: str | None) -> list[Workspace]:
    """The experiments below RUNS/NAME, or all; an ablation's runs among them.

    Raises UserError where there are none.
    """
    top = runs / name if name else runs
    found = [
        Workspace(runs, file.parent.relative_to(runs).as_posix())
        for file in sorted(top.rglob(FILE))
        if Lineage(file.parent).get(policy(0))
    ]
    if not found:
        raise UserError(f"{top}: no experiment lies here")
    return found


def plan(workspace: Workspace) -> Plan:
    """What retention lets go in a run, less what could not be made again.

    Retention is what params/NAME.yaml says now; of a run without such a file, its params.yaml.
    """
    file = file_of(ExperimentParams, workspace.name)
    params = load_experiment(file if file.is_file() else workspace.path(PARAMS))
    lineage = Lineage(workspace.root)
    retention = Retention(workspace, params)
    removable: list[str] = []
    held: dict[str, str] = {}
    for name in retention.removable(lineage):
        reason = _why_held(workspace, lineage, name)
        if reason:
            held[name] = reason
        else:
            removable.append(name)
    return Plan(workspace, retention, lineage, removable, held)


def _why_held(workspace: Workspace, lineage: Lineage, artifact: str) -> str | None:
    """Why a policy could not be replayed; None where it could.

    Where it could not, it stays, and so the one after it still has what it is replayed from.
    """
    record = lineage.get(artifact)
    assert record is not None
    assert record.step == UPDATE.name
    for name, wanted in record.inputs.items():
        known = lineage.get(name)
        path = workspace.path(name)
        if known is None or known.hash != wanted:
            return f"{name} was made again since"
        if path.exists() and content_hash(path) != wanted:
            return f"{name} is damaged"
        if not path.exists() and known.step != UPDATE.name:
            return f"{name} is missing"
    return None


def kept_hashes(plans: Sequence[Plan], runs: Path) -> set[str]:
    """Hashes of all artifacts that stay in any run of the project."""
    going = {plan.workspace.root.resolve(): set(plan.removable) for plan in plans}
    kept: set[str] = set()
    for file in runs.rglob(FILE):
        root = file.parent
        leaving = going.get(root.resolve(), set())
        kept |= {
            record.hash
            for record in Lineage(root)
            if record.artifact not in leaving and (root / record.artifact).exists()
        }
    return kept
