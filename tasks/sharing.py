"""Artifacts that sibling experiments made: taken over where all that they depend on is equal.

Equal are the step, its iteration, the hashes of its inputs and of the user's files, the parameters
that it reads (the experiment's seed among them), what it observed, and the device with its number
of threads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tasks.hashing import content_hash
from tasks.lineage import Lineage, Record
from tasks.workspace import Workspace


class Siblings:
    """The artifacts of other experiments, as their lineage told when this was made."""

    def __init__(self, workspaces: Iterable[Workspace]) -> None:
        self._made: dict[str, tuple[Workspace, Record]] = {}
        for workspace in workspaces:
            for record in Lineage(workspace.root):
                self._made.setdefault(_identity(record), (workspace, record))

    def find(self, wanted: Record) -> tuple[Workspace, Record] | None:
        """The sibling that holds the artifact that `wanted` would make, whole, and its record."""
        found = self._made.get(_identity(wanted))
        if found is None:
            return None
        workspace, record = found
        try:
            whole = content_hash(workspace.path(record.artifact)) == record.hash
        except OSError:
            return None
        return found if whole else None


NO_SIBLINGS = Siblings(())


def _identity(record: Record) -> str:
    """What decides the artifact's content, as text."""
    parts = (
        record.artifact,
        record.step,
        record.iteration,
        record.inputs,
        record.files,
        record.params,
        record.observed,
        record.seed,
        record.device,
    )
    return json.dumps(parts, sort_keys=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or for each file of a folder; a copy across file systems."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_or_copy_file)
    else:
        _link_or_copy_file(source, target)


def _link_or_copy_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
