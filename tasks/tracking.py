"""MLflow: one run an experiment or evaluation, resumed with it; metrics, datasets, report, system.

Works without a server: a SQLite file beside the runs, unless MLFLOW_TRACKING_URI names another
store. A tracker that fails costs a warning, never a result: all it shows is in the artifacts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from tasks.lineage import flatten
from tasks.steps import RunParams
from tasks.workspace import Workspace

log = logging.getLogger(__name__)
MAX_VALUE = 500  # MLflow's limit on a parameter [characters]
SHOWN = "reward/mean"  # every iteration has this metric


def _forgiving(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def attempt(self: Tracker, *arguments: Any) -> None:
        if self.run_id is None and method.__name__ != "_open":
            return  # the run could not be opened, and that was said
        try:
            method(self, *arguments)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            log.warning("MLflow: %s not recorded (%s)", method.__name__, str(error).split("\n")[0])

    return attempt


class Tracker:
    """The MLflow run of an experiment, evaluation or ablation, which nests its runs below it."""

    def __init__(
        self,
        workspace: Workspace,
        params: RunParams,
        run_id: str | None,
        parent: str | None = None,
    ) -> None:
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        local = f"sqlite:///{workspace.runs.resolve() / 'mlflow.db'}"
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or local
        self._client: MlflowClient | None = None
        self._workspace = workspace
        self._monitor: SystemMetricsMonitor | None = None
        self._logged: set[int] = set()
        self._tags = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        self.run_id: str | None = None
        self._open(params, run_id)

    @_forgiving
    def _open(self, params: RunParams, run_id: str | None) -> None:
        self._client = MlflowClient(tracking_uri=self.uri)
        if run_id is None or not self._resume(run_id):
            run = self._client.create_run(
                self._experiment(), run_name=self._workspace.name, tags=self._tags
            )
            self.run_id = run.info.run_id
            values = flatten(params.model_dump(mode="json"))
            given = [Param(key, str(value)[:MAX_VALUE]) for key, value in values.items()]
            self._client.log_batch(self.run_id, params=given)
            self._client.set_tag(self.run_id, "mlflow.note.content", params.description)
        self._monitor = SystemMetricsMonitor(
            self.run_id, resume_logging=bool(run_id), tracking_uri=self.uri
        )
        self._monitor.start()

    def _resume(self, run_id: str) -> bool:
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException:
            return False  # the store is another one, or was removed
        self._logged = {int(m.step) for m in self._client.get_metric_history(run_id, SHOWN)}
        self.run_id = run_id
        return True

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name("treepo")
        if found:
            return found.experiment_id
        return self._client.create_experiment(
            "treepo", (self._workspace.runs.resolve() / "mlartifacts").as_uri()
        )

    @_forgiving
    def log_iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one iteration, once."""
        if iteration not in self._logged:
            self.log_metrics(iteration, metrics)
            self._logged.add(iteration)

    @_forgiving
    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """One batch of metrics."""
        now = int(time.time() * 1000)
        batch = [
            Metric(key.replace("@", "_at_"), value, now, step) for key, value in metrics.items()
        ]
        self._client.log_batch(self.run_id, metrics=batch)

    @_forgiving
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
        self._client.log_inputs(self.run_id, inputs)

    @_forgiving
    def log_file(self, artifact: str) -> None:
        """A file of the experiment, such as the report."""
        self._client.log_artifact(self.run_id, str(self._workspace.path(artifact)))

    @_forgiving
    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        if self._monitor:
            self._monitor.finish()
        self._client.set_terminated(self.run_id, status)
