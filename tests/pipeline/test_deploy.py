"""A real server and worker: runs by schedule and by request; a killed worker's run is picked up."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from projects import PREFECT, ROOT, environment, make_project, treepo

from tasks.hashing import content_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Told(BaseHTTPRequestHandler):
    """A webhook that remembers what it was told."""

    messages: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.messages.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose experiment is due every minute, once its schedule is active."""
    folder = make_project(tmp_path_factory.mktemp("deployed"))
    text = (ROOT / "prefect.yaml").read_text()
    text = text.replace('cron: "0 1 * * *"', 'active: false, cron: "* * * * *"', 1)
    text = text.replace(
        'runs: "runs/{date}"}', 'runs: "runs/{date}", overrides: ["iterations=1"]}', 1
    )
    (folder / "prefect.yaml").write_text(text)
    result = treepo(folder, "deploy")
    assert result.returncode == 0, result.stderr
    assert "experiment/scheduled: when asked" in result.stdout
    assert "ablation/scheduled: 0 2 * * 6 UTC" in result.stdout
    assert "prefect worker start --pool treepo" in result.stdout
    return folder


@contextmanager
def worker(folder: Path, webhook: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process group of its own, with all that it starts."""
    with subprocess.Popen(
        ["prefect", "worker", "start", "--pool", "treepo"],
        cwd=folder,
        env={**environment(), "TREEPO_WEBHOOK": webhook, "OMP_NUM_THREADS": "1"},
        stdout=(folder / "worker.log").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a worker and the processes below it: they have sessions of their own."""
    listing = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listing.splitlines())}
    doomed = [process.pid]
    for pid in doomed:
        doomed += [child for child, parent in parents.items() if parent == pid]
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def api(method: str, path: str, **content: Any) -> Any:
    """One call of the server's API; again where its SQLite is busy, which it answers with 503."""
    url = environment()["PREFECT_API_URL"]
    for _ in range(10):
        response = httpx.request(method, f"{url}{path}", json=content or None, timeout=60)
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    response.raise_for_status()
    return response.json() if response.content else None


def request(flow: str, **parameters: Any) -> str:
    """A run of a deployment, asked for through the API."""
    deployment = api("GET", f"/deployments/name/{flow}/scheduled")["id"]
    created = api("POST", f"/deployments/{deployment}/create_flow_run", parameters=parameters)
    return created["id"]


def wait_for(what: Callable[[], Any], patience: float) -> Any:
    """What is asked for again and again, also of a server that was too busy to answer."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with suppress(httpx.TimeoutException):
            found = what()
            if found:
                return found
        time.sleep(0.2)
    raise TimeoutError


def ended(run: str) -> Callable[[], dict[str, Any] | None]:
    def look() -> dict[str, Any] | None:
        found = api("GET", f"/flow_runs/{run}")
        final = found["state_type"] in ("COMPLETED", "FAILED", "CANCELLED")
        return found if final else None

    return look


def scheduled(deployment: str) -> list[dict[str, Any]]:
    """Two or more runs that the schedule started, once they are done."""
    done = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["COMPLETED"]}}}
    runs = [
        run for run in api("POST", "/flow_runs/filter", flow_runs=done) if run["auto_scheduled"]
    ]
    return runs if len(runs) > 1 else []


def test_a_run_outlives_its_worker(deployed: Path, webhook: str, finished: Path) -> None:
    wanted = request("experiment", name="smoke", runs="runs/api", overrides=[])
    forest = deployed / "runs/api/smoke/iterations/000001/forest.parquet"
    with worker(deployed, webhook) as first:
        wait_for(forest.exists, 300)
        kill_all(first)
    assert api("GET", f"/flow_runs/{wanted}")["state_type"] == "RUNNING"
    failing = request("experiment", name="missing")
    with worker(deployed, webhook):
        done = wait_for(ended(wanted), 420)
        assert done["state_type"] == "COMPLETED", done["state"]["message"]
        assert done["run_count"] == 2
        assert wait_for(ended(failing), 240)["state_type"] == "FAILED"
    for name in ("policy", "iterations", "evaluation"):
        path = f"smoke/{name}"
        assert content_hash(deployed / "runs/api" / path) == content_hash(finished / "runs" / path)
    states = api("GET", f"/flow_run_states/?flow_run_id={wanted}")
    assert "no heartbeat for 90 s" in [state["message"] for state in states]
    (told,) = Told.messages
    assert told["name"] == "missing"
    assert "params/missing.yaml" in told["text"]


@pytest.mark.skipif(
    version("sqlalchemy") >= "2.1", reason="Prefect 3.7 schedules nothing with SQLAlchemy 2.1"
)
def test_a_schedule_that_overlaps_itself_runs_alone(deployed: Path, webhook: str) -> None:
    deployment = api("GET", "/deployments/name/experiment/scheduled")
    path = f"/deployments/{deployment['id']}"
    schedule = f"{path}/schedules/{deployment['schedules'][0]['id']}"
    api("PATCH", schedule, active=True)
    with worker(deployed, webhook):
        runs = wait_for(lambda: scheduled(deployment["id"]), 400)
    api("PATCH", schedule, active=False)
    spans = sorted((run["start_time"], run["end_time"]) for run in runs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    day = runs[0]["expected_start_time"][:10]
    assert (deployed / f"runs/{day}/smoke/report/index.html").is_file()
    lines = (deployed / f"runs/{day}/smoke/lineage.jsonl").read_text().splitlines()
    artifacts = [json.loads(line)["artifact"] for line in lines]
    assert len(artifacts) == len(set(artifacts))  # the second run made nothing again


def test_a_server_that_is_not_there_is_named(deployed: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PREFECT, "PREFECT_API_URL", "http://127.0.0.1:9/api")
        result = treepo(deployed, "deploy")
    assert result.returncode == 1
    assert "http://127.0.0.1:9/api does not answer" in result.stderr
    assert "Traceback" not in result.stderr
