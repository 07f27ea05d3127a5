"""An experiment that trains an adapter: run, run again, reproduced."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_project, refused, treepo
from safetensors.torch import load_file

from tasks.hashing import content_hash
from tasks.lineage import Lineage

pytestmark = pytest.mark.slow
VALUES = ("iterations=2", "rollout.prompts=32", "update.learning_rate=1e-2", "update.lora.rank=4")
SETTINGS = [word for value in VALUES for word in ("--set", value)]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke experiment with an adapter, two iterations of it."""
    folder = make_project(tmp_path_factory.mktemp("adapted"))
    result = treepo(folder, "run", "smoke", *SETTINGS)
    assert result.returncode == 0, result.stderr
    return folder


def test_policies_hold_merged_weights_and_the_adapter(adapted: Path) -> None:
    runs = adapted / "runs/smoke/policy"
    first, *later = (load_file(runs / f"00000{k}/model.safetensors") for k in range(3))
    for k, weights in enumerate(later, start=1):
        assert weights.keys() == first.keys()
        assert (runs / f"00000{k}/adapter/adapter_model.safetensors").is_file()
        changed = {name for name in first if not weights[name].equal(first[name])}
        assert changed == {name for name in first if "_proj." in name}
    assert not (runs / "000000/adapter").exists()
    record = Lineage(adapted / "runs/smoke").get("policy/000002")
    assert record is not None
    assert {"policy/000000", "policy/000001"} < record.inputs.keys()
    assert 0 < record.metrics["update/mismatch_max"] < 1e-4
    assert record.metrics["update/total_steps"] == 2


def test_a_second_run_changes_nothing(adapted: Path) -> None:
    lineage = adapted / "runs/smoke/lineage.jsonl"
    before = {name: content_hash(adapted / "runs/smoke" / name) for name in names(adapted)}
    lines = lineage.read_bytes()
    result = treepo(adapted, "run", "smoke", *SETTINGS)
    assert result.returncode == 0, result.stderr
    assert lineage.read_bytes() == lines
    assert {name: content_hash(adapted / "runs/smoke" / name) for name in names(adapted)} == before
    other = treepo(adapted, "run", "smoke", *SETTINGS[:-1], "update.lora.rank=8")
    refused(other, "was made with update.lora.rank = 4, now 8")


def names(folder: Path) -> list[str]:
    return [record.artifact for record in Lineage(folder / "runs/smoke")]


@pytest.mark.parametrize("options", [(), ("--chain",)])
def test_its_last_policy_comes_out_the_same(adapted: Path, options: tuple[str, ...]) -> None:
    result = treepo(adapted, "reproduce", *options, "runs/smoke/policy/000002")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("identical")
