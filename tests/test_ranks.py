"""Several processes: trees shared by tokens, and one update that does not depend on how many."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policies import (
    LIMIT,
    behaved,
    flat_logprobs,
    forking_forest,
    plain,
    sampled,
    tiny,
    with_values,
)
from safetensors.torch import load_file, save_file

from tasks.update import Work
from treepo.batch import Batch
from treepo.errors import WorkError
from treepo.launch import launch
from treepo.models import Policy, save_policy
from treepo.params import UpdateParams
from treepo.ranks import share_out
from treepo.tokenizer import character_tokenizer
from treepo.trainer import STATE_FILE, Trainer

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "warm_up_steps": 0,
    "minibatches": 2,
    "micro_batch_tokens": 30,
    "importance_cap": 2.0,
    "mismatch_limit": None,
}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 4))
def test_every_tree_goes_to_one_rank_and_no_rank_gets_much_more(
    sizes: list[int], ranks: int
) -> None:
    shares = share_out(np.array(sizes), range(len(sizes)), ranks)
    assert len(shares) == ranks
    assert sorted(tree for share in shares for tree in share) == list(range(len(sizes)))
    loads = [sum(sizes[tree] for tree in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


def learn(seed: int = 0, trees: int = 5) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics and weights after an update of two minibatches; trees of different sizes."""
    torch.set_num_threads(1)
    model = tiny()
    forest = forking_forest(trees)
    forest = behaved(forest, flat_logprobs(plain(model), forest, 1.0), noise=0.1)
    value = np.random.default_rng(seed).normal(size=len(forest.leaves))
    batch = Batch(forest, with_values(forest, value), range(trees), 1.0, LIMIT)
    metrics = Trainer(model, UpdateParams(**SETTINGS)).update(batch, seed=0)
    return metrics, {name: weight.detach() for name, weight in model.named_parameters()}


def learn_into(folder: Path, trees: int, seeds: list[int]) -> None:
    """What each rank does; writes its outcome into the folder."""
    index = int(os.environ["RANK"])
    try:
        metrics, weights = learn(seeds[index], trees)
    except WorkError as error:
        (folder / f"{index}.error").write_text(str(error))
        return
    numbers = {f"metric {name}": torch.tensor(value) for name, value in metrics.items()}
    save_file({**weights, **numbers}, folder / f"{index}.safetensors")


def fail() -> None:
    raise ValueError("no luck")


@pytest.mark.slow
@pytest.mark.parametrize("trees", [5, 2])
def test_two_ranks_make_the_update_of_one(tmp_path: Path, trees: int) -> None:
    """Also where a minibatch has fewer trees than there are ranks."""
    launch(2, learn_into, tmp_path, trees, [0, 0])
    metrics, weights = learn(trees=trees)
    moved = dict(tiny().named_parameters())
    for index in range(2):
        found = load_file(tmp_path / f"{index}.safetensors")
        for name, weight in weights.items():
            assert not torch.equal(weight, moved[name])
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
        for name, value in metrics.items():
            assert float(found[f"metric {name}"]) == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_ranks_with_different_data_are_refused_on_every_rank(tmp_path: Path) -> None:
    launch(2, learn_into, tmp_path, 2, [0, 1])
    for index in range(2):
        message = (tmp_path / f"{index}.error").read_text()
        assert message == "update: rank 1 was given other data than rank 0"


@pytest.mark.slow
def test_a_rank_that_fails_says_why() -> None:
    with pytest.raises(WorkError, match="a rank failed: ValueError: no luck"):
        launch(2, fail)


@pytest.mark.slow
def test_the_step_on_two_ranks_writes_one_policy_and_its_optimizer(tmp_path: Path) -> None:
    before, files = tmp_path / "before", tmp_path / "metrics.json"
    save_policy(Policy(tiny(), character_tokenizer()), before)
    params, made = UpdateParams(**SETTINGS), sampled(tiny())
    one, two = tmp_path / "one", tmp_path / "two"
    alone = Work(made, params, "cpu", 0, before, one, files)
    alone.do()
    expected = json.loads(files.read_text())
    launch(2, replace(alone, after=two).do)
    assert json.loads(files.read_text()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name in ("model.safetensors", STATE_FILE):
        wanted, found = load_file(one / name), load_file(two / name)
        assert wanted.keys() == found.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)
