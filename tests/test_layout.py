"""Weights laid out for the engine: the same model, computed by other products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_torch_engine import NO_EOS, engine_of, flat_error, prompts, run, sharpened
from torch import nn
from transformers import PreTrainedModel

from treepo.engines.layout import LARGE, LaidOut, laid_out
from treepo.models import initial_policy
from treepo.params import ModelParams, SamplingParams

SIZES: dict[str, Any] = {
    "hidden_size": 320,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "intermediate_size": 352,
}
TREES = SamplingParams(width=4, depth=2, segment_length=6, repetition=None)


@pytest.fixture
def model() -> PreTrainedModel:
    """Only its head, and the products that make keys and values, are small."""
    assert 320 * 320 > LARGE > 320 * 160
    return sharpened(initial_policy(ModelParams(**SIZES), 0).model, 2.0)


def layers(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [
        name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is kind
    ]


def test_large_products_are_laid_out_and_nothing_is_copied(model: PreTrainedModel) -> None:
    before = layers(model, nn.Linear)
    twin = laid_out(model, 8)
    assert layers(twin, LaidOut) == 2 * ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert layers(twin, nn.Linear) == 2 * ["k_proj", "v_proj"] + ["lm_head"]
    assert layers(model, nn.Linear) == before
    mine = {id(weight) for weight in model.parameters()}
    assert {id(weight) for weight in twin.parameters()} < mine


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products(rows: int, bias: bool) -> None:
    linear = nn.Linear(320, 352, bias=bias).requires_grad_(False)
    given = torch.randn(1, rows, 320)
    assert torch.allclose(LaidOut(linear, 64)(given), linear(given), atol=1e-5)


def test_logprobs_are_those_of_plain_transformers(model: PreTrainedModel) -> None:
    engine = engine_of(model, TREES, NO_EOS)
    assert layers(engine.model, LaidOut)
    assert flat_error(run(engine, TREES, prompts(5, 9, 3)), model) < 1e-4


def test_what_was_laid_out_does_not_outlive_its_weights(model: PreTrainedModel) -> None:
    """Replicas get other weights into the model that they have."""
    run(engine_of(model, TREES, NO_EOS), TREES, prompts(5))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    later = run(engine_of(model, TREES, NO_EOS), TREES, prompts(5))
    assert flat_error(later, model) < 1e-4


def test_where_nothing_is_gained_the_model_stays(model: PreTrainedModel) -> None:
    small = initial_policy(ModelParams(), 0).model
    assert laid_out(small, 8) is small
    assert engine_of(model, deterministic=True).model is model
    narrow = model.bfloat16()
    assert laid_out(narrow, 8) is narrow
