"""The tree engine against plain transformers on flat trajectories, with tiny random models."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from treepo.attention import implementation
from treepo.engines.kv import Slots
from treepo.engines.torch_tree import TorchEngine
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.models import initial_policy
from treepo.params import EngineParams, FallbackParams, ModelParams, SamplingParams
from treepo.sampling import Grower, Prompt, Request, grow_tree
from treepo.schemas import check_forest
from treepo.tokenizer import VOCABULARY, character_tokenizer
from treepo.tree import Tree

SIZES = {"hidden_size": 64, "layers": 2, "heads": 4, "intermediate_size": 64}
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


def run(engine: TorchEngine, params: SamplingParams, batch: list[Prompt], seed: int = 5) -> Forest:
    """The forest in the order of the prompts; `params` and the engine agree on temperature."""
    growers = [grow_tree(prompt, params, seed, decode) for prompt in batch]
    trees = dict(engine.run(growers))
    forest = Forest.from_trees(trees[index] for index in range(len(batch)))
    check_forest(forest.to_arrow(), "x")
    return forest


def engine_of(
    model: PreTrainedModel,
    params: SamplingParams | None = None,
    eos: frozenset[int] = OFTEN,
    **changes: Any,
) -> TorchEngine:
    short = params or SamplingParams(depth=2, segment_length=16)  # what scripts ask for is shorter
    return TorchEngine(model, eos, short, EngineParams(**changes))


def sample(
    model: PreTrainedModel,
    params: SamplingParams,
    batch: list[Prompt],
    eos: frozenset[int] = OFTEN,
    rows: int = 3,
) -> Forest:
    return run(engine_of(model, params, eos, rows=rows), params, batch)


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


BASE = {"width": 8, "depth": 4, "segment_length": 6, "repetition": None}
SCENARIOS = {
    "forks": ({}, NO_EOS, (5, 9, 3)),
    "early stops": ({}, OFTEN, (5, 9, 3)),
    "fallback inside segments": ({"fallback": MIDDLE}, OFTEN, (5, 9, 3)),
    "fallback without end of sequence": ({"fallback": MIDDLE, "width": 5}, NO_EOS, (4, 2)),
    "more prompts than rows": ({"fallback": MIDDLE}, OFTEN, (5, 1, 9, 3, 12, 2, 7, 30)),
    "low temperature": ({"temperature": 0.5}, OFTEN, (5, 9)),
    "high temperature": ({"temperature": 2.0, "fallback": MIDDLE}, OFTEN, (5, 9)),
    "width 1": ({"width": 1}, OFTEN, (5, 9, 3, 4)),
    "one-token prompts": ({"initial_branching": [2, 8]}, OFTEN, (1, 1, 1)),
    "one-token segments": ({"segment_length": 1, "depth": 12}, OFTEN, (4, 2)),
    "long segments": ({"segment_length": 30, "depth": 2, "width": 4}, OFTEN, (4, 2, 3)),
    "token limit off the grid": ({"max_tokens": 15}, OFTEN, (4, 2)),
    "depth 1": ({"depth": 1, "segment_length": 20, "initial_branching": 8}, OFTEN, (5, 9, 3)),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_logprobs_are_those_of_plain_transformers(model: PreTrainedModel, name: str) -> None:
    changes, eos, lengths = SCENARIOS[name]
    params = SamplingParams(**{**BASE, **changes})
    forest = sample(model, params, prompts(*lengths), eos)
    assert forest.trees == len(lengths)
    assert len(forest.leaves) == params.width * len(lengths)
    assert flat_error(forest, model, params.temperature) < 1e-4
    check_ends(forest, eos)


def check_ends(forest: Forest, eos: frozenset[int]) -> None:
    """An end of sequence is the last token of a leaf that says so, and nowhere else."""
    for path, response in zip(forest.paths, forest.responses(), strict=True):
        ends = np.flatnonzero(np.isin(response, list(eos)))
        by_eos = forest.finish[path[-1]] == "eos"
        assert ends.tolist() == ([len(response) - 1] if by_eos else [])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_every_grouping_of_heads(kv_heads: int) -> None:
    model = tiny(kv_heads)
    params = SamplingParams(**BASE, fallback=MIDDLE)
    assert flat_error(sample(model, params, prompts(5, 9)), model) < 1e-4


def test_sequential_feeds_the_prompt_once(model: PreTrainedModel) -> None:
    params = SamplingParams.sequential(width=6, max_tokens=20)
    engine = engine_of(model, rows=2)
    forest = run(engine, params, prompts(5, 9, 3))
    assert flat_error(forest, model) < 1e-4
    assert set(forest.depth) == {0, 1}
    assert len(forest) == 3 * 7
    assert engine.stats().prefill_tokens == 5 + 9 + 3
    assert engine.stats().context_tokens == 6 * (5 + 9 + 3)
    assert engine.stats().decode_tokens == forest.sampled_tokens


@pytest.mark.parametrize("changes", [{}, {"fallback": MIDDLE}, {"width": 1}])
def test_a_tree_does_not_depend_on_its_neighbours(
    double: PreTrainedModel, changes: dict[str, Any]
) -> None:
    params = SamplingParams(**{**BASE, **changes})
    batch = prompts(5, 1, 9, 3, 12, 2)
    alone = sample(double, params, batch, rows=1)
    for rows in (2, 5, 8):
        assert_same(sample(double, params, batch, rows=rows), alone)
    used = engine_of(double, rows=2)
    run(used, SamplingParams(width=12, depth=2, segment_length=9), prompts(40, 3, 2), seed=6)
    assert_same(run(used, params, batch), alone)
    last = sample(double, params, batch[3:], rows=2)
    assert last.tokens.tolist() == alone.tokens[alone.offsets[alone.tree_start[3]] :].tolist()


def assert_same(one: Forest, other: Forest) -> None:
    """The same forests but for rounding: no token differs, and no logprob by more than 1e-5."""
    table = one.to_arrow().drop_columns("logprobs")
    assert table.equals(other.to_arrow().drop_columns("logprobs"))
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_the_same_run_again_is_bit_equal(model: PreTrainedModel) -> None:
    params = SamplingParams(**BASE, fallback=MIDDLE)
    batch = prompts(5, 1, 9, 3, 12)
    one, again = (sample(model, params, batch).to_arrow() for _ in range(2))
    assert one.equals(again)
    engine = engine_of(model, rows=3)
    assert not run(engine, params, prompts(5, 60, 9), seed=6).to_arrow().equals(one)
    assert run(engine, params, batch).to_arrow().equals(one)


def test_an_abandoned_run_leaves_nothing_behind(model: PreTrainedModel) -> None:
    params = SamplingParams(**BASE)
    engine = engine_of(model, rows=2)
    growers = [grow_tree(prompt, params, 5, decode) for prompt in prompts(9, 9, 9, 9)]
    first = engine.run(growers)
    next(first)
    first.close()
    batch = prompts(4, 2)
    assert (
        run(engine, params, batch)
        .to_arrow()
        .equals(sample(model, params, batch, rows=2).to_arrow())
    )


def test_trees_leave_as_soon_as_they_are_done(model: PreTrainedModel) -> None:
    short, long = (SamplingParams(width=2, depth=d, segment_length=4) for d in (1, 8))
    engine = engine_of(model, eos=NO_EOS, rows=2)
    kinds = [long, short, short, short, short]
    growers = [
        grow_tree(prompt, params, 0, decode)
        for prompt, params in zip(prompts(3, 3, 3, 3, 3), kinds, strict=True)
    ]
    assert [index for index, _ in engine.run(growers)] == [1, 2, 3, 4, 0]
    assert engine.stats().forward_calls == 8 * 4


def test_prompts_come_while_other_trees_are_at_a_boundary(model: PreTrainedModel) -> None:
    """Trees of one-token segments are at one after each call; they must not keep others out."""
    busy = SamplingParams(width=1, depth=12, segment_length=1)
    short = SamplingParams(width=1, depth=1, segment_length=2)
    engine = engine_of(model, eos=NO_EOS, rows=2)
    kinds = [busy, short, short, short]
    growers = [
        grow_tree(prompt, params, 0, decode)
        for prompt, params in zip(prompts(3, 3, 3, 3), kinds, strict=True)
    ]
    assert [index for index, _ in engine.run(growers)] == [1, 2, 3, 0]
    assert engine.stats().forward_calls == 12


def test_counts_of_tokens(model: PreTrainedModel) -> None:
    engine, total, batch = engine_of(model, rows=2), 0, prompts(5, 9, 3)
    assert list(engine.run([])) == []
    for seed in range(3):
        total += run(engine, SamplingParams(**BASE, fallback=MIDDLE), batch, seed).sampled_tokens
        assert engine.stats().decode_tokens == total
        assert engine.stats().prefill_tokens >= 17 * (seed + 1)


def test_slots_used_again_change_nothing(
    double: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What branches that are done leave behind is overwritten, and what lives is not."""
    params = SamplingParams(**{**BASE, "width": 12, "depth": 6}, fallback=MIDDLE)
    used, again, take = set[int](), [], Slots.take

    def spy(self: Slots, count: int) -> np.ndarray:
        slots = take(self, count)
        again.append(len(used.intersection(slots.tolist())))
        used.update(slots.tolist())
        return slots

    monkeypatch.setattr(Slots, "take", spy)
    forest = sample(double, params, prompts(5, 1, 9))
    assert max(again) > 20
    assert flat_error(forest, double) < 1e-5


def test_splits_anywhere(model: PreTrainedModel) -> None:
    back = FallbackParams(position="misaligned")
    shape = {"width": 24, "depth": 3, "segment_length": 10, "initial_branching": 3}
    forest = sample(model, SamplingParams(**shape, fallback=back), prompts(5, 2, 9, 4, 7))
    assert flat_error(forest, model) < 1e-4


WITHOUT_GROUPS = ["gpt2", "gpt_neox"]
ARCHITECTURES = ["qwen2", "qwen3", "mistral", "phi3", "gemma", "olmo2", *WITHOUT_GROUPS]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_architectures(architecture: str) -> None:
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        **({} if architecture in WITHOUT_GROUPS else {"num_key_value_heads": 2}),
        max_position_embeddings=128,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation())
    forest = sample(sharpened(model), SamplingParams(**BASE, fallback=MIDDLE), prompts(5, 9))
    assert flat_error(forest, model) < 1e-4


def test_restarts_in_any_order(model: PreTrainedModel) -> None:
    """A path deep in the tree asked for before one at the root: logits go to the right paths."""

    def grower() -> Grower:
        tree = Tree("p", [7, 8, 9], seed=0)
        (first,) = yield [Request(tree.root, 5, 1)]
        deep = tree.grow(tree.root, first, 1)
        segments = yield [Request(deep, 4, 2), Request(tree.root, 4, 3)]
        for parent, segment, key in zip((deep, tree.root), segments, (2, 3), strict=True):
            tree.grow(parent, segment, key).finish = "max_depth"
        return tree

    engine = engine_of(model, eos=NO_EOS, rows=1)
    forest = Forest.from_trees(tree for _, tree in engine.run([grower()]))
    assert flat_error(forest, model) < 1e-4


def test_what_was_sampled_is_not_computed_again(model: PreTrainedModel) -> None:
    """The prompt is fed once; after that each segment's last token only, whose slot is there."""
    engine = engine_of(model, eos=NO_EOS, rows=1)
    params = SamplingParams(**{**BASE, "width": 4, "depth": 3})
    forest = run(engine, params, prompts(5))
    inner = int(np.isin(np.arange(len(forest)), forest.leaves, invert=True).sum()) - 1
    assert inner > 2
    assert engine.stats().prefill_tokens == 5 + inner


def test_a_window_that_hides_ancestors_is_refused() -> None:
    config = transformers.MistralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=8,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation())
    with pytest.raises(UserError, match="sliding_window"):
        sample(model.eval(), SamplingParams(**BASE), prompts(5, 9))
