"""A clock that jumps by hours, back and forth, changes no artifact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from projects import environment, make_project, same_runs, started

pytestmark = pytest.mark.slow
# Python imports this module at its start, in every process of the run.
JUMPING = """
import random, time

real, real_ns, rng = time.time, time.time_ns, random.Random(0)
HOURS = [0] * 20 + [-30, -1, 1, 30]
time.time = lambda: real() + 3600 * rng.choice(HOURS)
time.time_ns = lambda: real_ns() + 3600 * 10**9 * rng.choice(HOURS)
"""


def test_a_jumping_clock(finished: Path, tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    (folder / "clock").mkdir()
    (folder / "clock/sitecustomize.py").write_text(JUMPING)
    path = os.pathsep.join([str(folder / "clock"), environment()["PYTHONPATH"]])
    with started(folder, "run", "smoke", PYTHONPATH=path) as run:
        _, complaint = run.communicate(timeout=500)
    assert run.returncode == 0, complaint
    assert same_runs(folder, finished)
