"""A project folder of its own for each test module, and one finished smoke run to look at."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
TREEPO = [sys.executable, "-m", "flows.cli"]
Result = subprocess.CompletedProcess[str]
_prefect: dict[str, str] = {}


@pytest.fixture(scope="session", autouse=True)
def _prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server for all commands; without it each starts one of its own, and waits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _prefect["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    _await(f"{url}/health", server)
    _prefect["PREFECT_API_URL"] = url
    yield
    _prefect.clear()
    server.terminate()
    server.wait(30)


def _await(url: str, server: subprocess.Popen[bytes], patience: float = 300) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        assert server.poll() is None, "the Prefect server ended"
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(url)


def environment() -> dict[str, str]:
    """The tests' own Prefect home and MLflow store; the project importable from anywhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    binaries = str(Path(sys.executable).parent)
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")]),
        "PATH": f"{binaries}:{kept['PATH']}",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **_prefect,
    }


def make_project(folder: Path) -> Path:
    """A git and DVC project with the repository's params and dvc.yaml."""
    shutil.copytree(ROOT / "params", folder / "params")
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / ".gitignore").write_text("/runs/\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def treepo(folder: Path, *arguments: str, timeout: float = 300) -> Result:
    """One treepo command in a project."""
    return subprocess.run(
        [*TREEPO, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def dvc(folder: Path, *arguments: str) -> Result:
    """One dvc command in a project."""
    return subprocess.run(
        ["dvc", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def refused(result: Result, *words: str) -> None:
    """The command ended with exit code 2, one clear line that holds `words`, and no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("treepo: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `treepo run smoke` has run; tests must not change it.

    It runs as on a fresh machine: no server is there, so the command brings its own.
    """
    folder = make_project(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(_prefect, "PREFECT_API_URL")
        result = treepo(folder, "run", "smoke")
    assert result.returncode == 0, result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    """A copy of the finished project that a test may spoil."""

    def copy(leave_out: Sequence[str] = ()) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(finished, folder)
        for name in leave_out:
            shutil.rmtree(folder / name)
        return folder

    return copy
