"""A few of the kills that `faults.killing` counts by the dozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.killing import VICTIMS, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("name", "kills"), [("verifier", 4), ("rank", 1)])
def test_a_killed_child_changes_nothing(name: str, kills: int, tmp_path: Path) -> None:
    outcome = kill(VICTIMS[name], kills, tmp_path)
    assert outcome.kills == kills
    assert outcome.identical
