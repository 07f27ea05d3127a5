"""A run killed at any moment goes on and ends with the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from projects import killed_when, make_project, same_runs, treepo

pytestmark = pytest.mark.slow


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
    run = folder / "runs/smoke"
    for file in milestones:
        assert killed_when(run / file, folder, "run", "smoke", delay=rng.uniform(0, 0.15))
    result = treepo(folder, "run", "smoke")
    assert result.returncode == 0, result.stderr
    assert same_runs(folder, finished)
    leftovers = [path.name for path in (folder / "runs").rglob("*.partial")]
    assert not leftovers
