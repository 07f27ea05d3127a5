"""Decode steps in fixed shapes, replayed as CUDA replays a graph: here by what was recorded."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_torch_engine import BASE, MIDDLE, NO_EOS, OFTEN, prompts, run, tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from treepo.engines import graphs
from treepo.engines.graphs import FixedSteps, Shape
from treepo.engines.masks import rounded
from treepo.engines.torch_tree import TorchEngine
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.params import EngineParams, SamplingParams

PARAMS = SamplingParams(**{**BASE, "width": 6, "segment_length": 16}, fallback=MIDDLE)
BATCH = prompts(5, 1, 9, 3, 12, 2, 7, 30)
# They wait for the device, or read what the host holds at that moment.
NOT_IN_A_GRAPH = ("item", "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh")


class Recording(TorchDispatchMode):
    """The operations of a step, each with the memory that it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in NOT_IN_A_GRAPH, name
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny()


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Steps are replayed from the second of a shape on; how often each was.

    What torch has for CUDA is replaced, nothing of the engine.
    """
    counts: Counter[int] = Counter()

    pools: dict[object, WeakSet[Graph]] = {}

    class Graph:
        def __init__(self) -> None:
            self.recording = Recording()
            self.number = len(counts)
            counts[self.number] = 0

        def replay(self) -> None:
            counts[self.number] += 1
            self.recording.replay()

    @contextmanager
    def capture(graph: Graph, pool: object, **_: Any) -> Generator[None]:
        gc.collect()
        mine = pools.get(pool)
        assert mine is None or len(mine), "CUDA forgets a pool with its last graph"
        pools.setdefault(pool, WeakSet()).add(graph)
        with graph.recording:
            yield

    on = graphs.capture_on
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    cuda = torch.device("cuda")
    monkeypatch.setattr(graphs, "capture_on", lambda _, columns: on(cuda, columns))
    monkeypatch.setattr(graphs, "CAPTURED_AT", 2)
    return counts


def sampled(
    model: PreTrainedModel,
    eos: frozenset[int] = OFTEN,
    params: SamplingParams = PARAMS,
    **changes: Any,
) -> tuple[Forest, TorchEngine]:
    engine = TorchEngine(model, eos, params, EngineParams(**changes))
    return run(engine, params, BATCH), engine


def check_same(forest: Forest, other: Forest) -> None:
    assert forest.tokens.tolist() == other.tokens.tolist()
    assert forest.parent_row.tolist() == other.parent_row.tolist()
    assert np.abs(forest.logprobs - other.logprobs).max() < 1e-4


@pytest.mark.parametrize("eos", [OFTEN, NO_EOS])
@pytest.mark.parametrize("rows", [None, 3])
def test_replayed_steps_sample_the_same_trajectories(
    model: PreTrainedModel, replays: Counter[int], eos: frozenset[int], rows: int | None
) -> None:
    replayed, engine = sampled(model, eos, graphs=True, rows=rows)
    plain, other = sampled(model, eos, rows=rows)
    check_same(replayed, plain)
    assert engine.stats().forward_calls == other.stats().forward_calls
    assert replays.total() > 2 * len(replays) > 2


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_with_other_groups(replays: Counter[int], kv_heads: int) -> None:
    model = tiny(kv_heads)
    check_same(sampled(model, graphs=True)[0], sampled(model)[0])
    assert replays.total()


def test_without_a_graph_the_same_steps(model: PreTrainedModel) -> None:
    """What `engine.graphs` does on a CPU."""
    check_same(sampled(model, graphs=True)[0], sampled(model)[0])


def test_greedy_steps(model: PreTrainedModel, replays: Counter[int]) -> None:
    params = PARAMS.model_copy(update={"temperature": 0.0, "fallback": PARAMS.fallback})
    check_same(sampled(model, params=params, graphs=True)[0], sampled(model, params=params)[0])
    assert replays.total()


def test_graphs_are_dropped_when_the_masks_move(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, replays: Counter[int]
) -> None:
    """Prompts grow, so the masks need more room after graphs were captured."""
    dropped: list[int] = []
    logits = FixedSteps.logits

    def spied(self: FixedSteps, *arguments: Any) -> Tensor:
        before = len(self._steps)
        result = logits(self, *arguments)
        dropped.append(before - len(self._steps))
        return result

    monkeypatch.setattr(FixedSteps, "logits", spied)
    replayed, _ = sampled(model, NO_EOS, graphs=True, rows=1)
    assert max(dropped) > 0
    check_same(replayed, sampled(model, NO_EOS, rows=1)[0])


def test_a_tree_with_more_columns_than_there_is_room_for(
    model: PreTrainedModel, replays: Counter[int]
) -> None:
    check_same(sampled(model, NO_EOS, graphs=True, columns=4)[0], sampled(model, NO_EOS)[0])
    assert replays.total()


@given(count=st.integers(1, 5000))
def test_rounding_up(count: int) -> None:
    """By less than a quarter, to few different numbers."""
    assert count <= rounded(count) < 1.25 * count
    assert rounded(rounded(count)) == rounded(count)
    assert len({rounded(other) for other in range(1, count + 1)}) <= 8 + 4 * count.bit_length()


def test_few_shapes(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps share graphs: that is what the rounding is for."""
    seen: list[Shape] = []
    run_step = FixedSteps._run

    def spied(self: FixedSteps, shape: Shape, inputs: Tensor) -> Tensor:
        seen.append(shape)
        return run_step(self, shape, inputs)

    monkeypatch.setattr(FixedSteps, "_run", spied)
    params = SamplingParams(width=6, depth=3, segment_length=32)
    sampled(model, NO_EOS, params, graphs=True)
    assert len(seen) > 3 * len({*seen})


def test_a_step_that_waits_for_the_host_is_told_in_one_line(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, replays: Counter[int]
) -> None:
    @contextmanager
    def capture(*_: Any, **__: Any) -> Generator[None]:
        yield
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", capture)
    with pytest.raises(WorkError, match=r"engine\.graphs: .*; set it to false \(CUDA error"):
        sampled(model, graphs=True)


def test_fixed_shapes_of_all_and_of_each_tree_alone_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="set one of the two"):
        EngineParams(graphs=True, deterministic=True)
