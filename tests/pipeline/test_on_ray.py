"""A run on Ray with what is slowest to start there: vLLM in a replica, ranks that share weights."""

from __future__ import annotations

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from projects import await_file, make_project, started, treepo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        find_spec("vllm") is None or find_spec("ray") is None,
        reason="vLLM or Ray is not installed",
    ),
]
SETTINGS = (
    "iterations=2",
    "compute.kind=ray",
    "compute.ray.rank_cpus=0",
    "engine.name=vllm",
    "engine.vllm.cache_gib=0.25",
    "update.ranks=2",
    "update.sharding=fsdp",
)


def test_stopped_by_sigterm_and_gone_on(tmp_path: Path) -> None:
    folder = make_project(tmp_path)
    command = ["run", "smoke", *(part for setting in SETTINGS for part in ("--set", setting))]
    iterations = folder / "runs/smoke/iterations"
    with started(folder, *command) as run:
        await_file(iterations / "000001/advantages.parquet", run)
        family = psutil.Process(run.pid).children(recursive=True)
        names = " ".join(part for process in family for part in process.cmdline())
        assert "ray::Replica" in names
        assert "treepo.engines.vllm_worker" in names
        run.send_signal(signal.SIGTERM)  # while ranks are started
        out, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert "stopped; run again to go on" in out
    assert "Traceback" not in errors
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert not (iterations / "000002/forest.parquet").exists()
    again = treepo(folder, *command, timeout=600)
    assert again.returncode == 0, again.stderr
    update = json.loads((iterations / "000001/update.json").read_text())
    assert update["update/steps"] >= 1  # by two ranks that share the weights
    assert update["update/mismatch_max"] < 1e-4
    assert (folder / "runs/smoke/evaluation/000002.parquet").exists()
