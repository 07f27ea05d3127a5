"""Finished trees outlive an engine that fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_vllm_worker import scripted

from tasks.responses import sample
from tasks.rollout import ROLLOUT
from tasks.salvage import salvaged
from tasks.steps import Sections
from treepo.engines.base import EngineStats
from treepo.engines.orders import OwnTrees, Way
from treepo.engines.scripted import ScriptedEngine
from treepo.engines.segments import SegmentCall
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.params import ExperimentParams, SamplingParams
from treepo.sampling import Grower, Prompt, Request
from treepo.tree import Segment, Tree

SAMPLING = SamplingParams(width=6, depth=3, segment_length=4, repetition=None)
PROMPTS = [Prompt(f"p{index}", [5, 6, 7 + index]) for index in range(8)]
POLICY: Any = SimpleNamespace(max_positions=64, decode=lambda tokens: "", encode=None)


def script(request: Request) -> Segment:
    return scripted(SegmentCall(0, 0, [], request.max_tokens, request.seed, 1.0)).segment


class DyingEngine:
    """Samples so many trees, then fails."""

    def __init__(self, lasts: int, error: BaseException | None = None) -> None:
        self.lasts = lasts
        self.error = error or WorkError("the engine is gone")
        self.sampled = 0

    def run(self, growers: Iterable[Grower]) -> Iterator[tuple[int, Tree]]:
        for index, tree in islice(ScriptedEngine(script).run(growers), self.lasts):
            self.sampled += 1
            yield index, tree
        if self.sampled == self.lasts:
            raise self.error

    def stats(self) -> EngineStats:
        return EngineStats()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("policy", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text("c")
    return tmp_path


def attempt(engine: DyingEngine, folder: Path, /, seed: int = 3, **settings: object) -> Forest:
    params = ExperimentParams.model_validate({"sampling": SAMPLING, **settings})
    job: Any = SimpleNamespace(
        output=folder / "forest.parquet",
        seed=seed,
        inputs={name: folder / name for name in ("data", "policy")},
        params=Sections(params, ROLLOUT.reads),
    )
    with salvaged(job) as finished:
        sampler = OwnTrees(engine, POLICY, Way(SAMPLING))
        return Forest.from_trees(sample(sampler, POLICY, PROMPTS, SAMPLING, seed, finished))


def kept(folder: Path) -> list[str]:
    return [file.name for file in folder.glob(".*.parquet")]


def test_the_next_attempt_samples_what_is_missing(folder: Path) -> None:
    with pytest.raises(WorkError):
        attempt(DyingEngine(5), folder)
    assert len(kept(folder)) == 1
    second = DyingEngine(100)
    forest = attempt(second, folder)
    assert second.sampled == 3
    assert forest.to_arrow().equals(attempt(DyingEngine(100), folder).to_arrow())
    assert not kept(folder)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_whatever_fails_keeps_the_trees(folder: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        attempt(DyingEngine(5, error), folder)
    second = DyingEngine(100)
    attempt(second, folder)
    assert second.sampled == 3


def test_trees_of_a_policy_that_was_changed_are_not_taken(folder: Path) -> None:
    plugin = folder / "own.py"
    for text, sampled in (("a = 1", 5), ("a = 2", 5), ("a = 2", 3)):
        plugin.write_text(text)
        engine = DyingEngine(5)
        with suppress(WorkError):
            attempt(engine, folder, plugins=[str(plugin)])
        assert engine.sampled == sampled


@pytest.mark.parametrize("name", ["policy", "data"])
def test_trees_of_other_inputs_are_not_taken(folder: Path, name: str) -> None:
    with pytest.raises(WorkError):
        attempt(DyingEngine(5), folder)
    (folder / name / "content").write_text("other")
    changed = DyingEngine(100)
    attempt(changed, folder)
    assert changed.sampled == 8


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 4},
        {"engine": {"name": "vllm"}},
        {"scoring": {"verifier": "numeric"}},
        {"sampling": {**SAMPLING.model_dump(), "temperature": 0.5}},
    ],
)
def test_trees_of_other_settings_are_not_taken(folder: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(WorkError):
        attempt(DyingEngine(5), folder)
    other = DyingEngine(100)
    attempt(other, folder, **settings)
    assert other.sampled == 8


def test_a_forest_gives_back_its_trees(folder: Path) -> None:
    forest = attempt(DyingEngine(100), folder)
    assert Forest.from_trees(forest.to_trees()).to_arrow().equals(forest.to_arrow())
