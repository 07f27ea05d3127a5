"""DVC: what a run wrote becomes the committed state of the stages in dvc.yaml."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import yaml

from tasks.workspace import Workspace
from treepo.storage import write_text

log = logging.getLogger(__name__)
LISTED = Path("params/experiments.yaml")
STAGES = {  # of dvc.yaml, for the kinds of runs that LISTED lists
    "experiments": ("resolve", "prepare", "train", "evaluate", "report"),
    "evaluations": ("benchmarks",),
    "efficiency": ("measure",),
    "ablations": ("ablate",),
}


def not_versioned(workspace: Workspace) -> str | None:
    """Why DVC is not told of this run; None where it is."""
    if os.environ.get("DVC_STAGE"):
        return "DVC runs this command itself"
    if not Path("dvc.yaml").is_file() or not Path(".dvc").is_dir():
        return "the working directory is no DVC project"
    if not LISTED.is_file():
        return f"dvc.yaml is not treepo's ({LISTED} is not there)"
    if workspace.runs.resolve() != Path("runs").resolve():
        return f"dvc.yaml speaks of runs/, not of {workspace.runs}"
    return None


def register(kind: str, name: str) -> None:
    """Give a run its instance of every stage that dvc.yaml has for its kind."""
    text = LISTED.read_text(encoding="utf-8")
    listed: dict[str, list[str]] = yaml.safe_load(text)
    if name not in listed[kind]:
        comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
        longer = {**listed, kind: [*listed[kind], name]}
        write_text(comment + yaml.safe_dump(longer, sort_keys=False), LISTED)


def commit(kind: str, name: str) -> None:
    """Record the present outputs of a run's stages in dvc.lock and in DVC's cache."""
    from dvc.exceptions import DvcException  # importing DVC takes a second
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    register(kind, name)
    try:
        with Repo() as repo:
            for stage in STAGES[kind]:
                repo.commit(f"{stage}@{name}", force=True)
    except DvcException as error:
        log.warning("DVC: the run was not committed (%s); 'dvc commit' does it later", error)
