"""Trees over a worker process that dies, hangs or sends garbage."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from fake_vllm_worker import EOS, scripted

from treepo.engines import vllm_process, vllm_worker
from treepo.engines.schedule import SCHEDULES, ScheduledEngine
from treepo.engines.scripted import ScriptedEngine
from treepo.engines.segments import SEEDS, SegmentCall, TokenIds
from treepo.engines.vllm_process import VLLMProcess
from treepo.errors import UserError, WorkError
from treepo.params import EngineParams, SamplingParams, VLLMParams
from treepo.sampling import Grower, Prompt, Request, grow_tree
from treepo.tree import Segment, Tree

SAMPLING = SamplingParams(width=6, depth=3, segment_length=4, repetition=None)
IDS = TokenIds(100, frozenset({EOS}))


def growers(count: int) -> list[Grower]:
    return [
        grow_tree(Prompt(f"p{index}", [5, 6, 7 + index]), SAMPLING, 1, lambda tokens: "")
        for index in range(count)
    ]


def shape(tree: Tree) -> list[tuple[int, list[int], str | None]]:
    return [(node.depth, node.tokens, node.finish) for node in tree.nodes()]


def expected(count: int) -> list[list[tuple[int, list[int], str | None]]]:
    def script(request: Request) -> Segment:
        return scripted(
            SegmentCall(0, 0, [], request.max_tokens, request.seed % SEEDS, 1.0)
        ).segment

    trees = dict(ScriptedEngine(script).run(growers(count)))
    return [shape(trees[index]) for index in range(count)]


@pytest.fixture
def times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """How often the trouble still comes."""
    monkeypatch.setattr(vllm_process, "WORKER", "fake_vllm_worker")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[1]}")
    monkeypatch.setenv("FAKE_TURN", "5")
    monkeypatch.setenv("FAKE_TIMES", str(tmp_path / "times"))
    (tmp_path / "times").write_text("1")
    return tmp_path / "times"


def process(deadline: float = 30.0) -> VLLMProcess:
    params = EngineParams(name="vllm", vllm=VLLMParams(deadline=deadline))
    return VLLMProcess(params, Path("nowhere"), IDS)


@pytest.mark.parametrize(
    ("trouble", "schedule"),
    [("die", "continuous"), ("fail", "continuous"), ("nan", "continuous"), ("die", "barrier")],
)
def test_nothing_is_lost(
    times: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, schedule: str
) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", trouble)
    sampler = process()
    engine = ScheduledEngine(sampler, SCHEDULES[schedule], 1.0, rows=3)
    trees = dict(engine.run(growers(7)))
    sampler.close()
    assert int(times.read_text()) < 1
    assert [shape(trees[index]) for index in range(7)] == expected(7)


def test_a_hang_is_ended(times: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", "hang")
    sampler = process(deadline=0.5)
    trees = dict(ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3).run(growers(3)))
    sampler.close()
    assert [shape(trees[index]) for index in range(3)] == expected(3)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("die", "exit code 7"),
        ("mute", "exit code -9"),
        ("fail", "RuntimeError: out of luck"),
        ("pipe", "BrokenPipeError: a pipe of its own"),
        ("nan", "logprob of nan"),
    ],
)
def test_a_bounded_number_of_attempts(
    times: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", trouble)
    monkeypatch.setenv("FAKE_TURN", "1")
    monkeypatch.setattr(vllm_process, "END_DEADLINE", 0.2 if trouble == "mute" else 30.0)
    times.write_text("1000")
    sampler = process()
    engine = ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3)
    with pytest.raises(WorkError, match=words) as caught:
        next(iter(engine.run(growers(5))))
    assert str(caught.value).endswith("3 times in a row")
    assert "\n" not in str(caught.value)
    assert int(times.read_text()) == 997


def test_finished_trees_come_before_the_error(times: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", "die")
    monkeypatch.setenv("FAKE_TURN", "100")
    params = EngineParams(name="vllm", vllm=VLLMParams(retries=0))
    sampler = VLLMProcess(params, Path("nowhere"), IDS)
    run = ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3).run(growers(50))
    finished: dict[int, Tree] = {}
    with pytest.raises(WorkError, match="exit code 7"):
        finished.update(run)
    assert len(finished) > 3
    assert {index: shape(tree) for index, tree in finished.items()} == {
        index: whole for index, whole in enumerate(expected(50)) if index in finished
    }


def test_an_unsupported_model_is_the_users_to_change(
    times: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", "unsupported")
    with pytest.raises(UserError, match="it is purple"):
        process().exchange([])


class Forgetful:
    """vLLM that takes requests and gives no token; knows them for so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.vllm_config = SimpleNamespace(use_v2_model_runner=False)

    def add_request(self, name: str, *_: object) -> str:
        return name

    def abort_request(self, names: list[str], internal: bool) -> None:
        assert not names

    def step(self) -> list[Any]:
        self.steps -= 1
        return []

    def has_unfinished_requests(self) -> bool:
        return self.steps > 0

    def is_sleeping(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("steps", "deadline"), [(2, 1e9), (10**9, 1e-6)], ids=["forgotten", "stuck"]
)
def test_requests_that_vllm_lost_are_an_error(
    monkeypatch: pytest.MonkeyPatch, steps: int, deadline: float
) -> None:
    vllm, parts = Mock(), Mock()
    vllm.LLMEngine.from_engine_args.return_value = Forgetful(steps)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parts)
    monkeypatch.setattr(vllm_worker, "_check_heads", lambda *_: None)
    monkeypatch.setattr(vllm_worker, "HEARTBEAT", 0.05)
    params = EngineParams(name="vllm", device="cpu", vllm=VLLMParams(deadline=deadline))
    worker = vllm_worker.Worker(vllm_worker.Setup("nowhere", params, IDS.eos))
    with pytest.raises(RuntimeError, match=r"no token for .* s, with 1 segments open"):
        worker.advance([SegmentCall(0, 0, [5, 6], 4, 1, 1.0)])


def test_an_abandoned_run_leaves_nothing(times: Path) -> None:
    sampler = process()
    engine = ScheduledEngine(sampler, SCHEDULES["continuous"], 1.0, 3)
    next(iter(engine.run(growers(5))))
    trees = dict(engine.run(growers(5)))
    sampler.close()
    assert [shape(trees[index]) for index in range(5)] == expected(5)


def test_greedy_tokens_are_certain(times: Path) -> None:
    sampler = process()
    trees = dict(ScheduledEngine(sampler, SCHEDULES["continuous"], 0.0, None).run(growers(2)))
    sampler.close()
    sampled = [node for tree in trees.values() for node in tree.nodes() if node.parent]
    assert sampled
    assert all(set(node.logprobs) == {0.0} for node in sampled)
