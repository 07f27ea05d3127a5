"""A smoke run in a control group with less memory than it needs: the kernel kills what it picks.

    PYTHONPATH=tests python -m faults.memory

halves the distance between a limit that kills and one that does not, so that it is hit ever later,
and prints a line a limit: what the run left must be finished by the next one, which has no limit,
with the bytes of a run that never had one. Needs Linux and the right to make control groups.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from projects import make_project, same_runs, started, treepo

PATIENCE = 900.0  # for one run; one that has too little reads its libraries again and again [s]
TRIALS = 8


@dataclass(frozen=True)
class Names:
    """Files of a version of control groups. kills: which file counts them, under `oom_kill`."""

    parent: str
    limit: str
    peak: str
    kills: str


VERSIONS = (
    Names(
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.oom_control",
    ),
    Names("/sys/fs/cgroup", "memory.max", "memory.peak", "memory.events"),
)


class Group:
    """A control group that is there as long as the context is."""

    def __init__(self, names: Names, folder: Path) -> None:
        self._names, self._folder = names, folder

    def limit(self, size: int) -> None:
        """No more memory than this for all its processes together [bytes]."""
        (self._folder / self._names.limit).write_text(str(size))

    def take(self, process: subprocess.Popen[str]) -> None:
        """A process, and all that it will start."""
        (self._folder / "cgroup.procs").write_text(str(process.pid))

    def peak(self) -> int:
        """Most memory that they had together [bytes]."""
        return int((self._folder / self._names.peak).read_text())

    def kills(self) -> int:
        """How many the kernel has killed."""
        lines = (self._folder / self._names.kills).read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))

    def end(self) -> None:
        """Kill what is left, and remove it."""
        self.kill()
        self._folder.rmdir()

    def kill(self) -> None:
        """Kill all processes in it."""
        for pid in (self._folder / "cgroup.procs").read_text().split():
            with suppress(psutil.Error):
                process = psutil.Process(int(pid))
                process.kill()
                process.wait(10)


def version() -> Names | None:
    """What kind of control groups can be made here; None: none."""
    for names in VERSIONS:
        with suppress(OSError):
            folder = Path(names.parent) / f"treepo-{os.getpid()}-trial"
            folder.mkdir()
            usable = (folder / names.limit).exists()
            folder.rmdir()
            if usable:
                return names
    return None


@contextmanager
def group(name: str) -> Generator[Group]:
    """A new control group. Raises AssertionError where none can be made."""
    names = version()
    assert names, "no control groups with limits on memory can be made here"
    folder = Path(names.parent) / f"treepo-{os.getpid()}-{name}"
    folder.mkdir()
    made = Group(names, folder)
    try:
        yield made
    finally:
        made.end()


@dataclass(frozen=True)
class Outcome:
    """kills: by the kernel; code, made: the limited run's, its artifacts; identical: at last."""

    kills: int
    code: int
    made: int
    identical: bool


def usage(project: Path) -> int:
    """What a whole run takes [bytes]."""
    with group("free") as free:
        code, errors = _run(project, free)
        assert code == 0, errors
        return free.peak()


def starve(clean: Path, project: Path, limit: int) -> Outcome:
    """A run in so much memory, and then one without a limit.

    Raises AssertionError where one hangs, or the second does not end well.
    """
    with group("limited") as limited:
        limited.limit(limit)
        code, errors = _run(project, limited)
        kills = limited.kills()
    assert "Traceback" not in errors, errors
    lineage = project / "runs" / "smoke" / "lineage.jsonl"
    made = len(lineage.read_text().splitlines()) if lineage.exists() else 0
    again = treepo(project, "run", "smoke", timeout=PATIENCE)
    assert again.returncode == 0, again.stderr
    return Outcome(kills, code, made, same_runs(clean, project))


def _run(project: Path, within: Group) -> tuple[int, str]:
    with started(project, "run", "smoke") as run:
        within.take(run)
        try:
            _, errors = run.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            within.kill()
            raise AssertionError(f"no end within {PATIENCE:g} s") from None
    return run.returncode, errors


def main() -> None:
    """A line a limit."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| memory [MB] | kills | exit code | artifacts | same bytes in the end |")
    print("|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        clean = make_project(Path(folder) / "clean")
        low, high = 0, usage(clean)
        print(f"| {high / 1e6:.0f} | 0 | 0 | | (no limit) |", flush=True)
        for trial in range(TRIALS):
            limit = (low + high) // 2
            out = starve(clean, make_project(Path(folder) / str(trial)), limit)
            figures = (f"{limit / 1e6:.0f}", out.kills, out.code, out.made, out.identical)
            print(f"| {' | '.join(map(str, figures))} |", flush=True)
            low, high = (limit, high) if out.kills else (low, limit)


if __name__ == "__main__":
    main()
