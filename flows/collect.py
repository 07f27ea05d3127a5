"""`treepo gc`: remove what retention lets go, in the workspace and in DVC's cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from flows.progress import console
from tasks.cache import Cache
from tasks.collect import Plan, kept_hashes, plan, runs_named
from tasks.versioning import commit, not_versioned
from tasks.workspace import Workspace
from treepo.params.ablation import AblationParams


def collect(name: str | None, runs: Path, dry_run: bool) -> None:
    """Remove, or with `dry_run` only list, what goes of one run or of all.

    Raises UserError where there is no such run, or where one is at work.
    """
    workspaces = runs_named(runs, name)
    with ExitStack() as stack:
        for workspace in workspaces:
            stack.enter_context(workspace.lock())
        plans = [plan(workspace) for workspace in workspaces]
        for one in plans:
            _tell(one, dry_run)
            if not dry_run:
                one.carry_out()
        _clear_cache(plans, runs, dry_run)


def _tell(one: Plan, dry_run: bool) -> None:
    verb = "would remove" if dry_run else "removes"
    megabytes = one.bytes / 1e6
    names = ", ".join(one.removable) or "nothing"
    console.print(f"{one.workspace.root}: {verb} {names} ({megabytes:.1f} MB)", soft_wrap=True)
    for held, reason in one.held.items():
        console.print(f"{one.workspace.root}: keeps {held}: {reason}", soft_wrap=True)


def _clear_cache(plans: Sequence[Plan], runs: Path, dry_run: bool) -> None:
    """Remove cache objects that nothing needs any more, after DVC knows what is there now."""
    unversioned = not_versioned(plans[0].workspace)
    cache = Cache.of_project()
    if unversioned or cache is None:
        reason = unversioned or "it is none of this project's own"
        console.print(f"DVC's cache stays as it is: {reason}", soft_wrap=True)
        return
    gone = set[str]().union(*(one.gone for one in plans)) - kept_hashes(plans, runs)
    names = {_stage_name(one.workspace)[1] for one in plans}
    if not dry_run:
        for kind, name in sorted({_stage_name(one.workspace) for one in plans if one.removable}):
            commit(kind, name)
    objects = cache.unneeded(gone, names)
    size = sum(file.stat().st_size for file in objects) / 1e6
    verb = "would remove" if dry_run else "removed"
    console.print(f"DVC's cache: {verb} {len(objects)} objects ({size:.1f} MB)")
    if not dry_run:
        for file in objects:
            file.unlink()


def _stage_name(workspace: Workspace) -> tuple[str, str]:
    """The kind of a run and the name that its stages have in dvc.yaml."""
    first, *rest = workspace.name.split("/")
    ablation = rest and first == AblationParams.folder
    return (first, rest[0]) if ablation else ("experiments", first)
