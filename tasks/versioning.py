"""DVC: what a run wrote becomes the committed state of the stages in dvc.yaml."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml

from tasks.workspace import Workspace
from treepo.storage import write_text

log = logging.getLogger(__name__)
STAGES = ("resolve", "prepare", "train", "evaluate", "report")
EXPERIMENTS = Path("params/experiments.yaml")


def not_versioned(workspace: Workspace) -> str | None:
    """Why DVC does not version this run; None where it does."""
    if not Path("dvc.yaml").is_file() or not Path(".dvc").is_dir():
        return "the working directory is no DVC project"
    if workspace.runs.resolve() != Path("runs").resolve():
        return f"dvc.yaml speaks of runs/, not of {workspace.runs}"
    return None


def register(name: str) -> None:
    """Give the experiment its instance of every stage in dvc.yaml."""
    text = EXPERIMENTS.read_text(encoding="utf-8")
    listed: list[str] = yaml.safe_load(text)["experiments"]
    if name not in listed:
        comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
        write_text(comment + yaml.safe_dump({"experiments": [*listed, name]}), EXPERIMENTS)


def commit(workspace: Workspace, stages: Sequence[str] = STAGES) -> None:
    """Record the stages' present outputs in dvc.lock and in DVC's cache."""
    from dvc.exceptions import DvcException  # importing DVC takes a second
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    register(workspace.name)
    try:
        with Repo() as repo:
            for stage in stages:
                repo.commit(f"{stage}@{workspace.name}", force=True)
    except DvcException as error:
        log.warning("DVC: the run was not committed (%s); 'dvc commit' does it later", error)
