"""What `treepo run smoke` leaves behind: artifacts, lineage, MLflow, DVC, the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from projects import dvc, make_project, treepo

from tasks.hashing import content_hash
from tasks.lineage import Lineage
from treepo.forest import Forest
from treepo.schemas import (
    check_advantages,
    check_advantages_match,
    check_evaluation,
    check_forest,
    check_problems,
    check_scores,
    check_scores_match,
)
from treepo.storage import read_table

pytestmark = pytest.mark.slow
RATES = ("tokens_per_second", "trajectories_per_second")
COUNTS = ("iterations", "wall_seconds", "trajectories", "sampled_tokens", "trajectory_tokens")


def test_every_artifact_is_there_and_sound(finished: Path) -> None:
    run = finished / "runs/smoke"
    for name in ("train", "heldout"):
        read_table(run / f"data/{name}.parquet", check_problems)
    for k in (1, 2, 3):
        folder = run / f"iterations/{k:06d}"
        forest = Forest.from_arrow(read_table(folder / "forest.parquet", check_forest))
        scores = read_table(folder / "scores.parquet", check_scores)
        check_scores_match(scores, forest, "scores")
        advantages = read_table(folder / "advantages.parquet", check_advantages)
        check_advantages_match(advantages, forest, "advantages")
        assert len(forest.leaves) == 8 * 8
        assert json.loads((folder / "update.json").read_text())["iteration"] == k
        assert (run / f"policy/{k:06d}/model.safetensors").is_file()
    for k in (0, 3):
        read_table(run / f"evaluation/{k:06d}.parquet", check_evaluation)


def test_metrics_hold_the_contract(finished: Path) -> None:
    metrics = json.loads((finished / "runs/smoke/report/metrics.json").read_text())
    assert metrics["experiment"] == "smoke"
    for key in (*COUNTS, *RATES):
        assert metrics[key] > 0
    for when in ("initial", "final"):
        assert 0 <= metrics[when]["accuracy"] <= 1
        assert 0 <= metrics[when]["maj@k"] <= 1
    assert metrics["trajectories"] == 3 * 8 * 8
    assert metrics["sampled_tokens"] < metrics["trajectory_tokens"]
    page = (finished / "runs/smoke/report/index.html").read_text()
    assert "smoke" in page
    assert "<script src=" not in page


def test_the_last_lines_say_what_and_where(finished: Path) -> None:
    output = (finished / "stdout.txt").read_text()
    for word in ("accuracy", "tokens saved", "report/index.html", "MLflow", "Prefect"):
        assert word in output


def test_lineage_names_every_artifact(finished: Path) -> None:
    run = finished / "runs/smoke"
    records = {record.artifact: record for record in Lineage(run)}
    assert len(records) == 1 + 1 + 1 + 3 * 5 + 2 + 2
    for name, record in records.items():
        assert record.hash == content_hash(run / name)
        assert all(records[source].hash == digest for source, digest in record.inputs.items())
        assert record.params["seed"] == 0
        assert record.packages["torch"]
        assert record.device["threads"] == 1
        assert record.mlflow_run
        assert record.prefect_run


def test_mlflow_has_params_metrics_datasets_report(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("treepo")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["sampling.width"] == "8"
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "reward/mean")]
    assert steps == [1, 2, 3]
    assert "eval/accuracy" in run.data.metrics
    assert 0 < run.data.metrics["system/cache_mebibytes"] < 1000
    assert len(run.inputs.dataset_inputs) == 2
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"index.html", "metrics.json"} <= files
    groups = {name.partition("/")[0] for name in run.data.metrics}
    assert groups == {"rollout", "reward", "advantage", "update", "eval", "time", "system"}
    file = client.download_artifacts(run.info.run_id, "trajectories/000003.json")
    table = json.loads(Path(file).read_text())
    assert len(table["data"]) == 16
    assert {"prompt", "response", "reward", "advantage"} <= set(table["columns"])


def test_mlflow_has_the_evaluated_policies_as_versions(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished}/runs/mlflow.db")
    versions = client.search_model_versions("name = 'treepo-smoke'")
    assert {version.tags["artifact"] for version in versions} == {"policy/000000", "policy/000003"}
    for version in versions:
        record = Lineage(finished / "runs/smoke").get(version.tags["artifact"])
        assert record
        assert version.tags["hash"] == record.hash
        assert version.run_id == record.mlflow_run


def test_dvc_knows_the_run(finished: Path) -> None:
    assert "up to date" in dvc(finished, "status").stdout
    lock = (finished / "dvc.lock").read_text()
    for name in ("policy", "iterations"):
        assert content_hash(finished / f"runs/smoke/{name}") in lock


def test_dvc_pulls_a_single_file(finished: Path, tmp_path: Path) -> None:
    source, empty = tmp_path / "source", tmp_path / "empty"
    shutil.copytree(finished, source)
    for command in (["remote", "add", "-d", "store", str(tmp_path / "store")], ["push"]):
        assert dvc(source, *command).returncode == 0
    make_project(empty.resolve())
    for name in ("dvc.lock", "params/experiments.yaml", ".dvc/config"):
        shutil.copy(source / name, empty / name)
    wanted = "runs/smoke/iterations/000001/forest.parquet"
    result = dvc(empty, "pull", wanted)
    assert result.returncode == 0, result.stderr
    files = [path for path in (empty / "runs").rglob("*") if path.is_file()]
    assert [f for f in files if f.suffix == ".parquet"] == [empty / wanted]
    assert content_hash(empty / wanted) == content_hash(source / wanted)


def test_dvc_repro_makes_anew_what_changed(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(finished, folder)
    file = folder / "params/smoke.yaml"
    text = file.read_text().replace("iterations: 3", "iterations: 1")
    file.write_text(text.replace("learning_rate: 1.0e-4", "learning_rate: 2.0e-4"))
    run = folder / "runs/smoke"
    same = [run / name for name in ("data", "policy/000000", "iterations/000001/forest.parquet")]
    before = {path: content_hash(path) for path in same}
    policy = content_hash(run / "policy/000001")
    result = dvc(folder, "repro", "report@smoke")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (run / "iterations").iterdir()) == ["000001"]
    assert {path: content_hash(path) for path in same} == before
    assert content_hash(run / "policy/000001") != policy
    for record in Lineage(run):
        if (path := run / record.artifact).exists():
            assert record.hash == content_hash(path), record.artifact
            assert record.params.get("update", {}).get("learning_rate", 2e-4) == 2e-4
    assert "up to date" in dvc(folder, "status").stdout


def test_a_second_run_changes_nothing(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    run = folder / "runs/smoke"
    before = {path: content_hash(path) for path in run.iterdir() if path.name[0] != "."}
    result = treepo(folder, "run", "smoke")
    assert result.returncode == 0, result.stderr
    assert {path: content_hash(path) for path in before} == before
