"""A run killed at any moment goes on and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from projects import TREEPO, environment, make_project, treepo

from tasks.hashing import content_hash

pytestmark = pytest.mark.slow
KILLS = 6
COMPARED = ("data", "policy", "iterations", "evaluation", "params.yaml")


def kill_when(folder: Path, file: str, delay: float) -> bool:
    """Start the run, SIGKILL it `delay` seconds after `file` appears; whether it was running."""
    with subprocess.Popen(
        [*TREEPO, "run", "smoke"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not (folder / "runs/smoke" / file).exists():
            time.sleep(0.005)
        time.sleep(delay)
        going = process.poll() is None
        if going:
            os.killpg(process.pid, signal.SIGKILL)
    return going


def test_killed_at_random_moments(finished: Path, tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    rng = random.Random(7)
    milestones = [
        "data",
        "policy/000000",
        "evaluation/000000.parquet",
        "iterations/000001/forest.parquet",
        "policy/000002",
        "iterations/000003/scores.parquet",
    ]
    kills = sum(kill_when(folder, file, rng.uniform(0, 0.15)) for file in milestones)
    assert kills == KILLS
    result = treepo(folder, "run", "smoke")
    assert result.returncode == 0, result.stderr
    for name in COMPARED:
        assert content_hash(folder / "runs/smoke" / name) == content_hash(
            finished / "runs/smoke" / name
        ), name
    leftovers = [path.name for path in (folder / "runs").rglob("*.partial")]
    assert not leftovers
