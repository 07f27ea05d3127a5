"""What a command says of paths that cannot be looked at."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from projects import refused, treepo

from flows import ancestry, cli

LONG = "x" * 300


def call(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in this process, whose environment stays as it is."""
    monkeypatch.setattr(cli, "prepare", lambda: None)
    monkeypatch.setattr(sys, "argv", ["treepo", *command.split()])
    cli.main()


def failing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(ancestry, "show_lineage", fail)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR])
def test_a_path_that_cannot_be_looked_at_is_the_users_to_mend(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(number, monkeypatch)
    with pytest.raises(SystemExit) as end:
        call("lineage runs/closed", monkeypatch)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"treepo: runs/closed: {os.strerror(number)}\n"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
def test_any_other_error_keeps_its_traceback(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(number, monkeypatch)
    with pytest.raises(OSError, match="closed"):
        call("lineage runs/closed", monkeypatch)


@pytest.mark.parametrize("command", [f"lineage {LONG}/a", f"diff {LONG} b", f"diff a {LONG}"])
def test_a_name_that_no_file_can_have(command: str, tmp_path: Path) -> None:
    refused(treepo(tmp_path, *command.split()), f"{LONG}", "File name too long")
