"""One experiment's folder: where each artifact lies, and who may write.

Knows names and the lock; knows nothing of what the artifacts hold.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from treepo.errors import UserError, WorkError

PARAMS = "params.yaml"
TRAIN, HELDOUT = "data/train.parquet", "data/heldout.parquet"
REFERENCE = "policy/reference"
HASHES = ".hashes"  # what files had which hash; may be removed at any time
REPORT, METRICS = "report/index.html", "report/metrics.json"


def policy(iteration: int) -> str:
    """The policy that iteration `iteration` made; 0 is the one that RL starts from."""
    return f"policy/{iteration:06d}"


def of_iteration(iteration: int, name: str) -> str:
    """A file of one iteration: forest.parquet, scores.parquet, advantages.parquet, update.json."""
    return f"iterations/{iteration:06d}/{name}"


def evaluation(iteration: int) -> str:
    """The graded held-out responses of one policy."""
    return f"evaluation/{iteration:06d}.parquet"


def leads_out(name: str) -> bool:
    """Whether a name leads out of the folder that it is relative to."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Wait until no other process of this machine is in such a block over the same file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Workspace:
    """The folder RUNS/NAME. Artifact names are relative to it, with forward slashes."""

    runs: Path
    name: str

    def __post_init__(self) -> None:
        """Raises UserError where the name leads out of the folder of all runs."""
        if leads_out(self.name):
            raise UserError(f"{self.name}: a run's name must stay below the folder of all runs")

    @property
    def root(self) -> Path:
        """The experiment's folder."""
        return self.runs / self.name

    def path(self, artifact: str) -> Path:
        """Where an artifact lies."""
        return self.root / artifact

    def is_locked(self) -> bool:
        """Whether a process of this machine holds the lock; asks without taking it."""
        try:
            owner = (self.root / ".lock").read_text().strip()
        except OSError:
            return False
        return owner.isdigit() and psutil.pid_exists(int(owner))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the experiment for writing. Raises UserError where another process does."""
        file = self.root / ".lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WorkError(f"{file}: cannot be written ({error.strerror})") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
                raise UserError(
                    f"{self.root}: this experiment is running already (process {owner}); "
                    "wait for it, stop it, or give another --runs-dir"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(handle, 0)  # nobody holds it: `is_locked` need not ask who did
        finally:
            os.close(handle)
