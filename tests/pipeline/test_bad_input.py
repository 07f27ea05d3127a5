"""The user's mistakes: one line, exit code 2, nothing lost."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from projects import Result, make_project, refused, treepo

from tasks.hashing import content_hash

pytestmark = pytest.mark.slow
Copy = Callable[[Sequence[str]], Path]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("bad"))


def run(folder: Path, *settings: str, name: str = "smoke") -> Result:
    flags = [part for setting in settings for part in ("--set", setting)]
    return treepo(folder, "run", name, *flags)


def test_unknown_experiment(project: Path) -> None:
    refused(run(project, name="smok"), "params/smok.yaml", "did you mean 'smoke'")


def test_unknown_parameter(project: Path) -> None:
    refused(run(project, "sampling.widht=3"), "sampling.widht", "did you mean 'sampling.width'")


def test_missing_dataset(project: Path) -> None:
    refused(run(project, "data.source=nowhere.jsonl"), "nowhere.jsonl")


def test_row_without_answer(project: Path) -> None:
    rows = [{"problem": "1+1=?", "answer": "2"}, {"problem": "2+2=?"}]
    (project / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(run(project, "data.source=rows.jsonl"), "rows.jsonl", "2", "answer")


def test_unreadable_dataset(project: Path) -> None:
    (project / "torn.parquet").write_bytes(b"PAR1 no more than this")
    refused(run(project, "data.source=torn.parquet"), "torn.parquet")


def test_all_prompts_too_long(project: Path) -> None:
    refused(run(project, "data.max_prompt_tokens=1"), "data.max_prompt_tokens")


def test_model_path_is_no_model(project: Path) -> None:
    (project / "empty").mkdir(exist_ok=True)
    refused(run(project, "model.source=empty"), "model.source", "empty")


def test_responses_that_do_not_fit(project: Path) -> None:
    refused(
        treepo(project, "run", "smoke", "--runs-dir", "short", "--set", "model.max_positions=32"),
        "positions",
    )


def test_second_run_at_the_same_time(project: Path) -> None:
    folder = project / "runs/smoke"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(run(project), "running already")


def test_other_parameters_than_before(copied: Copy) -> None:
    folder = copied(())
    before = content_hash(folder / "runs/smoke/policy")
    refused(run(folder, "sampling.width=4"), "sampling.width", "--runs-dir")
    assert content_hash(folder / "runs/smoke/policy") == before
    assert "width: 8" in (folder / "runs/smoke/params.yaml").read_text()


def test_corrupt_artifact(copied: Copy) -> None:
    folder = copied(())
    file = folder / "runs/smoke/iterations/000002/forest.parquet"
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    refused(run(folder), "iterations/000002/forest.parquet", "corrupt")
    assert file.read_bytes() == bytes(content)


def test_damaged_lineage(copied: Copy) -> None:
    folder = copied(())
    file = folder / "runs/smoke/lineage.jsonl"
    lines = file.read_text().splitlines()
    lines[3] = lines[3][:40]
    file.unlink()
    file.write_text("\n".join(lines) + "\n")
    refused(run(folder), "lineage.jsonl", "line 4")


def test_longer_runs_go_on(copied: Copy) -> None:
    folder = copied(())
    before = content_hash(folder / "runs/smoke/policy/000003")
    assert run(folder, "iterations=4").returncode == 0
    assert content_hash(folder / "runs/smoke/policy/000003") == before
    assert (folder / "runs/smoke/policy/000004").is_dir()
