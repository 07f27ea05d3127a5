"""What lineage says of the code, in a clone made for the test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A clean clone, from which the code seems to run."""
    for package in ("treepo", "tasks", "flows", "docs"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "file").write_text("as committed")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "tasks/provenance.py"))
    provenance.code_version.cache_clear()
    yield tmp_path
    provenance.code_version.cache_clear()


def test_a_clean_clone_is_its_commit(clone: Path) -> None:
    (clone / "docs/file").write_text("no code")
    commit = git(clone, "rev-parse", "HEAD")
    assert provenance.code_version() == {"commit": commit, "changed": "no"}


@pytest.mark.parametrize("file", ["treepo/file", "tasks/file", "flows/file", "treepo/new"])
def test_a_dirty_clone_is_said_to_be_changed(clone: Path, file: str) -> None:
    (clone / file).write_text("edited")
    assert provenance.code_version()["changed"] == "yes"
