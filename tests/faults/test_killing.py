"""A few of the kills that `faults.killing` counts by the dozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.killing import VICTIMS, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_killed_verifier_changes_nothing(tmp_path: Path) -> None:
    outcome = kill(VICTIMS["verifier"], 2, tmp_path)
    assert outcome.kills == 2
    assert outcome.identical
