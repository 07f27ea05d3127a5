"""What all tests share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from projects import PREFECT, await_server, environment, make_project, treepo

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models of these sizes are many times slower on two threads beside another busy process."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_as_ever(_one_thread: None) -> None:
    """What a test did to torch does not reach the next one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server for all commands; without it each starts one of its own, and waits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    PREFECT["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    await_server(f"{url}/health", server)
    PREFECT["PREFECT_API_URL"] = url
    yield
    PREFECT.clear()
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `treepo run smoke` has run; tests must not change it.

    It runs as on a fresh machine: no server is there, so the command brings its own.
    """
    folder = make_project(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(PREFECT, "PREFECT_API_URL", raising=False)
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


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray with room for two replicas and two ranks; its processes find the tests."""
    import ray

    from treepo.cluster import connection

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    os.environ.update(connection.QUIET, PYTHONPATH=str(Path(__file__).parent))
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    del os.environ["PYTHONPATH"]
    torch.set_num_threads(before)
