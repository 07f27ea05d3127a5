"""The step mechanism on a toy step: skip, refuse, make, record, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tasks.hashing import content_hash
from tasks.lineage import Lineage, Record
from tasks.resources import Resources
from tasks.sharing import Siblings
from tasks.steps import Context, Job, Step, make, refuse_other_params
from tasks.workspace import Workspace
from treepo.errors import UserError, WorkError
from treepo.params import ExperimentParams

calls: list[int] = []


def write(job: Job) -> dict[str, float]:
    calls.append(job.iteration)
    job.output.write_text(f"{job.iteration} {job.seed} {job.params.iterations}")
    return {"value": 1.0}


def copy(job: Job) -> dict[str, float]:
    (source,) = job.inputs.values()
    job.output.write_text(source.read_text())
    return {}


FIRST = Step("first", "", lambda _: (), lambda k: (f"first/{k}",), ("iterations",), write)
SECOND = Step("second", "", lambda k: (f"first/{k}",), lambda k: (f"second/{k}",), (), copy)
BAD = replace(FIRST, name="bad", reads=())


def open_context(folder: Path, params: ExperimentParams | None = None) -> Context:
    calls.clear()
    workspace = Workspace(folder, "toy")
    workspace.root.mkdir(exist_ok=True)
    return Context(workspace, params or ExperimentParams(), Lineage(workspace.root), Resources())


def test_made_once_then_found(tmp_path: Path) -> None:
    context = open_context(tmp_path)
    assert make(FIRST, context, 3).fresh
    again = open_context(tmp_path)
    made = make(FIRST, again, 3)
    assert not made.fresh
    assert calls == []
    assert made.record.metrics == {"value": 1.0}
    assert made.record.hash == content_hash(tmp_path / "toy/first/3")


def test_only_declared_sections_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        make(BAD, open_context(tmp_path), 1)
    assert not (tmp_path / "toy/first/1").exists()


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    make(FIRST, open_context(tmp_path), 1)
    other = open_context(tmp_path, ExperimentParams(iterations=7))
    with pytest.raises(UserError, match="iterations = 40, now 7"):
        make(FIRST, other, 1)
    changed_elsewhere = open_context(tmp_path, ExperimentParams(evaluate_every=7))
    assert not make(FIRST, changed_elsewhere, 1).fresh


def test_a_view_is_made_again(tmp_path: Path) -> None:
    view = replace(FIRST, view=True)
    make(view, open_context(tmp_path), 1)
    assert make(view, open_context(tmp_path, ExperimentParams(iterations=7)), 1).fresh
    assert not make(view, open_context(tmp_path, ExperimentParams(iterations=7)), 1).fresh


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="first/1: missing"):
        make(SECOND, open_context(tmp_path), 1)


def test_a_changed_artifact_is_refused_and_kept(tmp_path: Path) -> None:
    context = open_context(tmp_path)
    make(FIRST, context, 1)
    file = tmp_path / "toy/first/1"
    file.write_text("tampered")
    for step in (FIRST, SECOND):
        with pytest.raises(UserError, match="first/1: corrupt or changed"):
            make(step, open_context(tmp_path), 1)
    assert file.read_text() == "tampered"


def test_an_input_made_anew_is_noticed(tmp_path: Path) -> None:
    context = open_context(tmp_path)
    make(FIRST, context, 1)
    make(SECOND, context, 1)
    (tmp_path / "toy/first/1").unlink()
    other = open_context(tmp_path, ExperimentParams(iterations=7))
    make(FIRST, other, 1)
    with pytest.raises(UserError, match="second/1: was made from another first/1"):
        make(SECOND, other, 1)


def test_a_failing_step_leaves_nothing(tmp_path: Path) -> None:
    def fail(job: Job) -> dict[str, float]:
        job.output.write_text("half")
        raise WorkError("no luck")

    with pytest.raises(WorkError):
        make(replace(FIRST, run=fail), open_context(tmp_path), 1)
    assert [path.name for path in (tmp_path / "toy").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 EiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_memory_that_runs_out_is_one_line(tmp_path: Path, error: Exception) -> None:
    def swell(job: Job) -> dict[str, float]:
        job.output.write_text("half")
        raise error

    step = replace(FIRST, run=swell)
    with pytest.raises(WorkError, match=r"^step first: out of memory .*run again to go on$"):
        make(step, open_context(tmp_path), 1)
    assert not list((tmp_path / "toy/first").iterdir())


def test_other_errors_pass(tmp_path: Path) -> None:
    def fail(job: Job) -> dict[str, float]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        make(replace(FIRST, run=fail), open_context(tmp_path), 1)


def test_a_torn_lineage_line_is_forgotten(tmp_path: Path) -> None:
    context = open_context(tmp_path)
    make(FIRST, context, 1)
    file = context.lineage.file
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"artifact": "first/2", "ha')
    again = open_context(tmp_path)
    make(FIRST, again, 2)
    lines = file.read_text().splitlines()
    assert [json.loads(line)["artifact"] for line in lines] == ["first/1", "first/2"]


def test_outputs_of_a_step_are_recorded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between two lines would leave a step half done, and have it made again."""

    def both(job: Job) -> dict[str, float]:
        for path in job.outputs.values():
            path.write_text("made")
        return {}

    context = open_context(tmp_path)
    lines: list[int] = []
    written = context.lineage.file
    sync = os.fsync

    def count(handle: int) -> None:
        sync(handle)
        if written.exists():
            lines.append(len(written.read_text().splitlines()))

    monkeypatch.setattr("tasks.lineage.os.fsync", count)
    make(replace(FIRST, outputs=lambda k: (f"one/{k}", f"two/{k}"), run=both), context, 1)
    assert lines[-1:] == [2]
    assert 1 not in lines


numbers = count()


def write_both(job: Job) -> dict[str, float]:
    """One output is the same each time, the other is not."""
    same, other = job.outputs.values()
    same.write_text("same")
    other.write_text(str(next(numbers)))
    return {}


BOTH = replace(FIRST, outputs=lambda k: (f"same/{k}", f"other/{k}"), run=write_both)


def test_what_stands_must_come_out_the_same_beside_what_is_missing(tmp_path: Path) -> None:
    make(BOTH, open_context(tmp_path), 1)
    same, other = tmp_path / "toy/same/1", tmp_path / "toy/other/1"
    same.unlink()
    before = other.read_text()
    with pytest.raises(UserError, match="other/1: came out differently"):
        make(BOTH, open_context(tmp_path), 1)
    assert other.read_text() == before
    assert not same.exists()
    other.unlink()
    assert make(BOTH, open_context(tmp_path), 1).fresh
    other.unlink()
    assert make(BOTH, open_context(tmp_path), 1).fresh  # the one that stands came out the same
    assert other.read_text() != before


def test_every_step_of_every_iteration_has_a_seed_of_its_own(tmp_path: Path) -> None:
    context = open_context(tmp_path)
    other = replace(FIRST, name="other", outputs=lambda k: (f"other/{k}",))
    made = [make(step, context, k).record.seed for step in (FIRST, other) for k in (1, 2)]
    assert len(set(made)) == 4


def test_an_input_that_nobody_recorded_is_refused(tmp_path: Path) -> None:
    context = open_context(tmp_path)
    (tmp_path / "toy/first").mkdir()
    (tmp_path / "toy/first/1").write_text("x")
    with pytest.raises(UserError, match="does not say what made it"):
        make(SECOND, context, 1)


def test_parameters_that_lost_a_key_are_other_parameters(tmp_path: Path) -> None:
    record = Record("first/1", "", "first", 1, {}, {"data": {"families": {"a": 1, "b": 2}}})
    with pytest.raises(UserError, match=r"made with data\.families\.b = 2, now None"):
        refuse_other_params(tmp_path, record, {"data": {"families": {"a": 1}}})


@pytest.mark.parametrize("linked", [True, False])
def test_lineage_never_writes_into_a_cache(tmp_path: Path, linked: bool) -> None:
    """Whether DVC linked the file or made it read-only: it is copied before it is written to."""
    context = open_context(tmp_path)
    make(FIRST, context, 1)
    file, cache = context.lineage.file, tmp_path / "cache"
    if linked:
        cache.hardlink_to(file)
    else:
        cache.write_bytes(file.read_bytes())
        file.chmod(0o444)
    inode, before = file.stat().st_ino, cache.read_bytes()
    make(FIRST, open_context(tmp_path), 2)
    assert file.stat().st_ino != inode
    assert cache.read_bytes() == before
    assert len(file.read_text().splitlines()) == 2


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "toy")
    with workspace.lock(), pytest.raises(UserError, match="running already"), workspace.lock():
        pass
    with workspace.lock():
        pass


def sibling_context(folder: Path, name: str, siblings: list[str], **values: int) -> Context:
    calls.clear()
    workspace = Workspace(folder, name)
    workspace.root.mkdir(exist_ok=True)
    others = Siblings(Workspace(folder, other) for other in siblings)
    params = ExperimentParams(**values)
    return Context(workspace, params, Lineage(workspace.root), Resources(), others, "run-2")


def test_an_equal_artifact_is_taken_over(tmp_path: Path) -> None:
    first = make(FIRST, sibling_context(tmp_path, "one", []), 1).record
    context = sibling_context(tmp_path, "two", ["one"])
    made = make(FIRST, context, 1)
    assert calls == []
    assert made.fresh
    assert made.record == replace(first, taken_from="one", mlflow_run="run-2")
    assert (tmp_path / "two/first/1").samefile(tmp_path / "one/first/1")
    make(SECOND, context, 1)
    assert Lineage(tmp_path / "two").get("first/1") == made.record
    assert not make(FIRST, sibling_context(tmp_path, "two", ["one"]), 1).fresh


@pytest.mark.parametrize("difference", [{"iterations": 7}, {"seed": 1}])
def test_what_was_made_otherwise_is_not_taken_over(
    tmp_path: Path, difference: dict[str, int]
) -> None:
    make(FIRST, sibling_context(tmp_path, "one", []), 1)
    made = make(FIRST, sibling_context(tmp_path, "two", ["one"], **difference), 1)
    assert calls == [1]
    assert made.record.taken_from is None


def test_other_inputs_are_not_taken_over(tmp_path: Path) -> None:
    one = sibling_context(tmp_path, "one", [])
    make(FIRST, one, 1)
    make(SECOND, one, 1)
    two = sibling_context(tmp_path, "two", ["one"], seed=1)
    make(FIRST, two, 1)
    other = replace(SECOND, outputs=lambda k: (f"second/{k}",))
    assert make(other, two, 1).record.taken_from is None


def test_other_threads_are_not_taken_over(tmp_path: Path) -> None:
    first = make(FIRST, sibling_context(tmp_path, "one", []), 1).record
    changed = replace(first, device={**first.device, "threads": 99})
    sibling_context(tmp_path, "one", []).lineage.append(changed)
    assert make(FIRST, sibling_context(tmp_path, "two", ["one"]), 1).record.taken_from is None


def test_damaged_or_missing_artifacts_are_not_taken_over(tmp_path: Path) -> None:
    make(FIRST, sibling_context(tmp_path, "one", []), 1)
    make(FIRST, sibling_context(tmp_path, "one", []), 2)
    (tmp_path / "one/first/1").write_text("tampered")
    (tmp_path / "one/first/2").unlink()
    context = sibling_context(tmp_path, "two", ["one"])
    for k in (1, 2):
        assert make(FIRST, context, k).record.taken_from is None
    assert calls == [1, 2]


def test_folders_are_taken_over_file_by_file(tmp_path: Path) -> None:
    def fill(job: Job) -> dict[str, float]:
        calls.append(job.iteration)
        (job.output / "inner").mkdir(parents=True)
        (job.output / "inner/weights").write_text("1 2 3")
        return {}

    step = replace(FIRST, run=fill)
    make(step, sibling_context(tmp_path, "one", []), 1)
    made = make(step, sibling_context(tmp_path, "two", ["one"]), 1)
    assert calls == []
    files = [tmp_path / name / "first/1/inner/weights" for name in ("one", "two")]
    assert files[0].samefile(files[1])
    assert made.record.hash == content_hash(tmp_path / "two/first/1")


def test_across_file_systems_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    make(FIRST, sibling_context(tmp_path, "one", []), 1)
    monkeypatch.setattr("os.link", refuse)
    record = make(FIRST, sibling_context(tmp_path, "two", ["one"]), 1).record
    assert record.taken_from == "one"
    files = [tmp_path / name / "first/1" for name in ("one", "two")]
    assert files[0].read_text() == files[1].read_text()
    assert not files[0].samefile(files[1])
