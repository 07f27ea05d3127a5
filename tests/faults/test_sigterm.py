"""SIGTERM in a run: exit code 0, nothing left behind, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from projects import await_file, make_project, same_runs, started, treepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# Whose appearance is the moment: in the warm-up, beside a rollout's end, in an update.
MILESTONES = ("data", "iterations/000001/forest.parquet", "iterations/000002/advantages.parquet")


def terminate_when(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Start the run, send SIGTERM when `file` appears, and wait for its end."""
    assert not (folder / "runs/smoke" / file).exists()
    # Its own server, which must end with it.
    with started(folder, "run", "smoke", PREFECT_API_URL="") as run:
        await_file(folder / "runs/smoke" / file, run)
        time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        out, errors = run.communicate(timeout=300)
        assert not of_session(run.pid)
    return subprocess.CompletedProcess(run.args, run.returncode, out, errors)


def of_session(session: int) -> list[psutil.Process]:
    """Processes that still run in a session."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_stopped_and_gone_on(finished: Path, tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    for file in MILESTONES:
        ended = terminate_when(folder, file)
        assert ended.returncode == 0, ended.stderr
        assert "stopped; run again to go on" in ended.stdout
        assert "Traceback" not in ended.stderr
        assert (folder / "runs/smoke" / file).exists()
        assert not list((folder / "runs").rglob("*.partial"))
    result = treepo(folder, "run", "smoke")
    assert result.returncode == 0, result.stderr
    assert same_runs(folder, finished)
