"""Forced tokens from the engine to the update: fed to the model, never sampled, never learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from treepo.advantages import compute
from treepo.engines.torch_tree import TorchEngine
from treepo.forest import Forest
from treepo.logprobs import target_logprobs
from treepo.models import Policy, initial_policy
from treepo.packing import pack
from treepo.params import (
    AdvantageParams,
    EngineParams,
    FallbackParams,
    ForcedAnswerParams,
    ModelParams,
    SamplingParams,
    UpdateParams,
)
from treepo.sampling import Prompt, grow_tree
from treepo.tokenizer import BOXED, VOCABULARY
from treepo.trainer import Batch, Trainer

SIZES = {"hidden_size": 16, "layers": 2, "heads": 4, "intermediate_size": 24, "max_positions": 64}
TEXT = "= \\boxed{"
PARAMS = SamplingParams(
    width=8,
    depth=4,
    segment_length=6,
    repetition=None,
    forced_answer=ForcedAnswerParams(remaining=9, text=TEXT),
    fallback=FallbackParams(position="misaligned"),
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = initial_policy(ModelParams(**SIZES), seed=1)
    for parameter in policy.model.parameters():
        parameter.data *= 4 if parameter.dim() > 1 else 1
    return policy


@pytest.fixture(scope="module")
def forest(policy: Policy) -> Forest:
    """Trees whose paths end early now and then, so that some fall back behind the forced text."""
    often = frozenset({VOCABULARY["e"], VOCABULARY["x"], VOCABULARY["7"]})
    engine = TorchEngine(policy.model, often, PARAMS, EngineParams(rows=2))
    prompts = [Prompt(f"p{i}", list(range(4, 5 + 3 * i))) for i in range(5)]
    growers = [grow_tree(p, PARAMS, 3, policy.decode, encode=policy.encode) for p in prompts]
    trees = dict(engine.run(growers))
    forest = Forest.from_trees([trees[index] for index in range(len(prompts))])
    assert engine.stats().decode_tokens == forest.sampled_tokens
    return forest


def plain_logprobs(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """Of each token but the first, by transformers' own attention."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    row = torch.tensor([tokens])
    with torch.no_grad():
        logits = other(input_ids=row, use_cache=False).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, row[0, 1:, None])[:, 0]


def test_forced_text_lies_where_tokens_ran_out(policy: Policy, forest: Forest) -> None:
    rows = np.flatnonzero(forest.forced)
    assert len(rows) > 3
    assert len(np.flatnonzero(~forest.forced[forest.leaves])) == len(forest.leaves)
    for row in rows:
        assert forest.node_tokens(row).tolist() == policy.encode(TEXT)
        assert forest.tokens[forest.offsets[row + 1] - 1] == VOCABULARY[BOXED]


def test_tokens_below_forced_ones_have_the_models_logprobs(policy: Policy, forest: Forest) -> None:
    for leaf, path in zip(forest.leaves, forest.paths, strict=True):
        rows = [int(forest.tree_start[forest.tree[leaf]]), *path.tolist()]
        tokens = [token for row in rows for token in forest.node_tokens(row).tolist()]
        expected = plain_logprobs(policy.model, tokens)
        place = len(forest.node_tokens(rows[0])) - 1
        for row in rows[1:]:
            stored = forest.logprobs[forest.offsets[row] : forest.offsets[row + 1]]
            wanted = expected[place : place + len(stored)].numpy()
            assert forest.forced[row] or np.abs(stored - wanted).max() < 1e-4
            place += len(stored)


def test_forced_tokens_are_no_targets(policy: Policy, forest: Forest) -> None:
    packed = pack(forest, range(forest.trees))
    assert len(packed.tokens) == len(forest.tokens)  # they are context
    assert len(packed.target) == forest.sampled_tokens
    assert not forest.forced[packed.target_row].any()
    with torch.no_grad():
        logprobs, _ = target_logprobs(policy.model, packed, PARAMS.temperature)
    assert np.abs(logprobs.numpy() - forest.logprobs[packed.target_token]).max() < 1e-4


def test_the_update_counts_and_weighs_sampled_tokens_only(policy: Policy, forest: Forest) -> None:
    rewards = np.random.default_rng(0).random(len(forest.leaves))
    advantages = compute(forest, rewards, rewards, AdvantageParams())
    weight = (forest.lengths * forest.sampled)[advantages.row]
    assert np.average(advantages.value, weights=weight) == pytest.approx(0, abs=1e-9)
    assert np.average(advantages.value**2, weights=weight) == pytest.approx(1, abs=1e-6)
    trainer = Trainer(copy.deepcopy(policy.model), UpdateParams(warm_up_steps=1))
    trees, limit = list(range(forest.trees)), PARAMS.token_limit
    batch = Batch(forest, advantages, trees, PARAMS.temperature, limit)
    metrics = trainer.update(batch, seed=0)  # refused where a logprob was not sampled
    assert metrics["steps"] == 1
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-4)
