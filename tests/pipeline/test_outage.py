"""A Prefect server that is killed in the middle of a run does not stop the run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from projects import TREEPO, await_server, environment, make_project

from tasks.hashing import content_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_run_outlives_its_server(tmp_path: Path, finished: Path) -> None:
    folder = make_project(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {"PREFECT_HOME": str(tmp_path / "prefect")}
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**environment(), **home},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}/api"
    await_server(f"{url}/health", server)
    # One retry, so that the test need not wait for those that Prefect makes by itself.
    settings = {"PREFECT_API_URL": url, "PREFECT_CLIENT_MAX_RETRIES": "1"}
    with subprocess.Popen(
        [*TREEPO, "run", "smoke"],
        cwd=folder,
        env={**environment(), **home, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout
        seen: list[str] = []
        while not any(line.startswith("iteration 1") for line in seen):
            seen.append(run.stdout.readline())
            assert seen[-1], run.stderr and run.stderr.read()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        rest, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    # Once, and again only where the flow's function was called anew without Prefect.
    assert rest.count("its server does not answer; the run goes on without its page") in (1, 2)
    assert "tables and links are missing on its page" in rest
    for name in ("policy", "iterations", "evaluation"):
        path = f"runs/smoke/{name}"
        assert content_hash(folder / path) == content_hash(finished / path), name
    metrics = json.loads((folder / "runs/smoke/report/metrics.json").read_text())
    assert metrics["iterations"] == 3
