"""`treepo report NAME --follow`: the page of a run that goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from flows.follow import follow
from tasks.live import LIVE, write_live
from tasks.workspace import Workspace
from treepo.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def going(copied: Callable[[Sequence[str]], Path]) -> tuple[Workspace, list[str]]:
    """The finished run as it stood after its first update, and the lines that came later."""
    workspace = Workspace(copied(["runs/smoke/report"]) / "runs", "smoke")
    file = workspace.path("lineage.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    cut = next(k for k, line in enumerate(lines) if "000001/update.json" in line) + 1
    file.write_text("".join(lines[:cut]))
    return workspace, lines[cut:]


def test_the_page_grows_with_the_run(
    going: tuple[Workspace, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, later = going
    page, file = workspace.path(LIVE), workspace.path("lineage.jsonl")
    with workspace.lock():
        before = file.read_bytes()
        follower = threading.Thread(target=follow, args=(workspace, 0.05))
        follower.start()
        wait_for(page.exists)
        assert 'http-equiv="refresh"' in page.read_text()
        assert file.read_bytes() == before
        with file.open("a") as lineage:
            lineage.write("".join(later))
        time.sleep(0.2)
        assert follower.is_alive()
    follower.join(60)
    assert not follower.is_alive()
    said = capsys.readouterr().out
    assert "iteration 1\n" in said
    assert "iteration 3\n" in said
    assert "stopped before its report" in said


def wait_for(what: Callable[[], bool], patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_is_shown_before_the_first_evaluation(
    going: tuple[Workspace, list[str]],
) -> None:
    workspace, _ = going
    file = workspace.path("lineage.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert write_live(workspace) is None
    assert not workspace.path(LIVE).exists()


def test_a_run_that_never_began_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run has begun here"):
        follow(Workspace(tmp_path, "smoke"))
