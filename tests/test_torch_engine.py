"""The tree engine against plain transformers on flat trajectories, with tiny random models."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from treepo.attention import NAME
from treepo.engines.draws import draw, uniforms
from treepo.engines.kv import KVBuffer
from treepo.engines.torch_tree import TorchEngine
from treepo.forest import Forest
from treepo.models import initial_policy
from treepo.params import FallbackParams, ModelParams, SamplingParams
from treepo.sampling import Prompt, grow_tree
from treepo.schemas import check_forest
from treepo.tokenizer import VOCABULARY, character_tokenizer

SIZES = {"hidden_size": 32, "layers": 2, "heads": 4, "intermediate_size": 64}
TOKENIZER = character_tokenizer()
NO_EOS: frozenset[int] = frozenset()
OFTEN = frozenset(range(40, 52))  # of 100 tokens, so that a path ends after about 8
MIDDLE = FallbackParams(position="min_probability_token")


def sharpened(model: PreTrainedModel, scale: float = 8.0) -> PreTrainedModel:
    """Weights large enough for attention to matter: what a path sees moves its logprobs."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    return model.eval()


def tiny(kv_heads: int = 2, seed: int = 3) -> PreTrainedModel:
    return sharpened(initial_policy(ModelParams(**SIZES, kv_heads=kv_heads), seed).model)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny()


@pytest.fixture(scope="module")
def double() -> PreTrainedModel:
    return tiny().double()


def decode(tokens: Sequence[int]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=True)


def prompts(*lengths: int) -> list[Prompt]:
    rng = random.Random(0)
    return [
        Prompt(f"p{i}", [rng.randrange(4, 100) for _ in range(length)])
        for i, length in enumerate(lengths)
    ]


def run(
    engine: TorchEngine, params: SamplingParams, batch: list[Prompt], seed: int = 5
) -> Forest:
    """The forest in the order of the prompts; `params` and the engine agree on temperature."""
    growers = [grow_tree(prompt, params, seed, decode) for prompt in batch]
    trees = dict(engine.run(growers))
    forest = Forest.from_trees(trees[index] for index in range(len(batch)))
    check_forest(forest.to_arrow(), "x")
    return forest


def sample(
    model: PreTrainedModel,
    params: SamplingParams,
    batch: list[Prompt],
    eos: frozenset[int] = OFTEN,
    rows: int = 3,
) -> Forest:
    return run(TorchEngine(model, eos, params.temperature, rows), params, batch)


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights with transformers' own eager attention."""
    config = copy.deepcopy(model.config)
    reference = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    reference.load_state_dict(model.state_dict())
    return reference.to(next(model.parameters()).dtype).eval()


@torch.inference_mode()
def flat_error(forest: Forest, model: PreTrainedModel, temperature: float = 1.0) -> float:
    """Largest difference between stored logprobs and those of the flat trajectories [nats]."""
    reference, worst = plain(model), 0.0
    for path in forest.paths:
        root = path[0]
        while forest.parent_row[root] >= 0:
            root = forest.parent_row[root]
        spans = [np.arange(forest.offsets[row], forest.offsets[row + 1]) for row in (root, *path)]
        where = np.concatenate(spans)
        ids = torch.tensor(forest.tokens[where], dtype=torch.int64)
        logits = reference(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        flat = (logits / temperature).log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
        sampled = len(where) - len(spans[0])
        error = np.abs(flat[-sampled:] - forest.logprobs[where][-sampled:])
        worst = max(worst, float(error.max()))
    return worst


