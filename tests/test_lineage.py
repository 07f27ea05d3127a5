"""Ancestries, comparisons and missing artifacts, on lineage files written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.ancestry import show_difference, show_lineage
from tasks.ancestry import Ancestor, ancestry
from tasks.compare import compare
from tasks.lineage import FILE, Lineage, Record
from tasks.workspace import Workspace
from treepo.errors import UserError

ROOT = Path(__file__).parents[1]


def record(artifact: str, step: str = "make", iteration: int = 0, **values: object) -> Record:
    empty = Record(artifact, f"hash of {artifact}", step, iteration, {}, {})
    return replace(empty, **values)  # pyright: ignore[reportArgumentType]


def chain(length: int) -> list[Record]:
    """Policies, each from the one before and a forest that this one sampled."""
    records = [record("data"), record("policy/0", inputs={"data": "hash of data"})]
    for k in range(1, length + 1):
        before, forest = f"policy/{k - 1}", f"forest/{k}"
        sources = {"data": "hash of data", before: f"hash of {before}"}
        records.append(record(forest, "rollout", k, inputs=sources))
        sources = {before: f"hash of {before}", forest: f"hash of {forest}"}
        records.append(record(f"policy/{k}", "update", k, inputs=sources))
    return records


def write(folder: Path, records: list[Record], torn: str = "") -> Lineage:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(asdict(each)) + "\n" for each in records)
    (folder / FILE).write_text(text + torn)
    return Lineage(folder)


def names(node: Ancestor) -> list[str]:
    return [node.name, *(name for child in node.inputs for name in names(child))]


def test_each_ancestor_is_shown_once(tmp_path: Path) -> None:
    lineage = write(tmp_path, chain(100))
    tops = list(ancestry(lineage, "policy/100"))
    shown = [name for top in tops for name in names(top)]
    assert sorted(shown) == sorted(each.artifact for each in chain(100))
    assert len(tops) > 1


def test_a_tree_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = chain(2)
    records[2] = replace(records[2], hash="another")
    write(tmp_path, records, torn='{"artifact": "policy/3", "ha')
    show_lineage(tmp_path / "policy/2/weights")
    assert capsys.readouterr().out.splitlines() == [
        "policy/2  update 2  hash of poli  0.0 s  (removed)",
        "├── policy/1  update 1  hash of poli  0.0 s  (removed)",
        "│   ├── policy/0  make  hash of poli  0.0 s  (removed)",
        "│   │   └── data  make  hash of data  0.0 s  (removed)",
        "│   └── forest/1  rollout 1  another  0.0 s  (removed)"
        "  (made again since it was read as hash of fore)",
        "│       └── above: data, policy/0",
        "└── forest/2  rollout 2  hash of fore  0.0 s  (removed)",
        "    └── above: data, policy/1",
    ]


def test_ancestors_in_another_run(tmp_path: Path) -> None:
    write(tmp_path / "smoke", chain(1))
    inputs = {"../../smoke/policy/1": "hash of policy/1"}
    lineage = write(tmp_path / "evaluations/mine", [record("batch", inputs=inputs)])
    (top,) = ancestry(lineage, "batch")
    assert set(names(top)) == {"batch", *(f"../../smoke/{e.artifact}" for e in chain(1))}


def test_equal_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, chain(2))
    assert not show_difference("a", "b", tmp_path)
    assert capsys.readouterr().out == "the same: 6 artifacts\n"


def test_what_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a", chain(2))
    changed = chain(2)
    for index, old in enumerate(changed[2:], 2):
        changed[index] = replace(
            old,
            hash=f"new {old.artifact}",
            params={"sampling": {"width": 8}},
            packages={"torch": "2"},
            code={"commit": "c0ffee"},
        )
    write(tmp_path / "b", changed[:-1])
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.params == {"sampling.width": ("absent", "8")}
    assert found.packages == {"torch": ("absent", "2")}
    assert found.code == {"commit": ("absent", "c0ffee")}
    assert found.data == {}
    assert found.first is not None
    assert found.first.artifact == "forest/1"
    assert found.first.inputs == []
    assert list(found.first.params) == ["sampling.width"]
    assert (found.same, found.alone) == (2, (1, 0))
    assert show_difference("a", "b", tmp_path)
    assert "first difference: forest/1 (step rollout)" in capsys.readouterr().out


def test_the_users_files_are_shown_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        files = {"own.jsonl": f"hash in {name}", "held.jsonl": "the same"}
        write(tmp_path / name, [record("data", files=files, hash=f"data of {name}")])
    show_lineage(tmp_path / "a/data")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "├── own.jsonl  file  hash in a",
        "└── held.jsonl  file  the same",
    ]
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.data["own.jsonl"] == ("hash in a", "hash in b")
    assert "held.jsonl" not in found.data
    assert found.first is not None
    assert found.first.inputs == ["own.jsonl"]


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run lies here"):
        compare(tmp_path / "a", tmp_path / "b")


def test_nothing_slow_is_imported() -> None:
    slow = "{'torch', 'transformers', 'prefect', 'mlflow', 'pyarrow', 'dvc'}"
    code = f"import sys, flows.cli, flows.ancestry; assert not {slow} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", ["../smoke", "/tmp/smoke", "ablations/../../smoke"])
def test_a_run_stays_below_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must stay below the folder of all runs$"):
        Workspace(tmp_path, name)


@pytest.mark.parametrize("artifact", ["../../other/policy/000001", "/etc/passwd"])
def test_lineage_speaks_of_its_own_run_only(artifact: str, tmp_path: Path) -> None:
    line = {"artifact": artifact, "hash": "a", "step": "update", "iteration": 1}
    line |= {"inputs": {}, "params": {}}
    (tmp_path / FILE).write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        Lineage(tmp_path)
