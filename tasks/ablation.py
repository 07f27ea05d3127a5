"""What the runs of an ablation came to, and the artifacts that tell it.

Reads the runs' lineage and metrics.json; writes plan.yaml, three tables and the report into the
ablation's own folder, each with a line in its own lineage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from tasks.hashing import content_hash
from tasks.lineage import Lineage, Record
from tasks.provenance import code_version, package_versions
from tasks.report import READ
from tasks.report_page.ablation import AblationPage, render_ablation
from tasks.sharing import Siblings
from tasks.steps import Sections
from tasks.workspace import METRICS, REPORT, Workspace
from treepo.ablation.comparison import (
    FAILED,
    FINISHED,
    STOPPED,
    RunResult,
    comparison_rows,
    curve_rows,
    measures_of,
    run_rows,
)
from treepo.ablation.plan import Plan, Run
from treepo.ablation.stopping import History, reason_to_stop
from treepo.schemas.ablation import (
    COMPARISON_SCHEMA,
    CURVES_SCHEMA,
    RUNS_SCHEMA,
    check_comparison,
    check_curves,
    check_runs,
)
from treepo.storage import write_table, write_text

PLAN = "plan.yaml"
RUNS, COMPARISON, CURVES = "runs.parquet", "comparison.parquet", "curves.parquet"
PAGE = "report/index.html"
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Study:
    """An ablation on disk: RUNS/ablations/NAME, and below it a folder for each run."""

    runs: Path
    plan: Plan

    @property
    def workspace(self) -> Workspace:
        """The ablation's own folder."""
        return Workspace(self.runs, f"{self.plan.params.folder}/{self.plan.name}")

    def of(self, run: Run) -> Workspace:
        """The folder of one run, an experiment like any other."""
        return Workspace(self.runs, f"{self.workspace.name}/{run.name}")

    def siblings(self, run: Run) -> Siblings:
        """What the other runs have made so far."""
        return Siblings(self.of(other) for other in self.plan.runs if other is not run)

    def history(self, run: Run) -> History:
        """What a run has shown, from its lineage."""
        records = list(Lineage(self.of(run).root))
        updates = {r.iteration: r.metrics for r in records if r.step == "update"}
        evaluations = {r.iteration: r.metrics for r in records if r.step == "evaluate"}
        return History([updates[k] for k in sorted(updates)], evaluations)

    def is_finished(self, run: Run) -> bool:
        """Whether the run's report stands and tells of all iterations, or of an early end."""
        lineage = Lineage(self.of(run).root)
        record = lineage.get(REPORT)
        if record is None or not _is_whole(self.of(run), record):
            return False
        wanted = Sections(run.params, READ).values()
        if {**wanted, "iterations": None} != {**record.params, "iterations": None}:
            return False
        done = record.params["iterations"]
        return done == run.params.iterations or self.early_end(run) is not None

    def early_end(self, run: Run) -> str | None:
        """Why a run ended before its last iteration; None where it did not."""
        history = self.history(run)
        if len(history.updates) >= run.params.iterations:
            return None
        return reason_to_stop(history, self.plan.params.stop)

    def result(self, run: Run, failures: Mapping[str, str]) -> RunResult:
        """What came of a run; `failures`: reason by run name."""
        history = self.history(run)
        if run.name in failures:
            return RunResult(run.variant, run.seed, FAILED, failures[run.name], {}, history)
        metrics = json.loads(self.of(run).path(METRICS).read_text())
        reason = self.early_end(run)
        status = STOPPED if reason else FINISHED
        return RunResult(
            run.variant, run.seed, status, reason or "", measures_of(metrics, history), history
        )


def _is_whole(workspace: Workspace, record: Record) -> bool:
    path = workspace.path(record.artifact)
    return path.exists() and content_hash(path) == record.hash


def write_plan(study: Study, trackers: Mapping[str, str | None]) -> None:
    """Write the ablation's complete parameters."""
    values = study.plan.params.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    _write(study, PLAN, {}, lambda path: write_text(text, path), trackers)


def write_results(
    study: Study, failures: Mapping[str, str], trackers: Mapping[str, str | None]
) -> dict[str, float]:
    """Write the tables and the report of what has been run; `trackers`: ids of runs to record.

    Returns the mean of each measure and variant by `measure/variant`.
    """
    results = [study.result(run, failures) for run in study.plan.runs]
    runs = run_rows(results)
    comparison = comparison_rows(results, study.plan.references)
    curves = curve_rows([result for result in results if result.status != FAILED])
    inputs = _inputs(study, failures)
    tables = (
        (RUNS, runs, RUNS_SCHEMA, check_runs),
        (COMPARISON, comparison, COMPARISON_SCHEMA, check_comparison),
        (CURVES, curves, CURVES_SCHEMA, check_curves),
    )
    for name, rows, schema, check in tables:
        table = check(pa.Table.from_pylist(rows, schema=schema), name)
        _write(study, name, inputs, lambda path, table=table: write_table(table, path), trackers)
    page = render_ablation(AblationPage(study.plan, runs, comparison, curves))
    _write(study, PAGE, inputs, lambda path: write_text(page, path), trackers)
    return {f"{row['measure']}/{row['variant']}": row["mean"] for row in comparison if row["n"]}


def _inputs(study: Study, failures: Mapping[str, str]) -> dict[str, str]:
    """The hash of each run's numbers; their own lineage leads on to everything else."""
    done: Sequence[Run] = [run for run in study.plan.runs if run.name not in failures]
    return {f"{r.name}/{METRICS}": content_hash(study.of(r).path(METRICS)) for r in done}


def _write(
    study: Study,
    artifact: str,
    inputs: dict[str, str],
    write: Write,
    trackers: Mapping[str, str | None],
) -> None:
    """Write one artifact and say in the lineage what it was made from, where that is new."""
    path = study.workspace.path(artifact)
    write(path)
    params: dict[str, Any] = study.plan.params.model_dump(mode="json")
    record = Record(
        artifact=artifact,
        hash=content_hash(path),
        step="ablate",
        iteration=0,
        inputs=inputs,
        params=params,
        code=code_version(),
        packages=package_versions(),
        **trackers,
    )
    lineage = Lineage(study.workspace.root)
    before = lineage.get(artifact)
    same = before is not None and (before.hash, before.inputs) == (record.hash, inputs)
    if not same:
        lineage.append(record)
