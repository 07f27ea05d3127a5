"""Projects to run commands in, as a user would: a folder of its own, a shell, a Prefect server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tasks.hashing import content_hash

ROOT = Path(__file__).parents[1]
TREEPO = [sys.executable, "-m", "flows.cli"]
Result = subprocess.CompletedProcess[str]
COMPARED = ("data", "policy", "iterations", "evaluation", "params.yaml")
# Where this process's tests find a Prefect server; without one each command starts its own.
PREFECT: dict[str, str] = {}

# Set for every command; no file of a run and no line of a log may hold them.
SECRETS = {
    name: f"secret-{name.lower()}"
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "VLLM_API_KEY", "WANDB_API_KEY")
}


def await_server(url: str, server: subprocess.Popen[bytes], patience: float = 300) -> None:
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
        **SECRETS,
        **PREFECT,
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


def started(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A treepo command at work in a project, in a session of its own."""
    return subprocess.Popen(
        [*TREEPO, *arguments],
        cwd=folder,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def await_file(file: Path, process: subprocess.Popen[str]) -> bool:
    """Whether `file` appears before the process ends."""
    while process.poll() is None and not file.exists():
        time.sleep(0.002)
    return process.poll() is None


def killed_when(file: Path, folder: Path, *arguments: str, delay: float = 0.0) -> bool:
    """Start a command, SIGKILL its session `delay` seconds after `file` appears.

    Returns whether it was still at work.
    """
    with started(folder, *arguments) as process:
        await_file(file, process)
        time.sleep(delay)
        going = process.poll() is None
        if going:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return going


def same_runs(one: Path, other: Path) -> bool:
    """Whether the smoke runs of two projects hold the same bytes."""
    runs = (one / "runs/smoke", other / "runs/smoke")
    return all(len({content_hash(run / name) for run in runs}) == 1 for name in COMPARED)


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
