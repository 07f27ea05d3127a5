"""`treepo reproduce` for every artifact kind, and what it says of tampered ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import refused, treepo

from tasks.hashing import content_hash
from tasks.lineage import Lineage
from tasks.reproduce import reproduce
from treepo.errors import WorkError
from treepo.storage import write_table

pytestmark = pytest.mark.slow
ARTIFACTS = (
    "params.yaml",
    "data",
    "policy/000000",
    "iterations/000002/forest.parquet",
    "iterations/000002/scores.parquet",
    "iterations/000002/advantages.parquet",
    "iterations/000002/update.json",
    "policy/000002",
    "policy/000002/model.safetensors",
    "evaluation/000003.parquet",
    "report/index.html",
    "report/metrics.json",
)
Copy = Callable[[Sequence[str]], Path]


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_every_kind_comes_out_the_same(finished: Path, artifact: str) -> None:
    assert reproduce(finished / "runs/smoke" / artifact, chain=False) == "identical"


def test_the_whole_chain_from_the_command_line(finished: Path) -> None:
    result = treepo(finished, "reproduce", "--chain", "runs/smoke/evaluation/000003.parquet")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("identical")


def test_a_tampered_artifact_differs(copied: Copy) -> None:
    folder = copied(())
    file = folder / "runs/smoke/iterations/000002/scores.parquet"
    table = pq.read_table(file)
    column = table.column_names.index("reward")
    values = [1 - value for value in table["reward"].to_pylist()]
    table = table.set_column(column, table.schema.field("reward"), [values])
    file.chmod(0o644)
    write_table(table, file)
    result = treepo(folder, "reproduce", str(file))
    assert result.returncode == 1
    assert "column 'reward', row 0" in result.stderr
    after = treepo(folder, "reproduce", "runs/smoke/iterations/000002/advantages.parquet")
    refused(after, "iterations/000002/scores.parquet", "input differs")


@pytest.mark.parametrize(("change", "chain"), [(1e-6, False), (1e-6, True), (1e-2, False)])
def test_what_a_gpu_made_is_compared_within_a_tolerance(
    copied: Copy, change: float, chain: bool
) -> None:
    """As no GPU is at hand, lineage says so of what this processor made, and of other numbers."""
    root = copied(()) / "runs/smoke"
    advantages, policy = "iterations/000003/advantages.parquet", "policy/000003"
    file = root / advantages
    table = pq.read_table(file)
    column = table.column_names.index("advantage")
    field = table.schema.field("advantage")
    values = [[value + change for value in row] for row in table["advantage"].to_pylist()]
    file.chmod(0o644)
    write_table(table.set_column(column, field, pa.array(values, field.type)), file)
    lineage = Lineage(root)
    made, trained = lineage.get(advantages), lineage.get(policy)
    assert made is not None
    assert trained is not None
    device = {**made.device, "device": "cuda:0", "kind": "some GPU"}
    changed = content_hash(file)
    lineage.append(replace(made, hash=changed, device=device))
    lineage.append(replace(trained, inputs={**trained.inputs, advantages: changed}, device=device))
    if change > 1e-4:
        with pytest.raises(WorkError, match="column 'advantage', row 0"):
            reproduce(file, chain)
    else:
        assert reproduce(file, chain).startswith("equal within 0.0001")
        # Of the chain only the advantages come out otherwise; the policy hardly notices.
        assert reproduce(root / policy, chain).startswith(("equal within 0.0001", "identical"))


@pytest.mark.parametrize("compute", ["local", "ray"])
def test_what_depends_on_timing_is_named(
    copied: Copy, caplog: pytest.LogCaptureFixture, compute: str
) -> None:
    root = copied(()) / "runs/smoke"
    forest = "iterations/000001/forest.parquet"
    lineage = Lineage(root)
    made = lineage.get(forest)
    assert made is not None
    lineage.append(replace(made, device={**made.device, "compute": compute}))
    assert reproduce(root / forest, chain=False) == "identical"
    assert ("sampled on Ray without engine.deterministic" in caplog.text) == (compute == "ray")


def test_a_missing_input_is_named(copied: Copy) -> None:
    folder = copied(("runs/smoke/data", ".dvc"))  # nor can it be fetched
    refused(
        treepo(folder, "reproduce", "runs/smoke/iterations/000002/forest.parquet"),
        "runs/smoke/data",
        "missing",
    )


def test_a_path_of_no_experiment(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    refused(treepo(tmp_path, "reproduce", "x"), "x: lies in no experiment")
