"""The ancestry of an artifact: what made it, from what, back to the raw data.

Reads lineage files alone, so that it is quick; an ancestor may lie in another run's folder.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.lineage import FILE, Lineage, Record

DEPTH = 12  # levels of one tree; what lies deeper begins a tree of its own, or no line would fit


@dataclass
class Ancestor:
    """An artifact where it is shown in full.

    wanted: its hash as the artifact above it read it. above, below: inputs that are shown in full
    elsewhere.
    """

    name: str
    record: Record | None
    is_there: bool
    wanted: str | None = None
    inputs: list[Ancestor] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)


def ancestry(lineage: Lineage, artifact: str) -> Iterator[Ancestor]:
    """The artifact with all that it was made from: a tree, and trees for what lies too deep.

    Every ancestor is shown in full once, and by its name elsewhere.
    """
    family = _Family(lineage)
    waiting: deque[tuple[str, str | None]] = deque([(artifact, None)])
    seen = {artifact}
    while waiting:
        name, wanted = waiting.popleft()
        top = family.member(name, wanted)
        deeper: dict[str, str] = {}
        _expand(top, family, seen, deeper, 1)
        waiting.extend(deeper.items())
        seen.update(deeper)
        yield top


def _expand(
    node: Ancestor, family: _Family, seen: set[str], deeper: dict[str, str], depth: int
) -> None:
    """Give a node its inputs; those that would lie too deep go to `deeper`."""
    for name, wanted in family.inputs(node.name).items():
        if name in seen:
            node.above.append(name)
        elif depth == DEPTH or name in deeper:
            deeper.setdefault(name, wanted)
            node.below.append(name)
        else:
            seen.add(name)
            child = family.member(name, wanted)
            node.inputs.append(child)
            _expand(child, family, seen, deeper, depth + 1)


class _Family:
    """Records by name, over all runs that an ancestry touches; names are relative to the first."""

    def __init__(self, lineage: Lineage) -> None:
        self.root = lineage.file.parent
        self._lineages: dict[str, Lineage] = {"": lineage}

    def member(self, name: str, wanted: str | None) -> Ancestor:
        """An artifact, its inputs not yet filled in."""
        there = os.path.exists(f"{self.root}/{name}")
        return Ancestor(name, self.record(name), there, wanted)

    def record(self, name: str) -> Record | None:
        """What made an artifact; None where nothing is recorded, as for raw data."""
        run = self._run(name)
        return self._lineages[run].get(name.removeprefix(run)) if run is not None else None

    def inputs(self, name: str) -> dict[str, str]:
        """Names and hashes of what an artifact was made from."""
        record, run = self.record(name), self._run(name)
        if record is None or run is None:
            return {}
        if not run and not any(source.startswith("../") for source in record.inputs):
            return record.inputs
        return {os.path.normpath(f"{run}{name}"): digest for name, digest in record.inputs.items()}

    def _run(self, name: str) -> str | None:
        """Prefix of the names of the run that an artifact lies in."""
        if not name.startswith("../"):
            return ""
        parts = name.split("/")
        for end in range(len(parts) - 1, 0, -1):
            prefix = "/".join(parts[:end]) + "/"
            if prefix in self._lineages:
                return prefix
            if parts[end - 1] != ".." and (self.root / prefix / FILE).is_file():
                self._lineages[prefix] = Lineage(self.root / prefix)
                return prefix
        return None
