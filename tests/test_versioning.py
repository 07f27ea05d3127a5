"""Which runs DVC is told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.versioning import LISTED, not_versioned
from tasks.workspace import Workspace


def test_a_dvc_project_of_somebody_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    workspace = Workspace(Path("runs"), "smoke")
    assert not_versioned(workspace) == "the working directory is no DVC project"
    Path("dvc.yaml").touch()
    Path(".dvc").mkdir()
    assert not_versioned(workspace) == f"dvc.yaml is not treepo's ({LISTED} is not there)"
    LISTED.parent.mkdir()
    LISTED.touch()
    assert not_versioned(workspace) is None
    assert not_versioned(Workspace(Path("other"), "smoke")) is not None
