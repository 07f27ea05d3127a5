"""Lineage: one line of JSON for every artifact, saying what made it from what.

Lines are only ever appended; the last line of an artifact is the one that counts.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from treepo.errors import UserError, WorkError

FILE = "lineage.jsonl"
PACKAGES = ("treepo", "torch", "transformers", "accelerate", "numpy", "datasets", "math-verify")


@dataclass(frozen=True)
class Record:
    """Where one artifact comes from.

    hash: of its content (DVC's md5); inputs: artifact -> hash; params: the sections that the step
    reads; observed: measured values that it reads; seconds: wall time of the step; taken_from: the
    sibling experiment that made an equal artifact, where this one was not made but taken over.
    """

    artifact: str
    hash: str
    step: str
    iteration: int
    inputs: dict[str, str]
    params: dict[str, Any]
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

    def append(self, record: Record) -> None:
        """Add one line, on disk before this returns. Raises WorkError where the disk refuses."""
        with self._writing:
            try:
                self._own_copy()
                with self.file.open("ab") as file:
                    file.write(json.dumps(asdict(record)).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise WorkError(f"{self.file}: cannot be written ({error.strerror})") from None
            self._records[record.artifact] = record

    def _own_copy(self) -> None:
        """Cut off a line that a crash left torn, and never write into a linked cache file."""
        if not self.file.exists():
            return
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        status = self.file.stat()
        if whole == content and status.st_nlink == 1 and status.st_mode & 0o200:
            return
        fresh = self.file.with_suffix(".partial")
        fresh.write_bytes(whole)
        os.replace(fresh, self.file)


def _read(file: Path) -> Iterator[Record]:
    if not file.exists():
        return
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn
        try:
            yield Record(**json.loads(line))
        except (ValueError, TypeError):
            raise UserError(
                f"{file}: line {number} is damaged; restore the file or start in another --runs-dir"
            ) from None


@cache
def code_version() -> dict[str, str]:
    """Commit of the code, and whether files differ from it; empty outside a git checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            # Without the optional locks: a run killed in the middle must leave none behind.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "treepo", "tasks", "flows")
        return {"commit": git("rev-parse", "HEAD"), "changed": "yes" if changed else "no"}
    except (OSError, subprocess.CalledProcessError):
        return {}


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, and of Python."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device(name: str) -> dict[str, Any]:
    """What computed: torch device, processor, threads."""
    described = (
        torch.cuda.get_device_name(name)
        if name.startswith("cuda")
        else torch.backends.cpu.get_cpu_capability()
    )
    return {
        "device": name,
        "kind": described,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
