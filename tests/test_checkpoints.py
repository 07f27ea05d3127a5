"""Retention: what goes, what stays, and that a policy that went comes back with the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flows.collect import collect
from flows.single import single_step
from tasks import retention
from tasks.cache import Cache
from tasks.collect import plan
from tasks.hashing import listing_hash
from tasks.lineage import Lineage
from tasks.reproduce import reproduce
from tasks.run import EXPERIMENT, ITERATION, opened, perform, standing
from tasks.steps import verified_hash
from tasks.workspace import Workspace, policy
from treepo.errors import UserError, WorkError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
# Warmed up enough that some problems are solved: each update then changes the policy.
SETTINGS = ("iterations=5", "warm_up.steps=150", "data.families={chain_sum: 1}")
NONE_KEPT = "checkpoints.keep_every=0"


def go(runs: Path, last: int, *settings: str) -> list[tuple[str, int]]:
    """Run or resume up to iteration `last` and evaluate the first policy; says what was made."""
    workspace = Workspace(runs, "smoke")
    made: list[tuple[str, int]] = []
    wanted = [("prepare", 0), ("warm_up", 0), ("evaluate", 0)]
    wanted += [(step.name, k) for k in range(1, last + 1) for step in ITERATION]
    params = EXPERIMENT.resolve(workspace, (*SETTINGS, *settings), ROOT / "params")
    with opened(workspace, params) as context:
        for name, k in wanted:
            if not standing(name, context, k) and perform(name, context, k).fresh:
                made.append((name, k))
    return made


def policies(runs: Path) -> list[int]:
    return sorted(int(path.name) for path in (runs / "smoke/policy").iterdir())


def hashes(runs: Path) -> dict[str, str]:
    return {record.artifact: record.hash for record in Lineage(runs / "smoke")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps every policy; tests must not change it."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    go(runs, 5)
    return runs


@pytest.fixture
def spare(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run, with nothing after iteration `last`."""

    def copy(last: int = 5) -> Path:
        runs = tmp_path / "runs"
        shutil.copytree(whole, runs)
        file = runs / "smoke/lineage.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(ln for ln in lines if json.loads(ln)["iteration"] <= last))
        for k in range(last + 1, 6):
            shutil.rmtree(runs / "smoke" / policy(k))
            shutil.rmtree(runs / f"smoke/iterations/{k:06d}")
        return runs

    return copy


def test_every_update_changes_the_policy(whole: Path) -> None:
    """Else the tests here would show nothing."""
    assert policies(whole) == [0, 1, 2, 3, 4, 5]
    assert len({hashes(whole)[policy(k)] for k in range(6)}) == 6


def test_removed_as_the_run_goes_on(whole: Path, spare: Callable[..., Path]) -> None:
    runs = spare(last=2)
    go(runs, 5, NONE_KEPT)
    assert policies(runs) == [0, 5]
    assert hashes(runs) == hashes(whole)
    assert go(runs, 5, NONE_KEPT) == []


def test_what_dvc_removed_is_made_anew_as_the_parameters_say_now(
    whole: Path, spare: Callable[..., Path]
) -> None:
    """Lineage still tells of every policy and account; none of them was let go by retention."""
    runs = spare()
    for k in range(1, 6):
        shutil.rmtree(runs / "smoke" / policy(k))
        shutil.rmtree(runs / f"smoke/iterations/{k:06d}")
    made = go(runs, 5, NONE_KEPT, "update.learning_rate=2.0e-4")
    assert made == [(step.name, k) for k in range(1, 6) for step in ITERATION]
    assert policies(runs) == [0, 5]
    assert hashes(runs)[policy(5)] != hashes(whole)[policy(5)]


def test_every_second_and_the_last_two(spare: Callable[..., Path]) -> None:
    runs = spare(last=4)
    go(runs, 5, "checkpoints.keep_every=3", "checkpoints.keep_last=2")
    assert policies(runs) == [0, 3, 4, 5]


def test_a_lost_checkpoint_is_replayed_without_sampling(
    whole: Path, spare: Callable[..., Path]
) -> None:
    runs = spare(last=4)
    for k in (2, 3, 4):
        shutil.rmtree(runs / "smoke" / policy(k))
    made = go(runs, 5, NONE_KEPT)
    assert [name for name, k in made if k < 5] == ["update"]
    assert hashes(runs) == hashes(whole)
    assert policies(runs) == [0, 5]


def test_a_replay_that_differs_is_refused(spare: Callable[..., Path]) -> None:
    runs = spare(last=4)
    file = runs / "smoke/lineage.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["artifact"] == policy(3):
            line["hash"] = "0" * 32 + ".dir"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(runs / "smoke" / policy(3))
    workspace = Workspace(runs, "smoke")
    params = EXPERIMENT.resolve(workspace, (*SETTINGS, NONE_KEPT), ROOT / "params")
    with (
        opened(workspace, params) as context,
        pytest.raises(WorkError, match="policy/000003: is gone"),
    ):
        context.keeping.restore(policy(3), context)
    assert policies(runs) == [0, 1, 2, 4]


def test_what_is_gone_is_made_anew_with_other_parameters(
    whole: Path, spare: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies that once were let go neither refuse nor let the new ones go before their time."""

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be put back")

    monkeypatch.setattr(retention.Retention, "restore", refuse)
    runs = spare()
    for k in range(1, 6):
        shutil.rmtree(runs / "smoke" / policy(k))
    shutil.rmtree(runs / "smoke/iterations")
    made = go(runs, 5, NONE_KEPT, "update.learning_rate=0.002")
    assert made == [(step.name, k) for k in range(1, 6) for step in ITERATION]
    assert policies(runs) == [0, 5]
    assert all(hashes(runs)[policy(k)] != hashes(whole)[policy(k)] for k in range(1, 6))


def test_reproduction_over_removed_policies(spare: Callable[..., Path]) -> None:
    runs = spare()
    for k in (1, 2, 3):
        shutil.rmtree(runs / "smoke" / policy(k))
    assert reproduce(runs / "smoke/iterations/000004/forest.parquet", chain=False) == "identical"
    assert reproduce(runs / "smoke" / policy(5), chain=True) == "identical"
    assert policies(runs) == [0, 4, 5]


def project_that_keeps_none(runs: Path) -> Path:
    project = runs.parent
    shutil.copytree(ROOT / "params", project / "params")
    text = (project / "params/smoke.yaml").read_text().replace("iterations: 3", "iterations: 5")
    (project / "params/smoke.yaml").write_text(f"{text}checkpoints: {{keep_every: 0}}\n")
    return project


def test_gc_keeps_what_could_not_be_replayed(
    spare: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = spare()
    (runs / "smoke/iterations/000002/scores.parquet").unlink()
    monkeypatch.chdir(project_that_keeps_none(runs))
    collect("smoke", Path("runs"), dry_run=True)
    assert policies(runs) == [0, 1, 2, 3, 4, 5]
    collect("smoke", Path("runs"), dry_run=False)
    assert policies(runs) == [0, 2, 5]
    said = capsys.readouterr().out
    assert "keeps policy/000002: iterations/000002/scores.parquet is missing" in said
    with pytest.raises(UserError, match="no experiment"):
        collect("smok", Path("runs"), dry_run=True)


def test_gc_keeps_what_a_missing_reference_policy_would_be_needed_for(
    spare: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other policies that are missing can be replayed; a reference is made by no update."""
    runs = spare()
    file = runs / "smoke/lineage.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    made = next(line for line in lines if line["artifact"] == policy(0))
    for line in lines:
        if line["artifact"] == policy(3):
            line["inputs"]["policy/reference"] = made["hash"]
    lines.append(made | {"artifact": "policy/reference", "step": "reference"})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(runs / "smoke" / policy(1))
    monkeypatch.chdir(project_that_keeps_none(runs))
    workspace = Workspace(Path("runs"), "smoke")
    found = plan(workspace)
    assert found.held == {policy(3): "policy/reference is missing"}
    assert found.removable == [policy(2), policy(4)]
    shutil.copytree(workspace.path(policy(0)), workspace.path("policy/reference"))
    assert policy(3) in plan(workspace).removable


def test_a_policy_that_was_let_go_says_how_to_have_it_again(
    whole: Path,
    spare: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = spare(last=4)
    go(runs, 5, NONE_KEPT)
    monkeypatch.chdir(project_that_keeps_none(runs))
    capsys.readouterr()
    advice = "run its experiment again with --set checkpoints.keep_every=2"
    workspace = Workspace(Path("runs"), "smoke")
    with opened(workspace, EXPERIMENT.resolve(workspace, (*SETTINGS, NONE_KEPT))) as context:
        perform("resolve", context, 0)
        other = replace(context, workspace=Workspace(Path("runs"), "evaluations/mine"))
        with pytest.raises(UserError, match=f"policy/000002: let go by retention; {advice}"):
            verified_hash(other, f"../../smoke/{policy(2)}")
    single_step("update", "smoke", 2, Path("runs"))
    said = " ".join(capsys.readouterr().out.split())
    assert advice in said
    assert "there already" not in said
    go(runs, 5, "checkpoints.keep_every=2")
    assert policies(runs) == [0, 2, 4, 5]
    assert hashes(runs)[policy(2)] == hashes(whole)[policy(2)]


@pytest.mark.parametrize("other", ["evaluations/mine", "efficiency/mine", "ablations/a/run"])
def test_what_another_run_reads_stays(spare: Callable[..., Path], other: str) -> None:
    runs = spare()
    up = "/".join(".." for _ in Path(other).parts)
    lines = (runs / "smoke/lineage.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    record |= {"artifact": "data", "inputs": {f"{up}/smoke/policy/000003": "x"}}
    folder = runs / other
    folder.mkdir(parents=True)
    (folder / "lineage.jsonl").write_text(json.dumps(record) + "\n")
    workspace = Workspace(runs, "smoke")
    params = EXPERIMENT.resolve(workspace, (*SETTINGS, NONE_KEPT), ROOT / "params")
    kept = retention.Retention(workspace, params)
    assert kept.removable(Lineage(workspace.root)) == [policy(k) for k in (1, 2, 4)]


def put(cache: Path, listing: list[dict[str, str]]) -> str:
    """A listing in a cache; returns its hash."""
    digest = listing_hash(listing)
    (cache / digest[:2]).mkdir(parents=True, exist_ok=True)
    (cache / digest[:2] / digest[2:]).write_text(json.dumps(listing))
    for entry in listing:
        file = cache / entry["md5"][:2] / entry["md5"][2:]
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    return digest


def entries(**files: str) -> list[dict[str, str]]:
    return [{"md5": md5 * 32, "relpath": name} for name, md5 in files.items()]


def below(folder: str, listing: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**entry, "relpath": f"{folder}/{entry['relpath']}"} for entry in listing]


def test_cache_objects_go_only_where_nothing_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = entries(weights="a", tokenizer="c"), entries(weights="b", tokenizer="c")
    put(tmp_path, [*below("000000", first), *below("000001", second)])
    cache = Cache(tmp_path)
    gone = [listing_hash(second)]
    assert [path.name for path in cache.unneeded(gone, ["smoke"])] == ["b" * 30]
    other = put(tmp_path, below("000007", second))
    lock = f"stages:\n  train@other:\n    outs:\n    - path: x\n      md5: {other}\n"
    (tmp_path / "dvc.lock").write_text(lock)
    assert cache.unneeded(gone, ["smoke"]) == []
    assert cache.unneeded(gone, ["smoke", "other"]) != []
