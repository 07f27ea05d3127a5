"""The trainer: steps, skips, minibatches, the optimizer's state; and the packing below it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forests import forests
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import (
    flat_logprobs,
    forking_forest,
    gathered,
    places,
    plain,
    sampled,
    tiny,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from treepo.attention import implementation
from treepo.batch import Batch
from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.logprobs import forest_logprobs, target_logprobs
from treepo.packing import micro_batches, pack
from treepo.params import UpdateParams
from treepo.schedules import SCHEDULES, learning_rate
from treepo.trainer import STATE_FILE, Trainer


@given(forests(max_trees=4), st.integers(1, 60))
@settings(max_examples=60)
def test_micro_batches_hold_whole_trees_within_the_budget(forest: Forest, budget: int) -> None:
    batches = list(micro_batches(forest, range(forest.trees), budget))
    assert sorted(tree for batch in batches for tree in batch) == list(range(forest.trees))
    size = np.bincount(np.repeat(forest.tree, forest.lengths))
    for batch in batches:
        assert len(batch) == 1 or sum(size[batch]) <= budget


@given(forests())
@settings(max_examples=60)
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


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [12, 10_000])
def test_the_ratio_is_one_at_the_first_minibatch(temperature: float, budget: int) -> None:
    model = tiny()
    params = UpdateParams(micro_batch_tokens=budget, mismatch_limit=1e-5)
    metrics = Trainer(model, params).update(sampled(model, temperature), seed=0)
    assert 0 < metrics["mismatch_mean"] <= metrics["mismatch_max"] <= 1e-5
    assert metrics["mismatch_kl"] == pytest.approx(0, abs=1e-9)
    assert 1 - 1e-5 < metrics["ratio_min"] <= 1 <= metrics["ratio_max"] < 1 + 1e-5
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["clip_low"] == metrics["clip_high"] == 0
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-7)
    assert 0 < metrics["entropy"] < math.log(100)
    wrong, fresh = replace(sampled(tiny(), temperature), temperature=1.3), Trainer(tiny(), params)
    with pytest.raises(WorkError, match=r"mismatch_max is .* nats .*update\.mismatch_limit: 1e-05"):
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
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation())
    again = Trainer(loaded, params)
    again.load_state(tmp_path)
    assert again.update(batch, seed=2) == expected
    assert expected["total_steps"] == 4
    assert equal(weights(loaded), weights(model))
    again.save_state(tmp_path)
    state = (tmp_path / STATE_FILE).read_bytes()
    trainer.save_state(tmp_path)
    assert (tmp_path / STATE_FILE).read_bytes() == state
    without = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation())
    assert Trainer(without, params).update(batch, seed=2) != expected


def test_the_state_of_another_model_or_version_is_refused(tmp_path: Path) -> None:
    model = tiny(kv_heads=4)
    trainer = Trainer(model, UpdateParams())
    trainer.update(sampled(model), seed=0)
    trainer.save_state(tmp_path)
    with pytest.raises(UserError, match=r"optimizer\.safetensors: the state of another model \("):
        Trainer(tiny(kv_heads=2), UpdateParams()).load_state(tmp_path)
    save_file({"step": torch.tensor(3)}, tmp_path / STATE_FILE)
    with pytest.raises(UserError, match=r"optimizer\.safetensors: not the .* this version"):
        Trainer(model, UpdateParams()).load_state(tmp_path)


def test_updates_are_deterministic_in_the_seed() -> None:
    def outcome(seed: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        model = tiny()
        params = UpdateParams(learning_rate=1e-2, minibatches=3)
        return Trainer(model, params).update(sampled(model), seed), weights(model)

    (one, after_one), (again, after_again), (_, other) = outcome(5), outcome(5), outcome(6)
    assert one == again
    assert equal(after_one, after_again)
    assert not equal(after_one, other)


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


def changed(batch: Batch, token: int, by: float) -> Batch:
    """The batch with one of the engine's logprobs moved [nats]."""
    logprobs = batch.forest.logprobs.copy()
    logprobs[token] += by
    return replace(batch, forest=replace(batch.forest, logprobs=logprobs))


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (
            {},
            r"mismatch_max is 0\.01 nats before the first step \(update\.mismatch_limit: 0\.001\)",
        ),
        ({"mismatch_limit": 0.1, "mismatch_kl_limit": 1e-9}, r"mismatch_kl .*mismatch_kl_limit"),
    ],
)
def test_a_foreign_logprob_stops_the_update_before_any_step(
    cap: float | None, limits: dict[str, float], expected: str
) -> None:
    model = tiny()
    before = weights(model)
    trainer = Trainer(model, UpdateParams(importance_cap=cap, **limits))
    with pytest.raises(WorkError, match=expected):
        trainer.update(changed(sampled(model), -1, -0.01), seed=0)
    assert equal(weights(model), before)


def test_the_mismatch_is_measured_as_in_the_flat_batch() -> None:
    """A token of the first tree's first branch, which two trajectories run through."""
    model = tiny()
    batch = sampled(model)
    token = int(batch.forest.offsets[1])
    tokens = batch.forest.trajectory_tokens
    for cap in (None, 2.0):
        params = UpdateParams(mismatch_limit=None, importance_cap=cap)
        metrics = Trainer(tiny(), params).update(changed(batch, token, -0.5), seed=0)
        assert metrics["mismatch_max"] == pytest.approx(0.5, abs=1e-5)
        assert metrics["mismatch_mean"] == pytest.approx(2 * 0.5 / tokens, rel=1e-3)
        assert metrics["mismatch_kl"] == pytest.approx(2 * (math.exp(0.5) - 1.5) / tokens, rel=1e-3)
        assert metrics["ratio_max"] == pytest.approx(1.0 if cap else math.exp(0.5), rel=1e-5)


def test_logprobs_are_those_of_the_dense_rows() -> None:
    model, forest = tiny(), forking_forest()
    dense = gathered(forest, flat_logprobs(plain(model), forest, 0.7))
    of_tree = np.repeat(forest.tree, forest.lengths)
    longest = int((forest.start + forest.lengths).max())
    for budget in (longest, 10_000):
        found = forest_logprobs(model, forest, [0, 2], 0.7, budget)
        np.testing.assert_allclose(found, dense * (of_tree != 1), atol=1e-5)


def poisoned(model: PreTrainedModel, where: str) -> Batch:
    """A batch whose update meets a number that is not finite."""
    batch = sampled(model)
    if where == "weight":
        next(model.parameters()).data[0, 0] = math.nan
    elif where == "gradient":
        model.model.layers[0].mlp.up_proj.weight.register_hook(lambda grad: grad * math.inf)
    else:
        batch.advantages.value[0] = math.inf
    return batch


@pytest.mark.parametrize("where", ["advantage", "weight", "gradient"])
def test_numbers_that_are_not_finite_skip_the_step_and_stop_the_run_at_last(where: str) -> None:
    batch = poisoned(model := tiny(), where)
    before = weights(model)
    trainer = Trainer(model, UpdateParams(skip_limit=3))
    for _ in range(2):
        metrics = trainer.update(replace(batch, trees=[0]), seed=0)
        assert {name: value for name, value in metrics.items() if value} == {"skipped_steps": 1}
        assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(WorkError, match=r"not finite, 3 times in a row \(update\.skip_limit\)"):
        trainer.update(replace(batch, trees=[0]), seed=0)
    after = weights(model)
    assert all(torch.equal(after[key].nan_to_num(), before[key].nan_to_num()) for key in before)


def test_a_finite_step_between_skips_starts_the_count_anew(tmp_path: Path) -> None:
    """The count goes with the optimizer's state: a resumed run stops where this one would."""
    batch = poisoned(model := tiny(), "advantage")
    params = UpdateParams(skip_limit=2, mismatch_limit=None)
    trainer = Trainer(model, params)
    assert trainer.update(replace(batch, trees=[0]), seed=0)["skipped_steps"] == 1
    assert trainer.update(replace(batch, trees=[1]), seed=0)["steps"] == 1
    assert trainer.update(replace(batch, trees=[0]), seed=0)["skipped_steps"] == 1
    trainer.save_state(tmp_path)
    again = Trainer(model, params)
    again.load_state(tmp_path)
    with pytest.raises(WorkError, match="2 times in a row"):
        again.update(replace(batch, trees=[0]), seed=0)


def test_a_skipped_step_leaves_no_trace_in_the_metrics() -> None:
    batch = poisoned(model := tiny(), "advantage")
    metrics = Trainer(model, UpdateParams(minibatches=3)).update(batch, seed=0)
    assert (metrics["steps"], metrics["skipped_steps"], metrics["total_steps"]) == (2, 1, 2)
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("cap", [None, 2.0])
def test_no_trees_change_nothing(cap: float | None) -> None:
    model = tiny()
    before = weights(model)
    params = UpdateParams(importance_cap=cap)
    metrics = Trainer(model, params).update(replace(sampled(model), trees=[]), seed=0)
    assert set(metrics.values()) == {0.0}
    assert equal(weights(model), before)


def test_advantages_that_are_all_zero_take_no_step() -> None:
    """Not even one of momentum, weight decay, KL or entropy; other minibatches go on."""
    model = tiny()
    settings: dict[str, Any] = {"weight_decay": 0.1, "kl_coefficient": 0.1, "minibatches": 3}
    trainer = Trainer(model, UpdateParams(learning_rate=1e-2, **settings))
    batch = sampled(model)
    batch = replace(batch, reference=batch.forest.logprobs)
    of_tree = batch.forest.tree[batch.advantages.row]
    batch.advantages.value[of_tree != 1] = 0
    metrics = trainer.update(batch, seed=0)
    assert (metrics["steps"], metrics["idle_minibatches"]) == (1, 2)
    before = weights(model)
    batch.advantages.value[:] = 0
    metrics = trainer.update(batch, seed=1)
    assert (metrics["steps"], metrics["idle_minibatches"], metrics["total_steps"]) == (0, 3, 1)
    assert equal(weights(model), before)


def rates(steps: int, **settings: Any) -> list[float]:
    params = UpdateParams(learning_rate=1.0, **settings)
    return [learning_rate(step, params) for step in range(steps)]


def test_the_schedules_of_the_learning_rate() -> None:
    constant = rates(5, warm_up_steps=2)
    assert constant == [0.5, 1, 1, 1, 1]
    settings: dict[str, Any] = {"warm_up_steps": 2, "schedule_steps": 6}
    linear = rates(9, schedule="linear", final_learning_rate=0.2, **settings)
    assert linear == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    cosine = rates(9, schedule="cosine", **settings)
    half = math.sqrt(0.5)
    assert cosine == pytest.approx([0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0, 0])
    assert rates(3, schedule="linear", warm_up_steps=2, schedule_steps=2) == [0.5, 1, 0]
    assert all(line for _, line in SCHEDULES.describe())


def test_an_entropy_bonus_and_a_kl_pull_their_way() -> None:
    """After three steps on the same batch: the bonus leaves more entropy, the KL is smaller."""
    other = tiny(seed=1)
    found: dict[str, dict[str, float]] = {}
    for name in ("neither", "entropy_coefficient", "kl_coefficient"):
        batch = sampled(model := tiny())
        reference = forest_logprobs(other, batch.forest, batch.trees, 1.0, 10_000)
        weight = {} if name == "neither" else {name: 1.0}
        params = UpdateParams(
            learning_rate=1e-2, warm_up_steps=0, epochs=3, mismatch_limit=None, **weight
        )
        trainer = Trainer(model, params)
        trainer.update(replace(batch, reference=reference), seed=0)
        found[name] = trainer.update(replace(batch, reference=reference), seed=1)
    neither = found["neither"]
    assert found["entropy_coefficient"]["entropy"] > neither["entropy"]
    assert found["kl_coefficient"]["reference_kl"] < neither["reference_kl"]
