"""Lineage: one line of JSON for every artifact, saying what made it from what.

Lines are only ever appended; the last line of an artifact is the one that counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import TypeAdapter

from tasks.workspace import leads_out
from treepo.errors import UserError, WorkError

FILE = "lineage.jsonl"


@dataclass(frozen=True)
class Record:
    """Where one artifact comes from.

    hash: of its content (DVC's md5); inputs: artifact -> hash; files: the user's own, such as
    problems -> hash; params: the sections that the step reads; observed: measured values that it
    reads; seconds: wall time of the step; taken_from: the sibling experiment that made an equal
    artifact, where this one was not made but taken over.
    """

    artifact: str
    hash: str
    step: str
    iteration: int
    inputs: dict[str, str]
    params: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    mlflow_run: str | None = None
    prefect_run: str | None = None
    taken_from: str | None = None


_RECORD = TypeAdapter(Record)


class Lineage:
    """The records of one experiment, in memory and in its file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._records = {record.artifact: record for record in _read(self.file)}
        self._writing = Lock()  # a rollout may run beside the update before it

    def get(self, artifact: str) -> Record | None:
        """What made this artifact last; None where nothing is recorded."""
        return self._records.get(artifact)

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._records.values()))

    def append(self, *records: Record) -> None:
        """Add a line for each, on disk before this returns. Raises WorkError where it refuses.

        One write for all: a kill leaves no step of which one output is recorded, another not.
        """
        lines = b"".join(json.dumps(asdict(record)).encode() + b"\n" for record in records)
        with self._writing:
            try:
                self._own_copy()
                with self.file.open("ab") as file:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise WorkError(f"{self.file}: cannot be written ({error.strerror})") from None
            self._records |= {record.artifact: record for record in records}

    def _own_copy(self) -> None:
        """Cut off a line that a crash left torn, and never write into a linked cache file."""
        if not self.file.exists():
            return
        status = self.file.stat()
        if _ends_whole(self.file) and status.st_nlink == 1 and status.st_mode & 0o200:
            return
        content = self.file.read_bytes()
        fresh = self.file.with_suffix(".partial")
        fresh.write_bytes(content[: content.rfind(b"\n") + 1])
        os.replace(fresh, self.file)


def _ends_whole(file: Path) -> bool:
    """Whether the last line has its end; reads no more, as the file grows with the run."""
    with file.open("rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(max(0, size - 1))
        return content.read() in (b"", b"\n")


def _read(file: Path) -> Iterator[Record]:
    if not file.exists():
        return
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn
        try:
            record = _RECORD.validate_json(line)
            if leads_out(record.artifact):
                raise ValueError
            yield record
        except ValueError:
            raise UserError(
                f"{file}: line {number} is damaged; restore the file or start in another --runs-dir"
            ) from None


def locate(path: Path) -> tuple[Lineage, str]:
    """The run's lineage and the artifact that `path` is, or is a part of.

    Raises UserError where no lineage speaks of it.
    """
    absolute = path.absolute()
    for root in absolute.parents:
        if (root / FILE).is_file():
            lineage = Lineage(root)
            part = absolute.relative_to(root)
            for name in (part, *part.parents):
                if lineage.get(name.as_posix()):
                    return lineage, name.as_posix()
            raise UserError(f"{path}: {root / FILE} does not say what made it")
    raise UserError(f"{path}: lies in no experiment (no {FILE} in any folder above)")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
