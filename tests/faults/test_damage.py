"""Every artifact of a run, damaged in every way: found by its hash before anybody uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.lineage import Lineage, Record
from tasks.resources import Resources
from tasks.run import STEPS
from tasks.steps import Context, make, verified_hash
from tasks.workspace import Workspace
from treepo.errors import UserError
from treepo.loading import load_experiment

pytestmark = pytest.mark.slow

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit flipped": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
    "torn": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "grown": lambda whole: whole + b"\0",
    "zeros where a page was": lambda whole: whole[:-64] + bytes(64),
}


@pytest.fixture
def context(copied: Callable[..., Path]) -> Context:
    folder = copied(())
    params = load_experiment(folder / "params/smoke.yaml")
    workspace = Workspace(folder / "runs", "smoke")
    return Context(workspace, params, Lineage(workspace.root), Resources())


def files(path: Path) -> Iterator[Path]:
    yield from (
        sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    )


def uses(context: Context, artifact: str) -> list[Record]:
    """Artifacts made from this one, other than views, which are simply made again."""
    return [
        record
        for record in context.lineage
        if artifact in record.inputs and not STEPS[record.step].view
    ]


def test_no_damaged_artifact_is_used(context: Context) -> None:
    damaged = 0
    for record in context.lineage:
        path = context.workspace.path(record.artifact)
        for file in files(path):
            whole = file.read_bytes()
            for name, damage in DAMAGES.items():
                file.unlink()  # it may be a link into DVC's cache
                file.write_bytes(damage(whole))
                with pytest.raises(UserError, match="corrupt or changed"):
                    verified_hash(context, record.artifact)
                for user in uses(context, record.artifact):
                    with pytest.raises(UserError) as refusal:
                        make(STEPS[user.step], context, user.iteration)
                    assert record.artifact in str(refusal.value), (name, user.artifact)
                damaged += 1
            file.write_bytes(whole)
        assert verified_hash(context, record.artifact) == record.hash
    assert damaged > 100
