"""Several processes: trees shared by tokens, and one update that does not depend on how many."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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
    tiny,
    with_values,
)
from safetensors.torch import load_file, save_file

from tasks.update import Work
from treepo.batch import Batch
from treepo.errors import WorkError
from treepo.launch import launch, open_store
from treepo.models import Policy, save_policy
from treepo.params import UpdateParams
from treepo.ranks import share_out
from treepo.sharding import whole
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
SHARDED: dict[str, Any] = {"ranks": 2, "sharding": "fsdp"}
# Trees and settings of updates that must come out as on one rank; starting ranks takes longer than
# an update, so they share theirs. With two trees, a minibatch has fewer than there are ranks.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "five trees": (5, {}),
    "two trees": (2, {}),
    "sharded": (5, SHARDED),
    "sharded, two trees": (2, {**SHARDED, "gradient_checkpointing": True}),
}
OTHER_DATA = "other data"
LORAS = {"full": None, "lora": {"rank": 4}}
SHARDINGS = (None, "fsdp")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 4))
def test_every_tree_goes_to_one_rank_and_no_rank_gets_much_more(
    sizes: list[int], ranks: int
) -> None:
    shares = share_out(np.array(sizes), range(len(sizes)), ranks)
    assert len(shares) == ranks
    assert sorted(tree for share in shares for tree in share) == list(range(len(sizes)))
    loads = [sum(sizes[tree] for tree in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


def made(trees: int, seed: int = 0) -> Batch:
    """A batch of trees of different sizes."""
    model, forest = tiny(), forking_forest(trees)
    forest = behaved(forest, flat_logprobs(plain(model), forest, 1.0), noise=0.1)
    value = np.random.default_rng(seed).normal(size=len(forest.leaves))
    return Batch(forest, with_values(forest, value), range(trees), 1.0, LIMIT)


def learn(
    seed: int = 0, trees: int = 5, **settings: Any
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics and weights after an update of two minibatches."""
    torch.set_num_threads(1)
    model = tiny()
    trainer = Trainer(model, UpdateParams(**{**SETTINGS, **settings}))
    metrics = trainer.update(made(trees, seed), seed=0)
    return metrics, {name: whole(weight.detach()) for name, weight in model.named_parameters()}


def learn_into(folder: Path, trees: int, seeds: list[int], settings: dict[str, Any]) -> None:
    """What each rank does; writes its outcome into the folder."""
    index = int(os.environ["RANK"])
    try:
        metrics, weights = learn(seeds[index], trees, **settings)
    except WorkError as error:
        (folder / f"{index}.error").write_text(str(error))
        return
    numbers = {f"metric {name}": torch.tensor(value) for name, value in metrics.items()}
    save_file({**weights, **numbers}, folder / f"{index}.safetensors")


def fail() -> None:
    raise ValueError("no luck")


def close(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], within: float = 1e-6
) -> None:
    """The same tensors, each within this share of its norm."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        difference = (found[name].double() - value.double()).norm()
        assert difference <= within * value.double().norm(), name


def learn_all(folder: Path) -> None:
    """Every case on this rank, and one in which the ranks are given different data."""
    for name, (trees, settings) in CASES.items():
        learn_into(folder / name, trees, [0, 0], settings)
    learn_into(folder / OTHER_DATA, 2, [0, 1], {})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks made of each case, in a folder of its name."""
    folder = tmp_path_factory.mktemp("learned")
    for name in (*CASES, OTHER_DATA):
        (folder / name).mkdir()
    launch(2, learn_all, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_make_the_update_of_one(learned: Path, case: str) -> None:
    metrics, weights = learn(trees=CASES[case][0])
    assert metrics["grad_norm"] > UpdateParams(**SETTINGS).gradient_clip
    moved = dict(tiny().named_parameters())
    for index in range(2):
        found = load_file(learned / case / f"{index}.safetensors")
        numbers = {name: found.pop(name) for name in list(found) if name.startswith("metric ")}
        assert not any(torch.equal(weight, moved[name]) for name, weight in weights.items())
        close(found, weights)
        for name, value in metrics.items():
            assert float(numbers[f"metric {name}"]) == pytest.approx(value, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_ranks_with_different_data_are_refused_on_every_rank(learned: Path) -> None:
    for index in range(2):
        message = (learned / OTHER_DATA / f"{index}.error").read_text()
        assert message == "update: rank 1 was given other data than rank 0"


@pytest.mark.slow
def test_a_rank_that_fails_says_why() -> None:
    with pytest.raises(WorkError, match="a rank failed: ValueError: no luck"):
        launch(2, fail)


def test_nobody_takes_the_port_where_ranks_will_meet() -> None:
    store = open_store("127.0.0.1")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", store.port))


def update(folder: Path, before: str, after: str, **settings: Any) -> Work:
    """The update of the policy in `before`; the one in `first` carries an adapter, if any."""
    params = UpdateParams(**{**SETTINGS, **settings})
    base = folder / "first" if params.lora else None
    places = (folder / before, folder / after, folder / f"{after}.json", base)
    return Work(made(5), params, "cpu", 0, *places)


def write_first(folder: Path) -> None:
    """A policy for updates to start from."""
    save_policy(Policy(tiny(), character_tokenizer()), folder / "first")


def same_policy(one: Path, two: Path) -> None:
    """Weights, optimizer and adapter; and what else is there, to the byte."""
    names = {str(f.relative_to(one)) for f in one.rglob("*") if f.is_file()}
    assert {str(f.relative_to(two)) for f in two.rglob("*") if f.is_file()} == names
    assert {"model.safetensors", STATE_FILE} <= names
    for name in names:
        if name.endswith(".safetensors"):
            # Moments are of single gradients and their squares, which float32 rounds to about 1e-6.
            within = 1e-5 if name == STATE_FILE else 1e-6
            close(load_file(two / name), load_file(one / name), within)
        else:
            assert (one / name).read_bytes() == (two / name).read_bytes()


def carry_out(works: list[Work]) -> None:
    """Several updates on this rank."""
    for work in works:
        work.do()


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LORA/one and LORA/two-SHARDING: the same step, by one rank and by two, after one by one."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("stepped")
    works: list[Work] = []
    for name, lora in LORAS.items():
        folder = root / name
        folder.mkdir()
        write_first(folder)
        update(folder, "first", "second", lora=lora).do()
        update(folder, "second", "one", lora=lora).do()
        for sharding in SHARDINGS:
            settings: dict[str, Any] = {"lora": lora, "ranks": 2, "sharding": sharding}
            works.append(update(folder, "second", f"two-{sharding}", **settings))
    launch(2, carry_out, works)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("lora", LORAS)
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_step_on_two_ranks_takes_and_leaves_what_one_does(
    stepped: Path, sharding: str | None, lora: str
) -> None:
    """The step before was made by one rank, and so is the step after.

    There only weights are compared: both start from what rounding has set apart already.
    """
    folder, two = stepped / lora, f"two-{sharding}"
    expected = json.loads((folder / "one.json").read_text())
    assert expected["steps"] == 2
    found = json.loads((folder / f"{two}.json").read_text())
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    same_policy(folder / "one", folder / two)
    for name in ("one", two):
        update(folder, name, f"after {name} {two}", lora=LORAS[lora]).do()
    weights = [load_file(folder / f"after {n} {two}/model.safetensors") for n in ("one", two)]
    close(weights[1], weights[0])


@pytest.mark.slow
def test_updates_run_under_torchrun(tmp_path: Path) -> None:
    write_first(tmp_path)
    torch.set_num_threads(1)
    update(tmp_path, "first", "one").do()
    script = [str(Path(__file__).with_name("update_under_torchrun.py")), str(tmp_path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, *script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split()) == ["0:2", "1:2"]
    for sharding in SHARDINGS:
        same_policy(tmp_path / "one", tmp_path / f"two-{sharding}")
