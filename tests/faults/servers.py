"""Prefect's and MLflow's servers killed and started again while a smoke run uses them.

    PYTHONPATH=tests python -m faults.servers --kills 4

prints a line a server: what the run left must be the bytes of a run that had its servers
throughout, and MLflow must know every iteration in the end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.tracking import MlflowClient
from projects import await_server, environment, make_project, same_runs, started, treepo

LONGEST_WAIT = 8.0  # with the server, and then without it [s]
PATIENCE = 600.0  # for one run [s]


@dataclass
class Server:
    """One that listens at an address of its own and keeps its state in a folder."""

    module: tuple[str, ...]
    health: str
    port: int
    variables: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; where it stopped, it goes on from what it had stored."""
        where = ("--host", "127.0.0.1", "--port", str(self.port))
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self.module, *where],
            env={**environment(), **self.variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ready(self) -> None:
        """Wait until it answers."""
        assert self.process
        await_server(f"http://127.0.0.1:{self.port}{self.health}", self.process)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Outcome:
    """kills: sent; at_once, in_the_end: iterations that MLflow knows, then and after a second call.

    The second call finds everything done, and tells what the first could not.
    """

    kills: int
    at_once: int
    in_the_end: int


@contextmanager
def both(folder: Path) -> Iterator[dict[str, Server]]:
    """The two servers, by name."""
    store = f"sqlite:///{folder}/mlflow.db"
    servers = {
        "Prefect": Server(
            ("prefect", "server", "start"),
            "/api/health",
            _free_port(),
            {"PREFECT_HOME": str(folder / "prefect")},
        ),
        "MLflow": Server(
            ("mlflow", "server", "--workers", "1"),
            "/health",
            _free_port(),
            {"MLFLOW_BACKEND_STORE_URI": store},
        ),
    }
    for server in servers.values():
        server.start()
    try:
        for server in servers.values():
            server.ready()
        yield servers
    finally:
        for server in servers.values():
            server.kill()


def run_under_fire(folder: Path, name: str, rng: random.Random, kills: int) -> Outcome:
    """A run in `folder` while a server is killed and started again.

    Raises AssertionError where the run does not end well.
    """
    project = make_project(folder / "project")
    with both(folder) as servers:
        prefect, mlflow = (f"http://127.0.0.1:{servers[s].port}" for s in ("Prefect", "MLflow"))
        addresses = {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}
        sent, server = 0, servers[name]
        with started(project, "run", "smoke", **addresses) as run:
            while run.poll() is None and sent < kills:
                time.sleep(rng.uniform(0.0, LONGEST_WAIT))
                if run.poll() is None:
                    server.kill()
                    sent += 1
                    time.sleep(rng.uniform(0.0, LONGEST_WAIT))
                    server.start()
                    server.ready()
            _end(run)
        at_once = _iterations(mlflow)
        with started(project, "run", "smoke", **addresses) as again:
            _end(again)
        return Outcome(sent, at_once, _iterations(mlflow))


def _end(run: subprocess.Popen[str]) -> None:
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, errors
    assert "Traceback" not in errors, errors


def _iterations(uri: str) -> int:
    """How many iterations MLflow knows of."""
    client = MlflowClient(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments)
    return len(
        {
            point.step
            for run in runs
            for point in client.get_metric_history(run.info.run_id, "reward/mean")
        }
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """A line a server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--servers", nargs="*", default=["Prefect", "MLflow"])
    options = parser.parse_args()
    rng = random.Random(0)
    print("| server | kills | runs | same bytes | iterations told at once | after one more call |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as name:
        clean = make_project(Path(name) / "clean")
        assert treepo(clean, "run", "smoke").returncode == 0
        for server in options.servers:
            outcomes, same = list[Outcome](), True
            while (left := options.kills - sum(out.kills for out in outcomes)) > 0:
                folder = Path(name) / f"{server}-{len(outcomes)}"
                folder.mkdir()
                outcomes.append(run_under_fire(folder, server, rng, left))
                same &= same_runs(clean, folder / "project")
            kills = sum(out.kills for out in outcomes)
            told = [out.at_once for out in outcomes], [out.in_the_end for out in outcomes]
            print(f"| {server} | {kills} | {len(outcomes)} | {same} | {told[0]} | {told[1]} |")


if __name__ == "__main__":
    main()
