"""The user's own problem files: lineage knows which bytes were read, and a change is noticed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from problems import jsonl, sums

from tasks.hashing import content_hash
from tasks.reproduce import reproduce
from tasks.run import EXPERIMENT, opened, perform
from tasks.sharing import Siblings
from tasks.steps import Made
from tasks.workspace import Workspace
from treepo.errors import UserError
from treepo.params import ExperimentParams

PARAMS = Path(__file__).parents[1] / "params"
SIZES = ("data.train_size=20", "data.heldout_size=5", "data.overlap_ngram=0")
OWN = ("data.source=own.jsonl",)


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a file of problems; its first line will be corrected."""
    monkeypatch.chdir(tmp_path)
    jsonl(Path("own.jsonl"), sums(30))


def parameters(settings: Iterable[str]) -> ExperimentParams:
    return EXPERIMENT.load(Workspace(Path("runs"), "smoke"), (*SIZES, *settings), PARAMS)


def prepare(name: str, settings: Iterable[str] = OWN, siblings: Iterable[str] = ()) -> Made:
    """Make or find a run's data, beside its siblings."""
    workspace = Workspace(Path("runs"), name)
    params = parameters(settings)
    others = Siblings(Workspace(Path("runs"), other) for other in siblings)
    with opened(workspace, params, others) as context:
        return perform("prepare", context, 0)


def correct() -> None:
    jsonl(Path("own.jsonl"), [{"problem": "0+1=?", "answer": "one"}, *sums(29, 1)])


def test_every_file_that_was_read_is_recorded_by_its_name() -> None:
    for name, start in (("held.jsonl", 100), ("other.jsonl", 200), ("copies/easy.jsonl", 300)):
        Path(name).parent.mkdir(exist_ok=True)
        jsonl(Path(name), sums(30, start))
    easy = "{name: easy, hub: nobody/sums, mirror: easy.jsonl}"
    settings = ("data.heldout_source=held.jsonl", f"data.exclude=[other.jsonl, {easy}]")
    record = prepare("a", (*OWN, *settings, "data.mirrors=copies")).record
    names = ["own.jsonl", "held.jsonl", "other.jsonl", "copies/easy.jsonl"]
    assert record.files == {name: content_hash(Path(name)) for name in names}


def test_generated_problems_come_from_no_file() -> None:
    assert prepare("a", ()).record.files == {}


def test_a_corrected_file_is_not_replaced_by_what_a_sibling_made_of_the_old_one() -> None:
    old = prepare("a").record
    assert prepare("b", siblings=["a"]).record.taken_from == "a"
    correct()
    new = prepare("c", siblings=["a", "b"]).record
    assert new.taken_from is None
    assert new.files["own.jsonl"] != old.files["own.jsonl"]
    assert new.hash != old.hash


def test_a_run_does_not_go_on_with_data_of_a_file_that_changed() -> None:
    prepare("a")
    before = Path("own.jsonl").read_bytes()
    correct()
    with pytest.raises(UserError, match=r"runs/a/data: was made before own\.jsonl changed; put"):
        prepare("a")
    run = Workspace(Path("runs"), "a")
    with pytest.raises(UserError, match=r"runs/a/data: was made before own\.jsonl changed"):
        EXPERIMENT.refuse_misfit(run, parameters(OWN))
    Path("own.jsonl").write_bytes(before)
    assert not prepare("a").fresh


def test_a_run_goes_on_without_the_file_that_its_data_came_from() -> None:
    prepare("a")
    Path("own.jsonl").unlink()
    assert not prepare("a").fresh
    with pytest.raises(UserError, match=r"own\.jsonl: no such file"):
        prepare("b")


def test_data_are_made_again_of_the_same_file_only() -> None:
    prepare("a")
    data = Path("runs/a/data")
    assert reproduce(data, chain=False) == "identical"
    correct()
    with pytest.raises(UserError, match=r"own\.jsonl: input differs: found .*, but recorded is"):
        reproduce(data, chain=False)
    Path("own.jsonl").unlink()
    with pytest.raises(UserError, match=r"own\.jsonl: input cannot be read \(No such file"):
        reproduce(data, chain=True)
