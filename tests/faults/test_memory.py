"""A limit of memory that is hit, as `faults.memory` sets them in every size."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from projects import make_project

from faults.memory import starve, version

pytestmark = pytest.mark.slow


def test_what_the_kernel_kills_for_its_memory_is_finished(finished: Path, tmp_path: Path) -> None:
    if version() is None:
        pytest.skip("this machine lets nobody make control groups with limits on memory")
    outcome = starve(finished, make_project(tmp_path), 400_000_000)
    assert outcome.kills
    assert outcome.code == -signal.SIGKILL
    assert outcome.identical
