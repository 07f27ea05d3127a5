"""Rollouts by an older policy, begun while the update before them is under way."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_project, refused, treepo

from tasks.lineage import Lineage
from tasks.reproduce import reproduce

STALE = ("--set", "rollout.staleness=1", "--set", "update.importance_cap=2")


@pytest.mark.slow
def test_corrections_are_asked_for(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "asked")
    refused(treepo(folder, "run", "smoke", *STALE[:2]), "update.importance_cap")
    refused(treepo(folder, "run", "smoke", *STALE), "update.mismatch_limit: null")


@pytest.mark.slow
def test_an_older_policy_samples_and_the_forest_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project(tmp_path / "stale")
    result = treepo(folder, "run", "smoke", *STALE, "--set", "update.mismatch_limit=null")
    assert result.returncode == 0, result.stderr
    lineage = Lineage(folder / "runs/smoke")
    for iteration, sampler in ((1, 0), (2, 0), (3, 1)):
        forest = lineage.get(f"iterations/{iteration:06d}/forest.parquet")
        assert forest is not None
        assert sorted(forest.inputs) == ["data", f"policy/{sampler:06d}"]
        update = lineage.get(f"policy/{iteration:06d}")
        assert update is not None
        assert f"policy/{iteration - 1:06d}" in update.inputs
    monkeypatch.chdir(folder)
    # The second was sampled beside the first update, which changed weights in place.
    for iteration in (2, 3):
        made = Path(f"runs/smoke/iterations/{iteration:06d}/forest.parquet")
        assert reproduce(made, chain=False) == "identical"
