"""The MLflow tracker on its own: a locked database, versions, groups."""

from __future__ import annotations

import logging
import sqlite3
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.lineage import Lineage, Record
from tasks.machine import Machine
from tasks.tracking import Tracker
from tasks.tracking_queue import TrackingQueue
from tasks.workspace import Workspace, policy
from treepo.loading import load_experiment

SMOKE = load_experiment(Path(__file__).parents[1] / "params/smoke.yaml", ())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(tmp_path, "smoke")
    workspace.root.mkdir()
    return workspace


def open_with(others: Barrier, workspace: Workspace, found: Queue[str | None]) -> None:
    """In a process that has imported everything: open a run when the others do, and say which."""
    others.wait(120)
    tracker = Tracker(workspace, SMOKE, None)
    tracker.close("FINISHED")
    found.put(tracker.run_id)


@pytest.mark.slow
def test_runs_that_begin_at_once_make_one_store(workspace: Workspace) -> None:
    spawn = get_context("spawn")
    found, together = spawn.Queue(), spawn.Barrier(3)
    starters = [
        spawn.Process(target=open_with, args=(together, workspace, found)) for _ in range(3)
    ]
    for starter in starters:
        starter.start()
    runs = {found.get(timeout=120) for _ in starters}
    for starter in starters:
        starter.join()
    assert len(runs) == 3
    assert None not in runs


@pytest.mark.slow
def test_a_locked_database_is_told_later(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(workspace, SMOKE, None)
    run = tracker.run_id
    assert run
    other = sqlite3.connect(workspace.runs / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING, logger="tasks"):
        tracker.log_iteration(1, {"reward/mean": 0.5})
    assert "does not record now" in caplog.text
    other.execute("ROLLBACK")
    with caplog.at_level(logging.WARNING, logger="tasks"):
        tracker.log_iteration(2, {"reward/mean": 0.75})
    assert "has caught up" in caplog.text
    tracker.close("FINISHED")
    client = MlflowClient(f"sqlite:///{workspace.runs}/mlflow.db")
    history = client.get_metric_history(run, "reward/mean")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.75)]
    assert client.get_run(run).info.status == "FINISHED"

    again = Tracker(workspace, SMOKE, run)
    again.log_iteration(2, {"reward/mean": 0.75})
    again.close("FINISHED")
    assert again.run_id == run
    assert len(client.get_metric_history(run, "reward/mean")) == 2


def test_a_policy_is_a_version_with_its_lineage_once(workspace: Workspace) -> None:
    folder = workspace.path(policy(3))
    folder.mkdir(parents=True)
    made = Record(policy(3), "abc.dir", "update", 3, {"policy/000002": "def.dir"}, {})
    Lineage(workspace.root).append(made)
    run = None
    for _ in range(2):
        tracker = Tracker(workspace, SMOKE, run)
        tracker.log_policy(3, {"accuracy": 0.5, "maj@k": 0.75})
        tracker.log_policy(9, {"accuracy": 0.5, "maj@k": 0.75})  # was never made
        tracker.close("FINISHED")
        run = tracker.run_id
    client = MlflowClient(f"sqlite:///{workspace.runs}/mlflow.db")
    (version,) = client.search_model_versions("name = 'treepo-smoke'")
    assert version.source == folder.as_uri()
    assert version.run_id == run
    assert version.tags["hash"] == "abc.dir"
    assert version.tags["lineage"] == str(workspace.path("lineage.jsonl"))
    assert "policy/000002" in version.tags["inputs"]


REFUSALS = [
    MlflowException("no such thing", error_code=1000),  # INVALID_PARAMETER_VALUE
    CommandError("of a library below"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_what_is_refused_for_good_is_named_and_does_not_block(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise refusal

    done: list[int] = []
    queue = TrackingQueue()
    with caplog.at_level(logging.WARNING, logger="tasks"):
        queue.do("the policy", refuse)
        queue.do("metrics", lambda: done.append(1))
    assert "the policy not recorded (" in caplog.text
    assert done == [1]


def test_what_never_arrives_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ConnectionError("nobody there")

    queue = TrackingQueue()
    with caplog.at_level(logging.WARNING, logger="tasks"):
        queue.do("iteration 1", fail)
        queue.do("iteration 2", fail)
        queue.close()
    assert caplog.text.count("does not record now") == 1
    assert "not recorded: iteration 1, iteration 2" in caplog.text


def test_the_machine_is_measured() -> None:
    reading = Machine().read()
    assert reading["system/run_memory_mebibytes"] > 10
    assert reading["system/run_busy_processors"] >= 0
    assert reading["system/available_memory_mebibytes"] > 0
