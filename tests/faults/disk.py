"""Smoke runs on disks of every size: whichever write the disk refuses, one line says so.

    PYTHONPATH=tests python -m faults.disk --sizes 100 4000 --step 150

What was written before is then given a larger disk, where the run goes on. Mounts a tmpfs in a
namespace of its own, which needs no root.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from projects import TREEPO, environment, make_project, same_runs, treepo

NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def run_on_disk(folder: Path, kilobytes: int) -> tuple[int, str]:
    """A smoke run whose folder of runs has so much room; its exit code and complaint.

    What it leaves lies in `folder`/runs afterwards.
    """
    (folder / "small").mkdir()
    (folder / "runs").mkdir()
    command = (
        f"mount -t tmpfs -o size={kilobytes}k none small && {{ {shlex.join(TREEPO)} run smoke "
        "--runs-dir small; code=$?; cp -a small/. runs; exit $code; }"
    )
    done = subprocess.run(
        [*NAMESPACE, command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def main() -> None:
    """A line a size, then how many of each outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=(100, 4000), help="[kB]")
    parser.add_argument("--step", type=int, default=150, help="[kB]")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    with TemporaryDirectory() as scratch:
        clean = make_project(Path(scratch) / "clean")
        assert treepo(clean, "run", "smoke").returncode == 0
        for size in range(*options.sizes, options.step):
            folder = make_project(Path(scratch) / str(size))
            code, complaint = run_on_disk(folder, size)
            lines = [line for line in complaint.splitlines() if line.startswith("treepo: ")]
            clear = code == 0 or (code == 1 and len(lines) == 1 and "Traceback" not in complaint)
            again = treepo(folder, "run", "smoke")
            identical = again.returncode == 0 and same_runs(clean, folder)
            outcome = f"code {code}, {'clear' if clear else 'NOT CLEAR'}, then {identical=}"
            seen[outcome] += 1
            print(f"{size} kB: {outcome}: {lines[0] if lines else complaint[-200:]}", flush=True)
    print(*(f"{count} x {outcome}" for outcome, count in seen.items()), sep="\n")


if __name__ == "__main__":
    main()
