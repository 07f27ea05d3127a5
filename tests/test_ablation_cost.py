"""The estimate of a run's cost, against counting by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.ablation.cost import engine_bytes, estimate, parameter_count, trainer_bytes, tree_tokens
from treepo.models import initial_policy
from treepo.params import (
    EngineParams,
    ExperimentParams,
    LoraParams,
    ModelParams,
    SamplingParams,
    VLLMParams,
)
from treepo.params.ablation import CostParams, StopParams

QWEN_7B = ModelParams(
    source="Qwen/Qwen2.5-7B",
    hidden_size=3584,
    layers=28,
    heads=28,
    kv_heads=4,
    intermediate_size=18944,
)


def test_parameters_of_a_known_model() -> None:
    assert parameter_count(QWEN_7B, 152064) == pytest.approx(7.616e9, rel=1e-3)


def test_parameters_of_the_small_model() -> None:
    params = ModelParams(hidden_size=32, layers=2, heads=4, kv_heads=2, intermediate_size=64)
    policy = initial_policy(params, 0)
    counted = sum(weight.numel() for weight in policy.model.parameters())
    vocabulary = policy.model.config.vocab_size
    assert parameter_count(params, vocabulary) == pytest.approx(counted, rel=0.01)


def test_tokens_of_a_binary_tree() -> None:
    sampling = SamplingParams(width=8, depth=4, segment_length=10, initial_branching=2)
    assert tree_tokens(sampling, 40) == (2 + 4 + 8 + 8) * 10
    assert tree_tokens(sampling, 25) == 2 * 10 + 4 * 10 + 8 * 5
    # Two segments end with 4 paths; the other 4 each start again in the middle of one.
    assert tree_tokens(sampling, 20) == 2 * 10 + 4 * 10 + 4 * 10


@given(st.integers(1, 16), st.integers(1, 60))
def test_sequential_sampling_shares_nothing(width: int, length: int) -> None:
    assert tree_tokens(SamplingParams.sequential(width, 60), length) == width * length


@given(st.integers(1, 16), st.integers(1, 9), st.integers(2, 4), st.integers(1, 80))
def test_a_tree_never_costs_more_than_flat(width: int, l_: int, b: int, length: int) -> None:
    sampling = SamplingParams(width=width, depth=20, segment_length=l_, branching=b)
    assert length <= tree_tokens(sampling, length) <= width * length


def test_a_run_by_hand() -> None:
    params = ExperimentParams.model_validate(
        {
            "iterations": 10,
            "rollout": {"prompts": 4},
            "sampling": {"width": 2, "depth": 1, "segment_length": 50, "initial_branching": 2},
            "evaluation": {"samples": 3, "max_tokens": 20},
            "data": {"heldout_size": 5},
            "update": {"epochs": 2},
        }
    )
    cost = CostParams(decode_rate=10, train_rate=20, sampling_rounds=1.5)
    found = estimate(params, cost, (), 2)
    assert found.training_tokens == 10 * 4 * 1.5 * 2 * 50
    assert found.evaluation_tokens == 2 * 5 * 3 * 20
    seconds = (6000 + 600) / 10 + 2 * 4000 / 20
    assert found.device_hours == pytest.approx(seconds / 3600)
    budget = StopParams(rule="tokens_sampled", value=1000)
    assert estimate(params, cost, [budget], 2).training_tokens == 1000


def test_memory_of_the_papers_size() -> None:
    params = ExperimentParams(model=QWEN_7B)
    cost = CostParams(devices=64, vocabulary=152064, memory=80)
    weights = 7.616e9
    cache = params.engine.memory * 2**30
    assert engine_bytes(params, cost) == pytest.approx(4 * weights + cache, rel=1e-3)
    assert trainer_bytes(params, cost) > 16 * weights / 64
    vllm = EngineParams(name="vllm", vllm=VLLMParams(dtype="bfloat16", cache_gib=40))
    served = params.model_copy(update={"engine": vllm})
    assert engine_bytes(served, cost) == pytest.approx(2 * weights + 40 * 2**30, rel=1e-3)
    alone = cost.model_copy(update={"devices": 1})
    assert trainer_bytes(params, alone) > 16 * weights
    saving = params.update.model_copy(update={"gradient_checkpointing": True})
    less = params.model_copy(update={"update": saving})
    layer = 17 * 4 * 3584 * params.update.micro_batch_tokens
    saved = 27 * layer - 28 * 4 * 3584 * params.update.micro_batch_tokens
    assert trainer_bytes(params, cost) - trainer_bytes(less, cost) == pytest.approx(saved)
    adapter = params.update.model_copy(update={"lora": LoraParams()})
    frozen = trainer_bytes(params.model_copy(update={"update": adapter}), alone)
    assert trainer_bytes(params, alone) - frozen == pytest.approx(12 * weights, rel=1e-3)
