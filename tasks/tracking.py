"""MLflow: one run an experiment or evaluation, resumed with it; metrics by group, data, policies.

Works without a server: a SQLite file beside the runs, unless MLFLOW_TRACKING_URI names another
store. A tracker that fails costs a warning, never a result: all it shows is in the artifacts. What
it could not be told is told when it answers again (`tasks.tracking_queue`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tasks.addresses import without_password
from tasks.lineage import FILE, Lineage, flatten
from tasks.samples import sample_trajectories
from tasks.steps import RunParams
from tasks.tracking_queue import TrackingQueue, passes
from tasks.workspace import Workspace, exclusive, policy

SQLITE = "sqlite:///"
MAX_VALUE = 500  # MLflow's limit on a parameter [characters]
SHOWN = "reward/mean"  # every iteration has this metric
LOCAL_PAGE = "http://127.0.0.1:5000"  # where `treepo dashboard` serves a local store
VIEW = "workflowType=machine_learning"  # MLflow's page opens with traces and judges otherwise


class Tracker:
    """The MLflow run of an experiment, evaluation or ablation, which nests its runs below it.

    run_id: None until the run could be opened.
    """

    def __init__(
        self,
        workspace: Workspace,
        params: RunParams,
        run_id: str | None,
        parent: str | None = None,
    ) -> None:
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        local = f"{SQLITE}{workspace.runs.resolve() / 'mlflow.db'}"
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or local
        self._workspace = workspace
        self._params = params
        self._tags = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        self._monitor: SystemMetricsMonitor | None = None
        self._logged: set[int] = set()
        self._queue = TrackingQueue()
        self._opened: MlflowClient | None = None
        self.run_id: str | None = None
        self.page: str | None = None
        self._queue.do("the run", lambda: self._open_alone(run_id))

    def log_iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one iteration, once; those of a group, as its number is MLflow's step."""
        now = _now()
        grouped = {key: value for key, value in metrics.items() if "/" in key}
        self._queue.do(f"iteration {iteration}", lambda: self._log_once(iteration, grouped, now))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """One batch of metrics."""
        now = _now()
        self._queue.do("metrics", lambda: self._log(step, metrics, now))

    def log_dataset(self, artifact: str, digest: str, rows: Mapping[str, float]) -> None:
        """The data that the run learns from and is judged by."""
        source = json.dumps({"uri": str(self._workspace.path(artifact))})
        inputs = [
            DatasetInput(
                Dataset(
                    name=f"{self._workspace.name}/{split}",
                    digest=digest[:32],
                    source_type="local",
                    source=source,
                    profile=json.dumps({"rows": rows[split]}),
                ),
                [InputTag("mlflow.data.context", split)],
            )
            for split in ("train", "heldout")
        ]
        self._queue.do("the data", lambda: self._client.log_inputs(self._run, inputs))

    def log_policy(self, iteration: int, figures: Mapping[str, float]) -> None:
        """An evaluated policy as a version of the experiment's model, with what leads to it."""
        record = Lineage(self._workspace.root).get(policy(iteration))
        if record is None:
            return
        tags = {
            "hash": record.hash,
            "artifact": record.artifact,
            "lineage": str(self._workspace.path(FILE).resolve()),
            "iteration": str(iteration),
            "inputs": json.dumps(record.inputs),
            "accuracy": f"{figures['accuracy']:.4f}",
            "maj_at_k": f"{figures['maj@k']:.4f}",
        }
        call = partial(self._register, record.artifact, record.hash, tags)
        self._queue.do(f"policy {iteration}", call)

    def log_trajectories(self, iteration: int) -> None:
        """Some of an iteration's trajectories as a table, once."""
        self._queue.do("trajectories", lambda: self._log_trajectories(iteration))

    def log_file(self, artifact: str) -> None:
        """A file of the experiment, such as the report."""
        file = str(self._workspace.path(artifact))
        self._queue.do(artifact, lambda: self._client.log_artifact(self._run, file))

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED; says what is missing."""
        if self._monitor:
            self._monitor.finish()
        self._queue.do("the end", lambda: self._client.set_terminated(self._run, status))
        self._queue.close()

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            raise MlflowException("the store could not be opened")
        return self._opened

    @property
    def _run(self) -> str:
        if self.run_id is None:
            raise MlflowException("the run could not be opened")
        return self.run_id

    def _open_alone(self, run_id: str | None) -> None:
        """One process at a time makes a SQLite store, or its tables would be made twice."""
        path = self.uri.removeprefix(SQLITE)
        with exclusive(Path(f"{path}.lock")) if path != self.uri else nullcontext():
            self._open(run_id)

    def _open(self, run_id: str | None) -> None:
        self._opened = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        resumed = run_id is not None and self._resume(run_id)
        run_id = run_id if run_id and resumed else self._create()
        experiment = self._client.get_run(run_id).info.experiment_id
        # The page is stored and shown elsewhere; who opens it logs in.
        base = without_password(self.uri) if self.uri.startswith("http") else LOCAL_PAGE
        self.page = f"{base.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}?{VIEW}"
        self.run_id = run_id
        self._monitor = SystemMetricsMonitor(run_id, resume_logging=resumed, tracking_uri=self.uri)
        self._monitor.start()

    def _create(self) -> str:
        run = self._client.create_run(
            self._experiment(), run_name=self._workspace.name, tags=self._tags
        )
        values = flatten(self._params.model_dump(mode="json"))
        given = [Param(key, str(value)[:MAX_VALUE]) for key, value in values.items()]
        self._client.log_batch(run.info.run_id, params=given)
        self._client.set_tag(run.info.run_id, "mlflow.note.content", self._params.description)
        return run.info.run_id

    def _resume(self, run_id: str) -> bool:
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if passes(error):
                raise
            return False  # the store is another one, or was removed
        self._logged = {int(m.step) for m in self._client.get_metric_history(run_id, SHOWN)}
        return True

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name("treepo")
        if found:
            return found.experiment_id
        return self._client.create_experiment(
            "treepo", (self._workspace.runs.resolve() / "mlartifacts").as_uri()
        )

    def _log_once(self, iteration: int, metrics: Mapping[str, float], now: int) -> None:
        if iteration not in self._logged:
            self._log(iteration, metrics, now)
            self._logged.add(iteration)

    def _log(self, step: int, metrics: Mapping[str, float], now: int) -> None:
        batch = [
            Metric(key.replace("@", "_at_"), value, now, step) for key, value in metrics.items()
        ]
        self._client.log_batch(self._run, metrics=batch)

    def _register(self, artifact: str, digest: str, tags: Mapping[str, str]) -> None:
        """Add a version, unless this run's registered it before."""
        name = f"treepo-{self._workspace.name.replace('/', '-')}"
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        versions = self._client.search_model_versions(f"name = '{name}'")
        known = {(v.run_id, v.tags.get("artifact"), v.tags.get("hash")) for v in versions}
        if (self._run, artifact, digest) not in known:
            source = self._workspace.path(artifact).resolve().as_uri()
            self._client.create_model_version(name, source, self._run, dict(tags))

    def _log_trajectories(self, iteration: int) -> None:
        file = f"trajectories/{iteration:06d}.json"
        there = {entry.path for entry in self._client.list_artifacts(self._run, "trajectories")}
        if file not in there:
            rows = sample_trajectories(self._workspace, self._params.model, iteration)
            self._client.log_table(self._run, rows, file)


def _now() -> int:
    """What happened now and is told later has the time at which it happened [ms]."""
    return int(time.time() * 1000)
