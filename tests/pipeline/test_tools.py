"""The commands on single files, as scripts call them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import refused, treepo

from treepo.advantages.nested import treepo as eq5
from treepo.forest import Forest
from treepo.schemas import check_advantages, check_forest, check_scores
from treepo.storage import read_table

pytestmark = pytest.mark.slow
Copy = Callable[[Sequence[str]], Path]
ITERATION = "runs/smoke/iterations/000003"


def test_advantage_without_normalization_is_eq_5(finished: Path, tmp_path: Path) -> None:
    forest = Forest.from_arrow(read_table(finished / ITERATION / "forest.parquet", check_forest))
    rewards = np.random.default_rng(0).random(len(forest.leaves))
    columns = {
        "tree": forest.tree[forest.leaves],
        "leaf": forest.node[forest.leaves],
        "reward": rewards,
    }
    pq.write_table(pa.table(columns), tmp_path / "scores.parquet")
    out = tmp_path / "advantages.parquet"
    files = ["--scores", str(tmp_path / "scores.parquet"), "--out", str(out)]
    forest_file = ["--forest", f"{ITERATION}/forest.parquet"]
    settings = ["--set", "estimator=treepo", "--set", "normalization=none"]
    result = treepo(finished, "advantage", *forest_file, *files, *settings)
    assert result.returncode == 0, result.stderr
    table = read_table(out, check_advantages)
    expected = eq5(forest, rewards)
    for row, value in zip(table.to_pylist(), expected, strict=True):
        assert row["advantage"] == pytest.approx([value] * len(row["path"]), abs=1e-6)
    refused(
        treepo(finished, "advantage", *forest_file, *files, "--set", "estimator=trepo"),
        "advantage.estimator",
        "did you mean 'treepo'",
    )


def test_score_again_gives_the_same_scores(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    files = ["--forest", f"{ITERATION}/forest.parquet", "--data", "runs/smoke/data/train.parquet"]
    settings = ["--out", str(out), "--set", "verifier=numeric"]
    result = treepo(finished, "score", *files, *settings)
    assert result.returncode == 0, result.stderr
    stored = read_table(finished / ITERATION / "scores.parquet", check_scores)
    assert read_table(out, check_scores).equals(stored)


def test_score_without_a_policy_to_decode_with(finished: Path, copied: Copy) -> None:
    forest = f"{ITERATION}/forest.parquet"
    files = ["--forest", forest, "--data", "runs/smoke/data", "--out", "scores.parquet"]
    refused(treepo(finished, "score", *files, "--tokenizer", "nosuch"), "nosuch: no policy here")
    folder = copied(["runs/smoke/policy/000000"])
    refused(treepo(folder, "score", *files), "runs/smoke/policy/000000: no policy here")


def test_verify_adds_verdicts(tmp_path: Path) -> None:
    pairs = [
        {"gold": "1/2", "response": "so it is \\boxed{0.5}", "id": 7},
        {"gold": "2", "response": "no box"},
        {"gold": "2", "response": None},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    result = treepo(tmp_path, "verify", "--pairs", "pairs.jsonl", "--out", "out.jsonl")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == [True, False, False]
    assert lines[0]["id"] == 7
    assert all(isinstance(line["reason"], str) for line in lines)
    assert lines[1]["reason"]


def test_verify_names_the_bad_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"gold": "1", "response": "1"}\n{"gold": 1}\n')
    result = treepo(tmp_path, "verify", "--pairs", "pairs.jsonl", "--out", "out.jsonl")
    refused(result, "pairs.jsonl", "line 2", "response")


def test_a_folder_is_never_replaced_by_a_result(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"gold": "1", "response": "1"}\n')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("dear")
    for place in ("mine", "."):
        result = treepo(tmp_path, "verify", "--pairs", "pairs.jsonl", "--out", place)
        refused(result, f"{place}: is a folder")
    assert (tmp_path / "mine/notes.txt").read_text() == "dear"


def test_params_explains_every_parameter(finished: Path) -> None:
    result = treepo(finished, "params", "smoke")
    assert result.returncode == 0, result.stderr
    for word in ("sampling.width", "8", "w: trajectories a tree", "scoring.deadline", "[s]"):
        assert word in result.stdout


def test_a_step_alone(finished: Path, tmp_path: Path) -> None:
    result = treepo(finished, "step", "score", "smoke", "--iteration", "2")
    assert result.returncode == 0, result.stderr
    assert "scores.parquet: there already" in result.stdout
    refused(treepo(finished, "step", "scor", "smoke"), "unknown step 'scor'", "score")
    refused(treepo(finished, "step", "score", "smoke"), "--iteration")
    assert not list(tmp_path.iterdir())
