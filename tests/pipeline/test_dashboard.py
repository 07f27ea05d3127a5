"""`treepo dashboard`: both pages answer, a taken port is named, nothing is left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from projects import TREEPO, environment, refused, treepo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for place in (one, other):
            place.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_both_pages_answer_and_end(number: signal.Signals, code: int, tmp_path: Path) -> None:
    prefect, mlflow = free_ports()
    ports = ("--prefect-port", str(prefect), "--mlflow-port", str(mlflow))
    store = tmp_path / "store.db"
    uri = f"sqlite:///{store}"
    with subprocess.Popen(
        [*TREEPO, "dashboard", *ports],
        cwd=tmp_path,
        env={
            **environment(),
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "MLFLOW_TRACKING_URI": uri,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        assert f"http://127.0.0.1:{prefect}" in lines[0]
        assert f"http://127.0.0.1:{mlflow}" in lines[1]
        assert httpx.get(f"http://127.0.0.1:{prefect}/api/health").is_success
        assert httpx.get(f"http://127.0.0.1:{mlflow}/").is_success

        refused(treepo(tmp_path, "dashboard", *ports), f"port {prefect}", "--prefect-port")

        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        assert store.exists()
        # Any user of the machine can read arguments, and another store's address holds a password.
        assert not [server for server in below if uri in " ".join(server.cmdline())]
        process.send_signal(number)
        assert process.wait(60) == code
        assert "Traceback" not in (process.stderr.read() if process.stderr else "")
    _, left = psutil.wait_procs(below, timeout=20)
    assert left == []
