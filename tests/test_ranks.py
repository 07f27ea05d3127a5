"""Several processes: trees shared by tokens, and one update that does not depend on how many."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policies import LIMIT, behaved, flat_logprobs, forking_forest, plain, tiny, with_values
from safetensors.torch import load_file, save_file
from torch import multiprocessing

from treepo.batch import Batch
from treepo.errors import WorkError
from treepo.params import UpdateParams
from treepo.ranks import share_out
from treepo.trainer import Trainer

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


def rank(index: int, ranks: int, port: int, folder: Path, trees: int, seeds: list[int]) -> None:
    """What one process of several does; writes its outcome, or its error, into the folder."""
    names = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    try:
        metrics, weights = learn(seeds[index], trees)
    except WorkError as error:
        (folder / f"{index}.error").write_text(str(error))
        return
    numbers = {f"metric {name}": torch.tensor(value) for name, value in metrics.items()}
    save_file({**weights, **numbers}, folder / f"{index}.safetensors")
    torch.distributed.destroy_process_group()


def launch(folder: Path, trees: int, seeds: list[int]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (len(seeds), port, folder, trees, seeds)
    multiprocessing.spawn(rank, arguments, nprocs=len(seeds))


@pytest.mark.slow
@pytest.mark.parametrize("trees", [5, 2])
def test_two_ranks_make_the_update_of_one(tmp_path: Path, trees: int) -> None:
    """Also where a minibatch has fewer trees than there are ranks."""
    launch(tmp_path, trees, seeds=[0, 0])
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
    launch(tmp_path, trees=2, seeds=[0, 1])
    for index in range(2):
        message = (tmp_path / f"{index}.error").read_text()
        assert message == "update: rank 1 was given other data than rank 0"
