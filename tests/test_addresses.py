"""Addresses that are printed, stored or logged hold no password."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.summary import show_summary
from tasks import tracking
from tasks.addresses import without_password
from tasks.tracking import Tracker
from tasks.tracking_queue import TrackingQueue
from tasks.workspace import METRICS, Workspace
from treepo.loading import load_experiment

SMOKE = load_experiment(Path(__file__).parents[1] / "params/smoke.yaml", ())
STORE = "http://me:hunter2@127.0.0.1:9"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:hunter2@host/db", "postgresql://host/db"),
        ("postgresql+psycopg2://me:hun/ter?2@host:5432/db", "postgresql+psycopg2://host:5432/db"),
        ("https://me:hun@ter2@host", "https://host"),
        ("https://hunter2@host/a", "https://host/a"),
        ("mssql+pyodbc:///?odbc_connect=UID=me;PWD=hunter2", "mssql+pyodbc:///"),
        ("postgresql://host/db?user=me&password=hunter2", "postgresql://host/db"),
        ("GET 'http://me:hunter2@host/a?b=c' (at 'ftp://x')", "GET 'http://host/a' (at 'ftp://x')"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("no address: me@work?", "no address: me@work?"),
    ],
)
def test_an_address_is_shown_without_login_and_query(given: str, shown: str) -> None:
    assert without_password(given) == shown


def test_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    workspace = Workspace(tmp_path, "smoke")
    accuracy = {"accuracy": 0.5}
    counts = dict.fromkeys(("sampled_tokens", "trajectory_tokens", "k", "heldout_problems"), 1)
    file = workspace.path(METRICS)
    file.parent.mkdir(parents=True)
    file.write_text(
        json.dumps({"initial": accuracy, "final": accuracy, "wall_seconds": 1.0, **counts})
    )
    with temporary_settings({PREFECT_API_URL: "http://me:hunter2@127.0.0.1:4200/api"}):
        show_summary(workspace)
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:9\n" in shown
    assert "http://127.0.0.1:4200/runs\n" in shown
    assert "hunter2" not in shown


def test_the_link_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    for name in ("MlflowClient", "SystemMetricsMonitor"):
        monkeypatch.setattr(tracking, name, MagicMock())
    tracker = Tracker(Workspace(tmp_path, "smoke"), SMOKE, None)
    assert tracker.page
    assert tracker.page.startswith("http://127.0.0.1:9/#/experiments/")


def test_what_a_tracker_says(caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> None:
        raise error

    queue = TrackingQueue()
    with caplog.at_level(logging.WARNING, logger="tasks"):
        queue.do("the policy", lambda: fail(ValueError(f"no store at '{STORE}'")))
        queue.do("metrics", lambda: fail(ConnectionError(f"nobody at {STORE}")))
    assert "no store at 'http://127.0.0.1:9'" in caplog.text
    assert "nobody at http://127.0.0.1:9" in caplog.text
    assert "hunter2" not in caplog.text
