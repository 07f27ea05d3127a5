"""`treepo evaluate` from the command line: what it leaves, kill -9, comparison, mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from projects import ROOT, dvc, killed_when, refused, treepo

from tasks.hashing import content_hash
from tasks.lineage import Lineage
from treepo.evaluation import OVERALL

pytestmark = pytest.mark.slow
HERE = Path("runs/evaluations/smoke")
SMALL = ("--set", "benchmarks.heldout.rows=6")


@pytest.fixture(scope="module")
def evaluated(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project in which `treepo evaluate smoke` has run."""
    folder = tmp_path_factory.mktemp("evaluated") / "project"
    shutil.copytree(finished, folder)
    result = treepo(folder, "evaluate", "smoke", *SMALL)
    assert result.returncode == 0, result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


def test_what_is_left(evaluated: Path) -> None:
    said = (evaluated / "stdout.txt").read_text()
    assert "mean@8" in said
    assert "maj@4" in said
    assert "runs/evaluations/smoke/report/index.html" in said
    metrics = json.loads((evaluated / HERE / "report/metrics.json").read_text())
    assert metrics[OVERALL] == metrics["benchmarks"]["heldout"]
    assert metrics[OVERALL]["problems"] == 6
    for name in ("params.yaml", "data", "batches/000005.parquet", "responses.parquet"):
        record = Lineage(evaluated / HERE).get(name)
        assert record is not None, name
        assert record.hash == content_hash(evaluated / HERE / name)


def test_mlflow_has_the_scores(evaluated: Path) -> None:
    client = MlflowClient(f"sqlite:///{evaluated / 'runs/mlflow.db'}")
    record = Lineage(evaluated / HERE).get("responses.parquet")
    assert record is not None
    assert record.mlflow_run is not None
    run = client.get_run(record.mlflow_run)
    metrics = json.loads((evaluated / HERE / "report/metrics.json").read_text())
    for name in ("heldout", OVERALL):
        assert run.data.metrics[f"eval/{name}/accuracy"] == metrics[OVERALL]["accuracy"]
        assert run.data.metrics[f"eval/{name}/maj_at_k"] == metrics[OVERALL]["maj@k"]
    assert run.data.params["policy"] == "runs/smoke@last"
    assert run.info.status == "FINISHED"


def test_dvc_has_committed_it(evaluated: Path) -> None:
    assert "benchmarks@smoke" not in dvc(evaluated, "status").stdout
    assert "benchmarks@smoke" in (evaluated / "dvc.lock").read_text()
    shutil.rmtree(evaluated / HERE / "batches")
    assert dvc(evaluated, "checkout", "benchmarks@smoke").returncode == 0
    assert (evaluated / HERE / "batches/000005.parquet").is_file()


def test_again_makes_nothing_anew(evaluated: Path) -> None:
    before = (evaluated / HERE / "lineage.jsonl").read_text()
    result = treepo(evaluated, "evaluate", "smoke", *SMALL)
    assert result.returncode == 0, result.stderr
    assert "6 of 6 batches were there already" in result.stdout
    assert (evaluated / HERE / "lineage.jsonl").read_text() == before


def test_killed_in_the_middle(evaluated: Path, tmp_path: Path) -> None:
    """Finished problems are not sampled again, and the end is the same bytes."""
    folder = tmp_path / "project"
    shutil.copytree(evaluated, folder)
    shutil.rmtree(folder / HERE)
    killed_when(folder / HERE / "batches/000002.parquet", folder, "evaluate", "smoke", *SMALL)
    done = [record.artifact for record in Lineage(folder / HERE) if record.step == "respond"]
    assert 2 <= len(done) < 6
    times = {name: (folder / HERE / name).stat().st_mtime_ns for name in done}
    result = treepo(folder, "evaluate", "smoke", *SMALL)
    assert result.returncode == 0, result.stderr
    for name in ("data", "batches", "responses.parquet", "params.yaml"):
        assert content_hash(folder / HERE / name) == content_hash(evaluated / HERE / name), name
    assert all((folder / HERE / name).stat().st_mtime_ns == at for name, at in times.items())
    lines = (folder / HERE / "lineage.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["step"] == "respond" for line in lines) == 6


def test_greedy_and_sequential_against_the_trees(evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(evaluated, folder)
    (folder / "params/evaluations/greedy.yaml").write_text(
        "extends: smoke\npolicy: runs/smoke@0\n"
        "evaluation: {samples: 1, k: 1, temperature: 0, tree: null}\n"
    )
    result = treepo(folder, "evaluate", "greedy", "--against", "smoke", *SMALL)
    assert result.returncode == 0, result.stderr
    assert "against smoke, p = " in result.stdout
    found = json.loads((folder / "runs/evaluations/greedy/report/metrics.json").read_text())
    assert found["against"]["benchmarks"][OVERALL]["problems"] == 6
    assert found[OVERALL]["samples"] == 1


def test_reproduced_from_the_command_line(evaluated: Path) -> None:
    for name in ("batches/000001.parquet", "report/metrics.json"):
        result = treepo(evaluated, "reproduce", str(HERE / name))
        assert (result.returncode, result.stdout.strip()) == (0, "identical"), result.stderr


def test_mistakes(evaluated: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return treepo(evaluated, "evaluate", *arguments)

    refused(run("smok"), "params/evaluations/smok.yaml", "did you mean 'smoke'")
    refused(run("smoke", "--set", "evaluation.k=9"), "k = 9", "samples = 8")
    refused(run("smoke", *SMALL, "--set", "policy=runs/smoke@9"), "runs/smoke@9", "no such policy")
    refused(run("smoke", *SMALL, "--against", "other"), "--against other", "there are: smoke")


def test_params_are_listed(evaluated: Path) -> None:
    result = treepo(evaluated, "params", "evaluations/smoke")
    assert result.returncode == 0, result.stderr
    assert "benchmarks.heldout.source" in result.stdout
    assert (ROOT / "params/evaluations/smoke.yaml").is_file()
