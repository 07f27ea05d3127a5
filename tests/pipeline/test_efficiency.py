"""`treepo efficiency` from the command line: what it leaves, kill -9, mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from projects import killed_when, make_project, refused, treepo

from tasks.hashing import content_hash
from tasks.lineage import Lineage
from treepo.schemas.efficiency import check_efficiency, check_measurements
from treepo.storage import read_table

PATIENCE = 1200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE)]
HERE = Path("runs/efficiency/sums")
# The random model writes noise, which takes no longer to sample than sense.
VALUES = {
    "policy": "small_llama",
    "benchmarks": {"sums": {"source": "sums.jsonl"}},
    "rounds": 3,
    "engine": {"threads": 1},
    "scoring": {"verifier": "numeric"},
    "sampling": {"width": 4, "stops": ["eos", "limits"]},
    "arms": {
        "flat": {"sampling": {"depth": 1, "segment_length": 16, "initial_branching": 4}},
        "tree": {"against": "flat", "sampling": {"depth": 4, "segment_length": 4}},
    },
    "comparisons": {"all": {"arms": ["flat", "tree"], "shows": ["speed", "accuracy", "scaling"]}},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose efficiency experiment was killed in the second round, then resumed."""
    folder = make_project(tmp_path_factory.mktemp("efficiency"))
    (folder / "params/efficiency/sums.yaml").write_text(yaml.safe_dump(VALUES))
    rows = [{"problem": f"{n}+1=?", "answer": str(n + 1)} for n in range(3)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = folder / HERE / "responses/000002.parquet"
    assert killed_when(second, folder, "efficiency", "sums")
    done = [r.artifact for r in Lineage(folder / HERE) if r.step == "measure"]
    assert {"responses/000001.parquet", "measurements/000001.parquet"} <= set(done)
    times = {name: (folder / HERE / name).stat().st_mtime_ns for name in done}
    result = treepo(folder, "efficiency", "sums", timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert all((folder / HERE / name).stat().st_mtime_ns == at for name, at in times.items())
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


def test_what_is_left(measured: Path) -> None:
    said = (measured / "stdout.txt").read_text()
    assert "runs/efficiency/sums/report/index.html" in said
    table = read_table(measured / HERE / "report/efficiency.parquet", check_efficiency)
    speed = [
        row
        for row in table.to_pylist()
        if (row["arm"], row["measure"]) == ("tree", "trajectories_per_second")
    ]
    assert [row["rounds"] for row in speed] == [3]
    metrics = json.loads((measured / HERE / "report/metrics.json").read_text())
    assert metrics["arms"]["tree"]["trajectories_per_second/flat"] == speed[0]["ratio"]
    assert metrics["arms"]["tree"]["tokens_saved"] > metrics["arms"]["flat"]["tokens_saved"] == 0
    for name in ("params.yaml", "policy", "data", "report/efficiency.parquet"):
        record = Lineage(measured / HERE).get(name)
        assert record is not None, name
        assert record.hash == content_hash(measured / HERE / name)


def test_arms_take_turns(measured: Path) -> None:
    for number in (1, 2, 3):
        path = measured / HERE / f"measurements/{number:06d}.parquet"
        rows = read_table(path, check_measurements).to_pylist()
        assert [row["arm"] for row in rows] == (
            ["flat", "tree"] if number % 2 else ["tree", "flat"]
        )
        for row in rows:
            assert row["trajectories"] == 3 * 4
            assert row["tokens_of_k"][-1] == pytest.approx(row["sampled_tokens"])


def test_mlflow_has_the_medians(measured: Path) -> None:
    client = MlflowClient(f"sqlite:///{measured / 'runs/mlflow.db'}")
    record = Lineage(measured / HERE).get("report/metrics.json")
    assert record is not None
    run = client.get_run(record.mlflow_run or "")
    metrics = json.loads((measured / HERE / "report/metrics.json").read_text())
    wanted = metrics["arms"]["tree"]["trajectories_per_second"]
    assert run.data.metrics["tree/trajectories_per_second"] == wanted
    assert run.info.status == "FINISHED"


def test_mistakes(measured: Path) -> None:
    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        return treepo(measured, "efficiency", "sums", *(f"--set={text}" for text in overrides))

    refused(run("arms.tree.sampling.segmnt_length=4"), "arms.tree.sampling.segment_length")
    refused(run("arms.tree.sampling.max_tokens=2"), "arms.tree", "longer than sampling.max_tokens")
    refused(run("arms.tree.against=flt"), "there is no arm 'flt'")
    elsewhere = ("--runs-dir", "other", "--set=policy=runs/nobody@3")
    refused(treepo(measured, "efficiency", "sums", *elsewhere), "runs/nobody", "no experiment")
    refused(treepo(measured, "efficiency", "summs"), "did you mean 'sums'")
    refused(run("arms.tree.sampling.depth=8"), "was made with arms.tree.sampling.depth = 4, now 8")
