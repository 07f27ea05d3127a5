"""Prefect's and MLflow's own pages, on loopback, until interrupted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from flows.orphans import watch
from flows.progress import console
from treepo.errors import UserError, WorkError

HOST = "127.0.0.1"
PATIENCE = 120  # a cold machine needs long to import the servers [s]


def serve(runs: Path, prefect_port: int, mlflow_port: int) -> None:
    """Start both servers, wait until they answer, print their addresses, stop them on Ctrl-C.

    Raises UserError where a port is taken, WorkError where a server does not come up.
    """
    for port, option in ((prefect_port, "--prefect-port"), (mlflow_port, "--mlflow-port")):
        _refuse_taken(port, option)
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.resolve() / 'mlflow.db'}"
    runs.mkdir(parents=True, exist_ok=True)
    commands = {
        "Prefect": ["prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)],
        "MLflow": ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port)],
    }
    commands["MLflow"] += ["--workers", "1"]
    watch()
    # Not an argument: every user of the machine sees those, and an address may hold a password.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": store}
    pages = {"Prefect": (prefect_port, "/api/health"), "MLflow": (mlflow_port, "/health")}
    # The servers have sessions of their own, so whatever tells this process to end must reach them
    # from here; where a shell started it in the background, it would not even hear Ctrl-C.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.default_int_handler)
    servers = {name: _start(command, environment) for name, command in commands.items()}
    try:
        for name, (port, path) in pages.items():
            _wait(name, servers[name], f"http://{HOST}:{port}{path}")
            console.print(f"{name:<8} http://{HOST}:{port}")
        console.print("Ctrl-C stops both")
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        dead = next(name for name, server in servers.items() if server.poll() is not None)
        raise WorkError(f"{dead}: its server ended")
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        for server in servers.values():
            _stop(server)


def _refuse_taken(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise UserError(f"port {port} is taken; choose another with {option}") from None


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a module of this environment as a process group of its own."""
    module, *arguments = command
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait(name: str, server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise WorkError(f"{name}: its server did not come up within {PATIENCE} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
