"""What grows in one process over many iterations: memory, open files, time.

`treepo run smoke` in a project of its own; at the end of each iteration the command's own process
is looked at, without its children (Prefect's server, verifiers). Growth compares the last fifth
with the one that begins after the warm-up's 50 iterations, by medians.
Usage: python benchmarks/soak.py [--iterations 500] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
from project import make_project

SETTLED = 50  # iterations until everything is loaded, cached and in its rhythm
POLL = 0.01


@dataclass(frozen=True)
class Look:
    """The process after an iteration. seconds, cpu_seconds: since the look before."""

    memory_mb: float
    files: int
    threads: int
    seconds: float
    cpu_seconds: float


def looks(folder: Path, iterations: int) -> Iterator[Look]:
    """One look an iteration, when its account is written. Raises where the command fails."""
    treepo = Path(sys.executable).with_name("treepo")
    command = [treepo, "run", "smoke", "--set", f"iterations={iterations}"]
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        process = psutil.Process(running.pid)
        before, spent = time.perf_counter(), 0.0
        for k in range(1, iterations + 1):
            account = folder / f"runs/smoke/iterations/{k:06d}/update.json"
            while not account.exists():
                if running.poll() is not None:
                    raise RuntimeError((folder / "log.txt").read_text()[-2000:])
                time.sleep(POLL)
            now, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
            memory = process.memory_info().rss / 1e6
            yield Look(memory, process.num_fds(), process.num_threads(), now - before, cpu - spent)
            before, spent = now, cpu
        if running.wait():
            raise RuntimeError((folder / "log.txt").read_text()[-2000:])


def growth(found: Sequence[Look]) -> dict[str, dict[str, float]]:
    """Of each measure: the median after the start, that of the end, and by what share it grew."""
    settled = found[SETTLED:]
    part = max(1, len(settled) // 5)
    summary: dict[str, dict[str, float]] = {}
    for name in asdict(found[0]):
        first, last = (
            median(getattr(look, name) for look in some)
            for some in (settled[:part], settled[-part:])
        )
        summary[name] = {"start": first, "end": last, "growth": last / first - 1}
    return summary


def main() -> None:
    """Print the growth; keep every look where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = list(looks(make_project(Path(name)), asked.iterations))
    summary = growth(found)
    print(json.dumps(summary, indent=1))
    if asked.out:
        content = {"summary": summary, "looks": [asdict(look) for look in found]}
        asked.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
