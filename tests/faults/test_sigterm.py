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
from projects import TREEPO, environment, make_project, treepo

from faults.killing import COMPARED
from tasks.hashing import content_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# Whose appearance is the moment: in the warm-up, beside a rollout's end, in an update.
MILESTONES = ("data", "iterations/000001/forest.parquet", "iterations/000002/advantages.parquet")


def terminate_when(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Start the run, send SIGTERM when `file` appears, and wait for its end."""
    assert not (folder / "runs/smoke" / file).exists()
    environ = {key: value for key, value in environment().items() if key != "PREFECT_API_URL"}
    with subprocess.Popen(
        [*TREEPO, "run", "smoke"],
        cwd=folder,
        env=environ,  # its own server, which must end with it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        while run.poll() is None and not (folder / "runs/smoke" / file).exists():
            time.sleep(0.005)
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
    for name in COMPARED:
        paths = (folder / "runs/smoke" / name, finished / "runs/smoke" / name)
        assert len({content_hash(path) for path in paths}) == 1, name
