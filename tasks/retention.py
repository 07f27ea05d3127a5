"""Retention: which policies stay on disk, and how one that went is put back.

A policy that iteration k made is a function of the policy before it and of the iteration's stored
forest, scores and advantages, so it can go as long as an earlier one stays: replaying its update
samples nothing. Policy 0, evaluated policies, those that other runs read, and the last always stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from tasks.hashing import content_hash
from tasks.lineage import FILE, Lineage
from tasks.replay import Replay, replayable
from tasks.report import evaluated_policies
from tasks.steps import Context, Keeping
from tasks.update import UPDATE
from tasks.workspace import Workspace, evaluation, of_iteration, policy
from treepo.errors import WorkError
from treepo.params import ExperimentParams
from treepo.storage import atomic

SCRATCH, REMOVED = ".replay", ".removed"  # folders of a run; what a killed process left there goes


@dataclass(frozen=True)
class Retention(Keeping):
    """What `params.checkpoints` asks for, in one run."""

    workspace: Workspace
    params: ExperimentParams

    def expendable(self, artifact: str, lineage: Lineage) -> bool:
        """Whether retention lets a policy go."""
        if not self.replayable(artifact, lineage):
            return False
        k, keep = _number(artifact), self.params.checkpoints
        last = k + keep.keep_last + self.params.rollout.staleness
        return not (
            (keep.keep_every and k % keep.keep_every == 0)
            or not _leads_to(lineage, k, last)
            or not self._was_made(last, lineage)
            or lineage.get(evaluation(k))
            or k in self._evaluated
            or artifact in self._read_elsewhere
        )

    def replayable(self, artifact: str, lineage: Lineage) -> bool:
        """Whether a policy that is gone can be made again without sampling."""
        return replayable(lineage, artifact) and self._was_made(_number(artifact), lineage)

    def restore(self, artifact: str, context: Context) -> None:
        """Replay the updates that lead to a policy, from the newest one that is there.

        Raises WorkError where other bytes come out than were recorded; then nothing is put back.
        """
        scratch = self.workspace.path(SCRATCH)
        shutil.rmtree(scratch, ignore_errors=True)
        steps = {UPDATE.name: UPDATE}
        root = self.workspace.root
        again = Replay(root, context.lineage, scratch, context.resources, steps).make(artifact)
        if content_hash(again) != context.recorded(artifact):
            raise WorkError(
                f"{root / artifact}: is gone, and replaying its update gave other bytes; "
                f"'treepo lineage' shows the versions it was made with; 'dvc pull' may bring it"
            )
        with atomic(root / artifact) as temporary:
            os.rename(again, temporary)
        shutil.rmtree(scratch, ignore_errors=True)

    def tidy(self, lineage: Lineage) -> None:
        """Remove every policy that may go."""
        for artifact in self.removable(lineage):
            remove(self.workspace, artifact)

    def removable(self, lineage: Lineage) -> list[str]:
        """The policies that are there and may go, oldest first."""
        folder = self.workspace.path(policy(0)).parent
        names = sorted(f"{folder.name}/{path.name}" for path in folder.glob("[0-9]*"))
        return [name for name in names if self.expendable(name, lineage)]

    def _was_made(self, iteration: int, lineage: Lineage) -> bool:
        """Whether an iteration's update was made, and is not to be made anew.

        Retention leaves its account in place; DVC removes both before it makes a stage anew.
        """
        account = self.workspace.path(of_iteration(iteration, "update.json"))
        return lineage.get(policy(iteration)) is not None and account.exists()

    @cached_property
    def _evaluated(self) -> frozenset[int]:
        return frozenset(evaluated_policies(self.params))

    @cached_property
    def _read_elsewhere(self) -> frozenset[str]:
        """Artifacts of this run that other runs' artifacts were made from."""
        own = self.workspace.root.resolve()
        return frozenset(
            path.relative_to(own).as_posix()
            for path in _foreign_inputs(self.workspace.runs)
            if path.is_relative_to(own)
        )


def _leads_to(lineage: Lineage, first: int, last: int) -> bool:
    """Whether policy `last` was made from policy `first`, and not from one that lay there before.

    Lineage still speaks of policies that were removed to make them with other parameters.
    """
    records = [lineage.get(policy(k)) for k in range(first, last + 1)]
    return all(
        before and after and after.inputs.get(before.artifact) == before.hash
        for before, after in pairwise(records)
    )


def _number(artifact: str) -> int:
    """The iteration of a policy."""
    return int(artifact.rpartition("/")[2])


def _foreign_inputs(runs: Path) -> Iterator[Path]:
    """What runs read of other runs: evaluations, measurements of speed."""
    for file in runs.rglob(FILE):
        if not _may_read_elsewhere(file):  # most do not, and parsing takes its time
            continue
        root = file.parent
        for record in Lineage(root):
            yield from (
                Path(os.path.normpath(root.resolve() / n)) for n in record.inputs if ".." in n
            )


def _may_read_elsewhere(file: Path) -> bool:
    try:
        return b'"../' in file.read_bytes()
    except OSError:  # reading it as lineage says why
        return True


def remove(workspace: Workspace, artifact: str) -> None:
    """Remove a folder wholly or, where this process dies, not at all."""
    trash = workspace.path(REMOVED)
    shutil.rmtree(trash, ignore_errors=True)
    trash.mkdir()
    os.rename(workspace.path(artifact), trash / "artifact")
    shutil.rmtree(trash)
