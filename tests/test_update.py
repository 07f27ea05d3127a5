from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forests import forests
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from treepo.advantages import Advantages, entries
from treepo.attention import NAME as TREE_ATTENTION
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.logprobs import target_logprobs
from treepo.models import initial_policy
from treepo.objective import clipped_loss, statistics
from treepo.packing import micro_batches, pack
from treepo.params import ModelParams, UpdateParams
from treepo.trainer import STATE_FILE, Batch, Trainer, batch_targets
from treepo.tree import Segment, Tree

Array = np.ndarray
SIZE = ModelParams(hidden_size=16, layers=2, heads=4, intermediate_size=24, max_positions=64)
# Bounds near 1, so that noise of the logprobs crosses all of them.
PARAMS = UpdateParams(clip_low=0.2, clip_high=0.28, dual_clip=1.6, warm_up_steps=1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they save in models of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(kv_heads: int = 2) -> PreTrainedModel:
    """A random Llama with weights large enough for logits that differ."""
    model = initial_policy(SIZE.model_copy(update={"kv_heads": kv_heads}), seed=0).model
    for parameter in model.parameters():
        parameter.data *= 10 if parameter.dim() > 1 else 1
    return model


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in transformers' eager attention, which knows no trees."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    return other


def flat_logprobs(model: PreTrainedModel, forest: Forest, temperature: float) -> list[Tensor]:
    """Logprobs of each trajectory's sampled tokens, each trajectory alone in a dense row."""
    result: list[Tensor] = []
    for leaf, response in zip(forest.leaves, forest.responses(), strict=True):
        prompt = forest.node_tokens(int(forest.tree_start[forest.tree[leaf]]))
        tokens = torch.tensor([*prompt.tolist(), *response.tolist()])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits / temperature, dim=-1)
        result.append(logprobs.gather(1, tokens[len(prompt) :, None])[:, 0])
    return result


def places(forest: Forest, rows: Any) -> Array:
    """Indices into the forest's tokens of the tokens of these rows, in order."""
    return np.concatenate([np.arange(forest.offsets[r], forest.offsets[r + 1]) for r in rows])


def flat_old(forest: Forest) -> list[Array]:
    """The stored logprobs, trajectory by trajectory."""
    return [forest.logprobs[places(forest, path)] for path in forest.paths]


def flat_loss(logprobs: list[Tensor], forest: Forest, value: Array, params: UpdateParams) -> Tensor:
    """PPO's clipped loss as in a flat batch, token by token of each trajectory; token mean."""
    losses: list[Tensor] = []
    for advantage, new, old in zip(value, logprobs, flat_old(forest), strict=True):
        ratio = torch.exp(new - torch.from_numpy(old).to(new))
        a = torch.full_like(ratio, advantage)
        clipped = ratio.clamp(1 - params.clip_low, 1 + params.clip_high)
        gain = torch.minimum(ratio * a, clipped * a)
        losses.append(-torch.where(a < 0, torch.maximum(gain, params.dual_clip * a), gain))
    return torch.cat(losses).mean()


def packed_gradients(
    model: PreTrainedModel, batch: Batch, params: UpdateParams, budget: int
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of all trees as in Trainer._minibatch, without its optimizer."""
    forest = batch.forest
    model.zero_grad()
    total = 0.0
    for part in micro_batches(forest, batch.trees, budget):
        packed = pack(forest, part)
        logprobs, _ = target_logprobs(model, packed, batch.temperature)
        loss = clipped_loss(logprobs, batch_targets(batch, packed, logprobs), params)
        loss = loss / forest.trajectory_tokens
        loss.backward()
        total += float(loss.detach())
    return total, gradients(model)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found: dict[str, Any] = {name: value.grad for name, value in model.named_parameters()}
    return {name: grad.clone() for name, grad in found.items()}


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """For every parameter: norm of the difference <= 1e-5 x norm of the expected gradient.

    A norm counts as 1e-3 of the largest parameter's at least: below it, gradients cancel to noise
    of the RMSNorm, which transformers computes in float32 whatever the model's type.
    """
    assert got.keys() == expected.keys()
    largest = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        error = float((got[name] - grad).norm())
        assert error <= 1e-5 * max(float(grad.norm()), 1e-3 * largest), (name, error)


def behaved(forest: Forest, logprobs: list[Tensor], noise: float, seed: int = 0) -> Forest:
    """The forest with the model's own logprobs, moved by normal noise [nats]."""
    random = np.random.default_rng(seed)
    stored = np.zeros_like(forest.logprobs)
    for path, values in zip(forest.paths, logprobs, strict=True):
        stored[places(forest, path)] = values.detach().numpy()
    moved = random.normal(0, noise, len(stored)) * np.repeat(forest.parent >= 0, forest.lengths)
    return replace(forest, logprobs=(stored + moved).astype(np.float32))


def with_values(forest: Forest, value: Array) -> Advantages:
    trajectory, row = entries(forest)
    return Advantages(trajectory, row, value[trajectory])


def forking_forest(trees: int = 3) -> Forest:
    """Two levels of forks, four leaves a tree; each tree one token longer than the one before."""
    grown: list[Tree] = []
    for index in range(trees):
        tree = Tree(f"p{index}", [1 + index, 2, 3, *[4] * index], seed=0)
        for branch in range(2):
            inner = tree.grow(tree.root, Segment([4 + branch, 6 + index], [-1.0] * 2), branch)
            for leaf in range(2):
                segment = Segment([8 + leaf, *[5] * (1 + leaf)], [-1.0] * (2 + leaf))
                tree.grow(inner, segment, leaf).finish = "eos"
        grown.append(tree)
    return Forest.from_trees(grown)


KV_HEADS, TEMPERATURE = st.sampled_from([1, 2, 4]), st.sampled_from([1.0, 0.6])


@given(forests(max_segments=10), st.integers(0, 99), KV_HEADS, TEMPERATURE)
@settings(max_examples=25, deadline=None)
def test_packed_loss_and_gradients_are_the_flat_ones(
    forest: Forest, seed: int, kv_heads: int, temperature: float
) -> None:
    model = tiny(kv_heads).double()
    reference = plain(model)
    logprobs = flat_logprobs(reference, forest, temperature)
    forest = behaved(forest, logprobs, noise=0.5, seed=seed)
    random = np.random.default_rng(seed)
    value = random.normal(size=len(forest.leaves)) * random.integers(0, 2, len(forest.leaves))
    if not value.any():
        value[0] = 1.0
    trees = list(range(forest.trees))
    expected = flat_loss(logprobs, forest, value, PARAMS)
    expected.backward()
    batch = Batch(forest, with_values(forest, value), trees, temperature)
    loss, got = packed_gradients(model, batch, PARAMS, budget=10_000)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-9)
    assert_same_gradients(got, gradients(reference))
    split_loss, split = packed_gradients(model, batch, PARAMS, budget=1)
    assert split_loss == pytest.approx(loss, rel=1e-5, abs=1e-9)
    assert_same_gradients(split, got)


def test_the_bounds_are_active_and_counted_as_in_the_flat_batch() -> None:
    model = tiny().double()
    flat = flat_logprobs(plain(model), forking_forest(), 1.0)
    forest = behaved(forking_forest(), flat, noise=0.5)
    value = np.tile([1.0, -1.0, -0.5, 0.0], 3)
    packed = pack(forest, range(3))
    logprobs, _ = target_logprobs(model, packed, 1.0)
    batch = Batch(forest, with_values(forest, value), range(3), 1.0)
    found = statistics(logprobs, batch_targets(batch, packed, logprobs), PARAMS)
    both = zip(flat, flat_old(forest), strict=True)
    ratio = [np.exp(new.detach().numpy() - old) for new, old in both]
    every = np.concatenate(ratio)
    expected = {
        "ratio_mean": every.sum(),
        "approx_kl": (every - 1 - np.log(every)).sum(),
        "log_ratio_max": np.abs(np.log(every)).max(),
    }
    assert {key: float(found[key]) for key in expected} == pytest.approx(expected, rel=1e-5)
    pairs = list(zip(value, ratio, strict=True))
    assert any((r > 1.28).any() for a, r in pairs if a > 0)
    assert any((r < 0.8).any() for a, r in pairs if a < 0)
    assert any((r > PARAMS.dual_clip).any() for a, r in pairs if a < 0)
    assert min(found["clip_low"], found["clip_high"]) > 0
    assert max(found["clip_low"], found["clip_high"]) <= len(every)


@given(forests(max_trees=4), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_micro_batches_hold_whole_trees_within_the_budget(forest: Forest, budget: int) -> None:
    batches = list(micro_batches(forest, range(forest.trees), budget))
    assert sorted(tree for batch in batches for tree in batch) == list(range(forest.trees))
    size = np.bincount(np.repeat(forest.tree, forest.lengths))
    for batch in batches:
        assert len(batch) == 1 or sum(size[batch]) <= budget


@given(forests())
@settings(max_examples=60, deadline=None)
def test_packing_against_loops(forest: Forest) -> None:
    """Positions, predictors and targets, found by walking each trajectory."""
    packed = pack(forest, range(forest.trees))
    assert packed.tokens.tolist() == forest.tokens.tolist()
    pairs: set[tuple[int, int]] = set()
    for leaf, path in zip(forest.leaves, forest.paths, strict=True):
        root = int(forest.tree_start[forest.tree[leaf]])
        flat = places(forest, (root, *path)).tolist()
        assert packed.positions[flat].tolist() == list(range(len(flat)))
        prompt = int(forest.lengths[root])
        pairs |= set(zip(flat[prompt - 1 : -1], flat[prompt:], strict=True))
    predictors = packed.predictors[packed.predictor].tolist()
    found = list(zip(predictors, packed.target_token.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == pairs
    # The token before a fork predicts the first of every branch and is computed once.
    assert packed.predictors.tolist() == sorted({before for before, _ in pairs})
    assert packed.target.tolist() == forest.tokens[packed.target_token].tolist()
    row = np.repeat(np.arange(len(forest)), forest.lengths)
    assert packed.target_row.tolist() == row[packed.target_token].tolist()


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_nothing_leaks_from_other_trees_or_branches(kv_heads: int) -> None:
    model, forest = tiny(kv_heads).double(), forking_forest()
    clean = target_logprobs(model, pack(forest, range(3)), 1.0)[0].detach()
    row = pack(forest, range(3)).target_row
    # Tree 1 and, in tree 0, the subtree of its first branch (rows 1 to 3).
    for rows in (np.flatnonzero(forest.tree == 1), np.array([1, 2, 3])):
        tokens = forest.tokens.copy()
        changed = np.isin(np.repeat(np.arange(len(forest)), forest.lengths), rows)
        tokens[changed] = (tokens[changed] + 3) % 11
        other = target_logprobs(model, pack(replace(forest, tokens=tokens), range(3)), 1.0)[0]
        untouched = ~np.isin(row, rows)
        difference = (other.detach() - clean).abs().numpy()
        assert difference[untouched].max() <= 1e-12
        assert difference[~untouched].min() > 1e-6


def test_a_tree_is_the_same_beside_others_and_alone() -> None:
    """Also where it is padded to a larger neighbour, and where it exceeds the budget."""
    model, forest = tiny().double(), forking_forest(2)
    both = pack(forest, [1, 0])
    together = target_logprobs(model, both, 1.0)[0].detach().numpy()
    assert list(micro_batches(forest, [0, 1], 8)) == [[1], [0]]
    for tree in range(2):
        alone = target_logprobs(model, pack(forest, [tree]), 1.0)[0].detach().numpy()
        of_tree = together[forest.tree[both.target_row] == tree]
        np.testing.assert_allclose(of_tree, alone, rtol=0, atol=1e-12)


def sampled(model: PreTrainedModel, temperature: float = 1.0) -> Batch:
    """A batch whose logprobs the model itself gives, densely; half of the leaves are good."""
    forest = forking_forest()
    forest = behaved(forest, flat_logprobs(plain(model), forest, temperature), noise=0)
    value = np.tile([1.0, -1.0, 0.5, -0.5], 3)
    return Batch(forest, with_values(forest, value), range(3), temperature)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [12, 10_000])
def test_the_ratio_is_one_at_the_first_minibatch(temperature: float, budget: int) -> None:
    model = tiny()
    params = UpdateParams(micro_batch_tokens=budget, probe_tolerance=1e-5)
    metrics = Trainer(model, params).update(sampled(model, temperature), seed=0)
    assert metrics["probe"] == metrics["log_ratio_max"] <= 1e-5
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["clip_low"] == metrics["clip_high"] == 0
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-7)
    assert 0 < metrics["entropy"] < math.log(100)
    wrong, fresh = replace(sampled(tiny(), temperature), temperature=1.3), Trainer(tiny(), params)
    with pytest.raises(WorkError, match="probe_tolerance"):
        fresh.update(wrong, seed=0)


def test_stopping_between_updates_changes_no_bit(tmp_path: Path) -> None:
    params = UpdateParams(learning_rate=1e-2, warm_up_steps=4, weight_decay=0.1, minibatches=2)
    model = tiny()
    trainer = Trainer(model, params)
    trainer.load_state(tmp_path)  # nothing there: a fresh optimizer
    trainer.update(sampled(model), seed=1)
    trainer.save_state(tmp_path)
    model.save_pretrained(tmp_path)
    batch = sampled(model)
    expected = trainer.update(batch, seed=2)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation=TREE_ATTENTION)
    again = Trainer(loaded, params)
    again.load_state(tmp_path)
    assert again.update(batch, seed=2) == expected
    assert expected["total_steps"] == 4
    assert equal(weights(loaded), weights(model))
    again.save_state(tmp_path)
    state = (tmp_path / STATE_FILE).read_bytes()
    trainer.save_state(tmp_path)
    assert (tmp_path / STATE_FILE).read_bytes() == state
    without = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation=TREE_ATTENTION)
    assert Trainer(without, params).update(batch, seed=2) != expected


def test_updates_are_deterministic_in_the_seed() -> None:
    def outcome(seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        model = tiny()
        params = UpdateParams(learning_rate=1e-2, minibatches=3)
        return Trainer(model, params).update(sampled(model), seed), weights(model)

    (one, after_one), (again, after_again), (_, other) = outcome(5), outcome(5), outcome(6)
    assert one == again
    assert equal(after_one, after_again)
    assert not equal(after_one, other)


def test_a_foreign_logprob_stops_the_update_before_any_step() -> None:
    model = tiny()
    before = weights(model)
    batch = sampled(model)
    logprobs = batch.forest.logprobs.copy()
    logprobs[-1] -= 0.01
    foreign = replace(batch, forest=replace(batch.forest, logprobs=logprobs))
    with pytest.raises(WorkError, match=r"differ by 0\.01 nats .*probe_tolerance 0\.001"):
        Trainer(model, UpdateParams()).update(foreign, seed=0)
    assert equal(weights(model), before)


@pytest.mark.parametrize("where", ["advantage", "weight"])
def test_numbers_that_are_not_finite_stop_the_update(where: str) -> None:
    batch = sampled(model := tiny())
    if where == "weight":
        next(model.parameters()).data[0, 0] = math.nan
    else:
        batch.advantages.value[0] = math.inf
    before = weights(model)
    with pytest.raises(WorkError, match="nan nats" if where == "weight" else "not finite"):
        Trainer(model, UpdateParams()).update(batch, seed=0)
    after = weights(model)
    assert all(torch.equal(after[key].nan_to_num(), before[key].nan_to_num()) for key in before)


@pytest.mark.parametrize(("epochs", "minibatches", "steps"), [(1, 1, 1), (2, 2, 4), (3, 9, 9)])
def test_steps_and_the_warm_up_of_the_learning_rate(
    epochs: int, minibatches: int, steps: int
) -> None:
    """A tree is never split over minibatches, so 3 trees make 3 steps an epoch at most."""
    model, counts = tiny(), {"epochs": epochs, "minibatches": minibatches}
    trainer = Trainer(model, UpdateParams(learning_rate=1e-4, warm_up_steps=8, **counts))
    metrics = trainer.update(sampled(model), seed=0)
    assert metrics["steps"] == metrics["total_steps"] == steps
    rates = [1e-4 * min(1, step / 8) for step in range(1, steps + 1)]
    assert metrics["learning_rate"] == pytest.approx(np.mean(rates))


def test_no_trees_change_nothing() -> None:
    model = tiny()
    before = weights(model)
    batch = replace(sampled(model), trees=[])
    assert Trainer(model, PARAMS).update(batch, seed=0) == {"steps": 0, "total_steps": 0}
    assert equal(weights(model), before)


def test_an_update_makes_good_trajectories_likelier() -> None:
    model = tiny()
    batch = replace(sampled(model), trees=[0, 2])
    before = flat_logprobs(plain(model), batch.forest, 1.0)
    Trainer(model, UpdateParams(learning_rate=3e-3, warm_up_steps=1)).update(batch, seed=0)
    after = flat_logprobs(plain(model), batch.forest, 1.0)
    gain = [float((new - old).sum().detach()) for new, old in zip(after, before, strict=True)]
    for first in (0, 8):  # advantages 1, -1, 0.5, -0.5
        assert gain[first] > 0 > gain[first + 1]
        assert gain[first + 2] > gain[first + 3]
