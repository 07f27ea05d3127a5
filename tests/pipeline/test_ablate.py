"""`treepo ablate`: runs that share, fail alone, end early, and go on after a SIGKILL."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from projects import killed_when, make_project, refused, treepo

from tasks.hashing import content_hash
from tasks.lineage import Lineage
from treepo.schemas.ablation import check_comparison, check_curves, check_runs
from treepo.storage import read_table

# Two kills and nine commands: minutes where other work shares the cores.
PATIENCE = 1500
pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE)]
STUDY = "runs/ablations/study"
# On the shipped one: a variant that cannot work, and one that spends the budget of tokens early.
FILE = """
extends: smoke
axes:
  list:
    - {name: treepo}
    - {name: grpo, set: {advantage.estimator: grpo}}
    - {name: bad, set: {evaluation.max_tokens: 400}}
    - {name: dear, set: {rollout.prompts: 20}}
stop: [{rule: tokens_sampled, value: 4600}]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose ablation was killed twice before it came to its end."""
    folder = make_project(tmp_path_factory.mktemp("ablate"))
    (folder / "params/ablations/study.yaml").write_text(FILE)
    for file in ("treepo-s0/iterations/000002/forest.parquet", "grpo-s0/policy/000001"):
        assert killed_when(folder / STUDY / file, folder, "ablate", "study")
    result = treepo(folder, "ablate", "study", timeout=PATIENCE)
    (folder / "code").write_text(str(result.returncode))
    (folder / "stdout").write_text(result.stdout)
    (folder / "stderr").write_text(result.stderr)
    return folder


def test_a_variant_fails_alone_and_is_told_at_the_end(project: Path) -> None:
    assert (project / "code").read_text() == "1"
    errors = (project / "stderr").read_text()
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("treepo: ")]
    assert "2 of 8 runs failed; bad-s0: sampling: prompts of" in line
    runs = read_table(project / STUDY / "runs.parquet", check_runs).to_pylist()
    status = {(row["variant"], row["seed"]): row["status"] for row in runs}
    assert {name for name, told in status.items() if told == "failed"} == {("bad", 0), ("bad", 1)}
    assert all(row["accuracy"] is None for row in runs if row["variant"] == "bad")
    assert {status["treepo", 0], status["grpo", 1]} == {"finished"}


def test_a_run_ends_early_by_a_rule(project: Path) -> None:
    runs = read_table(project / STUDY / "runs.parquet", check_runs).to_pylist()
    for row in runs:
        if row["variant"] == "dear":
            assert (row["status"], row["iterations"]) == ("stopped early", 2)
            assert row["reason"] == "budget of 4,600 sampled tokens spent"
    assert (project / STUDY / "dear-s0/evaluation/000002.parquet").is_file()
    assert not (project / STUDY / "dear-s0/iterations/000003").exists()


def test_a_variant_is_the_experiment_itself(project: Path, finished: Path) -> None:
    for name in ("data", "policy", "iterations", "evaluation"):
        own, plain = project / STUDY / "treepo-s0" / name, finished / "runs/smoke" / name
        assert content_hash(own) == content_hash(plain), name


def test_data_and_warm_up_are_made_once_a_seed(project: Path) -> None:
    for seed in (0, 1):
        for name in ("grpo", "dear", "bad"):
            lineage = Lineage(project / STUDY / f"{name}-s{seed}")
            for artifact in ("data", "policy/000000"):
                record = lineage.get(artifact)
                assert record is not None
                assert record.taken_from == f"ablations/study/treepo-s{seed}"
                assert content_hash(project / STUDY / f"{name}-s{seed}" / artifact) == record.hash
    own = {record.taken_from for record in Lineage(project / STUDY / "treepo-s1")}
    assert own == {None}


def test_the_tables_and_the_page(project: Path) -> None:
    rows = read_table(project / STUDY / "comparison.parquet", check_comparison).to_pylist()
    found = {(row["variant"], row["measure"]): row for row in rows}
    assert (found["grpo", "accuracy"]["n"], found["grpo", "accuracy"]["difference_n"]) == (2, 2)
    assert found["bad", "accuracy"]["n"] == 0
    curves = read_table(project / STUDY / "curves.parquet", check_curves).to_pylist()
    assert {row["variant"] for row in curves} == {"treepo", "grpo", "dear"}
    page = (project / STUDY / "report/index.html").read_text()
    assert "2 of 8 runs failed" in page
    assert "../grpo-s1/report/index.html" in page
    records = {record.artifact: record for record in Lineage(project / STUDY)}
    for name in ("plan.yaml", "runs.parquet", "comparison.parquet", "report/index.html"):
        assert records[name].hash == content_hash(project / STUDY / name)
    assert len(records["runs.parquet"].inputs) == 6


def test_a_table_of_the_ablation_is_not_reproduced_alone(project: Path) -> None:
    result = treepo(project, "reproduce", f"{STUDY}/runs.parquet")
    refused(result, "runs.parquet", "run 'treepo ablate' again")


def test_mlflow_nests_the_runs(project: Path) -> None:
    client = MlflowClient(f"sqlite:///{project}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("treepo")
    assert experiment
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 1 + 8
    parent = runs.pop("ablations/study")
    assert parent.info.status == "FAILED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert runs["ablations/study/grpo-s1"].info.status == "FINISHED"
    assert runs["ablations/study/bad-s0"].info.status == "FAILED"


def test_what_is_finished_is_not_made_again(project: Path) -> None:
    kept = [f"{name}-s{seed}" for name in ("treepo", "grpo", "dear") for seed in (0, 1)]
    before = {name: content_hash(project / STUDY / name) for name in kept}
    result = treepo(project, "ablate", "study")
    assert result.returncode == 1
    assert result.stdout.count("finished before") == len(kept)
    assert {name: content_hash(project / STUDY / name) for name in kept} == before


def test_changed_parameters_are_refused_before_anything_runs(project: Path) -> None:
    text = FILE.replace("list:", "list:\n    - {name: more, set: {iterations: 4}}")
    changed = text + "set: {update.learning_rate: 1.0e-3}\n"
    file = project / "params/ablations/study.yaml"
    file.write_text(changed)
    result = treepo(project, "ablate", "study")
    file.write_text(FILE)
    refused(result, "treepo-s0", "update.learning_rate", "was made with")
    assert not (project / STUDY / "more-s0").exists()
