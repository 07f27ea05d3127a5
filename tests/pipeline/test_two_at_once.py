"""Two experiments at once in one project: neither touches the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import dvc, make_project, same_runs, started

from tasks.hashing import content_hash

pytestmark = pytest.mark.slow
OTHER = "extends: smoke\nseed: 1\n"


def test_two_experiments_at_once(finished: Path, tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    (folder / "params/other.yaml").write_text(OTHER)
    with started(folder, "run", "smoke") as one, started(folder, "run", "other") as two:
        complaints = [run.communicate(timeout=500)[1] for run in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], complaints
    assert not any("Traceback" in complaint for complaint in complaints), complaints
    assert same_runs(folder, finished)
    assert content_hash(folder / "runs/other/policy") != content_hash(folder / "runs/smoke/policy")
    assert "up to date" in dvc(folder, "status").stdout
