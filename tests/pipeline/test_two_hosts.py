"""A cluster of two hosts, each a network namespace with an address of its own; one of them dies.

The cluster asks for a token, as one on a network of several people should.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from projects import TREEPO, await_file, environment, make_project, started

from tasks.hashing import content_hash

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
PORT = 6399
RUN = ("run", "smoke", "--set", "iterations=2", "--set", "update.ranks=2",
       "--set", "engine.deterministic=true")  # fmt: skip
ON_RAY = {
    "kind": "ray",
    "ray.address": f"{HEAD}:{PORT}",
    "ray.replicas": "2",
    "ray.placement": "SPREAD",
}
# All that a host would need if both replicas and both ranks were there.
RAY = ("ray", "start", "--num-cpus=4", "--disable-usage-stats")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-cluster-and-no-other-one"}
NAMES = {address: f"treepo-{os.getpid()}-{address[-1]}" for address in (HEAD, OTHER)}


def ip(*arguments: str) -> str:
    """What an `ip` command says."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def on_host(address: str, *command: str) -> list[str]:
    """The command as it runs on a host."""
    return ["ip", "netns", "exec", NAMES[address], *command]


def its_own() -> dict[str, str]:
    """Variables of a host's commands: the tests' Prefect server is out of its reach."""
    known = {k: v for k, v in environment().items() if k != "PREFECT_API_URL"}
    return {**known, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **TOKEN}


def kill(address: str) -> None:
    """End a host as a power cut would: everything on it is gone at once."""
    for process in ip("netns", "pids", NAMES[address]).split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two hosts with one cable, and a Ray cluster on both."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    try:
        ip("netns", "add", NAMES[HEAD])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    ip("netns", "add", NAMES[OTHER])
    cable = ("type", "veth", "peer", "name", "eth0", "netns", NAMES[OTHER])
    ip("link", "add", "eth0", "netns", NAMES[HEAD], *cable)
    for address, name in NAMES.items():
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")
    # Not a folder of pytest's: names of sockets have 107 letters at most, and Ray's take 60.
    folder = TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    try:
        head = ("--head", f"--port={PORT}", "--include-dashboard=false")
        own = (*head, f"--temp-dir={folder.name}")
        for address, options in ((HEAD, own), (OTHER, (f"--address={HEAD}:{PORT}",))):
            start = on_host(address, *RAY, f"--node-ip-address={address}", *options)
            begun = subprocess.run(
                start, env=its_own(), capture_output=True, text=True, timeout=200
            )
            assert begun.returncode == 0, begun.stdout + begun.stderr
        yield
    finally:
        for address, name in NAMES.items():
            kill(address)
            ip("netns", "del", name)
        folder.cleanup()


@pytest.mark.slow
def test_two_hosts_of_which_one_dies(hosts: None, tmp_path: Path) -> None:
    here, there = (make_project(tmp_path / name) for name in ("here", "there"))
    with started(here, *RUN) as alone:
        settings = [
            part for key, value in ON_RAY.items() for part in ("--set", f"compute.{key}={value}")
        ]
        command = on_host(HEAD, *TREEPO, *RUN, *settings)
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=there, env=its_own(), text=True, **pipes) as run:
            assert await_file(there / "runs/smoke/iterations/000001/update.json", run)
            assert ip("netns", "pids", NAMES[OTHER])
            kill(OTHER)
            _, complaints = run.communicate(timeout=500)
        assert run.returncode == 0, complaints
        alone.communicate(timeout=500)
    assert alone.returncode == 0
    runs = [folder / "runs/smoke" for folder in (here, there)]
    for name in ("data", "policy", "iterations", "evaluation"):
        assert len({content_hash(run / name) for run in runs}) == 1, name
