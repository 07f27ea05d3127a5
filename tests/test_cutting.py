"""Trees beyond the budget: the same trajectories, loss and gradients, and the fewest repeats."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from forests import forests
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import SIZE, gradients, tiny
from torch import Tensor

from treepo.advantages import Advantages
from treepo.batch import Batch
from treepo.cutting import cut
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.models import initial_policy
from treepo.objective.weighting import token_mean
from treepo.packing import pack, tree_tokens
from treepo.params import UpdateParams
from treepo.schemas import check_forest
from treepo.trainer import Trainer
from treepo.tree import Segment, Tree


def longest(forest: Forest) -> int:
    """Tokens of the longest trajectory, prompt included."""
    return int((forest.start + forest.lengths)[forest.leaves].max())


def union(forest: Forest, leaves: range) -> int:
    """Unique tokens of these trajectories of one tree, prompt included."""
    rows = {int(row) for leaf in leaves for row in forest.paths[leaf]}
    return int(forest.lengths[0] + sum(forest.lengths[row] for row in rows))


@given(forests(max_segments=10), st.integers(0, 12))
@settings(max_examples=80)
def test_the_trajectories_stay_and_every_tree_fits(forest: Forest, slack: int) -> None:
    budget = longest(forest) + slack
    pieces = cut(forest, budget, range(forest.trees))
    after = pieces.forest
    check_forest(after.to_arrow(), "cut")
    assert (tree_tokens(after) <= budget).all()
    for one, other in zip(after.responses(), forest.responses(), strict=True):
        assert one.tolist() == other.tolist()
    assert after.trajectory_tokens == forest.trajectory_tokens
    assert pieces.repeated_tokens == len(after.tokens) - len(forest.tokens)
    assert (
        after.tokens.tolist()
        == np.concatenate([forest.node_tokens(row) for row in pieces.row]).tolist()
    )
    whole = tree_tokens(forest) <= budget
    assert (np.bincount(pieces.tree)[whole] == 1).all()
    assert (np.bincount(pieces.tree)[~whole] > 1).all()
    assert (after.entries[0] == forest.entries[0]).all()
    assert (pieces.row[after.entries[1]] == forest.entries[1]).all()


@given(forests(max_trees=1, max_segments=9), st.integers(0, 8))
@settings(max_examples=60)
def test_no_cut_between_neighbours_repeats_less(forest: Forest, slack: int) -> None:
    budget = longest(forest) + slack
    leaves = len(forest.leaves)
    totals: list[int] = []
    for count in range(leaves):
        for cuts in combinations(range(1, leaves), count):
            edges = [0, *cuts, leaves]
            runs = [union(forest, range(*edge)) for edge in pairwise(edges)]
            if max(runs) <= budget:
                totals.append(sum(runs))
    assert len(cut(forest, budget, [0]).forest.tokens) == min(totals)


def outcome(batch: Batch, params: UpdateParams, cut_it: bool) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of all trees, whole or cut."""
    model = tiny().double()
    trainer: Any = Trainer(model, params)
    if cut_it:
        batch = batch.cut(cut(batch.forest, params.micro_batch_tokens, batch.trees))
        assert (tree_tokens(batch.forest) <= params.micro_batch_tokens).all()
    found = trainer._gradients(batch, list(batch.trees), check=False).result()
    return found["loss"], gradients(model)


@pytest.mark.parametrize("objective", ["dapo", "grpo", "gspo"])
@given(forests(max_segments=10), st.integers(0, 99))
@settings(max_examples=10)
def test_loss_and_gradients_are_those_of_the_whole_trees(
    objective: str, forest: Forest, seed: int
) -> None:
    """With a reference and the trainer's own old logprobs, which are cut along."""
    random = np.random.default_rng(seed)
    trajectory, row = forest.entries
    advantages = Advantages(trajectory, row, random.normal(size=len(row)))
    old, reference = random.normal(-2, 0.2, (2, len(forest.tokens)))
    whole = Batch(forest, advantages, range(forest.trees), 1.0, 40, old, reference)
    params = UpdateParams(
        objective=objective,
        kl_coefficient=0.1,
        importance_cap=2.0,
        micro_batch_tokens=longest(forest),
    )
    expected, wanted = outcome(whole, params, cut_it=False)
    loss, got = outcome(whole, params, cut_it=True)
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-9)
    largest = max(float(grad.norm()) for grad in wanted.values())
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, rtol=0, atol=1e-6 * largest)


def forked() -> Forest:
    """One prompt of 3 tokens, 4 trajectories of 2 + 2 tokens: 15 unique tokens, 28 flat."""
    tree = Tree("p7", [1, 2, 3], seed=0)
    for branch in range(2):
        inner = tree.grow(tree.root, Segment([4 + branch, 6], [-1.0] * 2), branch)
        for leaf in range(2):
            tree.grow(inner, Segment([8 + leaf, 5], [-1.0] * 2), leaf).finish = "eos"
    return Forest.from_trees([tree])


def test_the_trainer_counts_what_it_repeats_and_learns_the_same() -> None:
    after: list[list[Tensor]] = []
    for budget, repeated in ((15, 0), (9, 3), (7, 13)):
        model, forest = initial_policy(SIZE, seed=0).model, forked()
        trajectory, row = forest.entries
        value = np.array([1.0, -1.0, 0.5, -0.5])[trajectory]
        params = UpdateParams(
            learning_rate=1e-2, warm_up_steps=0, micro_batch_tokens=budget, mismatch_limit=None
        )
        batch = Batch(forest, Advantages(trajectory, row, value), [0], 1.0, token_limit=40)
        metrics = Trainer(model, params).update(batch, seed=0)
        assert metrics["repeated_tokens"] == repeated
        after.append([value.detach() for value in model.parameters()])
    for other in after[1:]:
        for one, two in zip(after[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_a_trajectory_beyond_the_budget_names_the_parameter() -> None:
    with pytest.raises(UserError, match=r"update\.micro_batch_tokens: 6, .*'p7' has 7 tokens"):
        cut(forked(), 6, [0])


@given(forests(max_segments=10), st.data())
def test_trees_that_are_not_asked_for_stay_whole_however_long(
    forest: Forest, data: st.DataObject
) -> None:
    chosen = sorted(data.draw(st.sets(st.integers(0, forest.trees - 1), min_size=1)))
    alone = Forest.from_trees(tree for at, tree in enumerate(forest.to_trees()) if at in chosen)
    budget = longest(alone)
    pieces = cut(forest, budget, chosen)
    counts = np.bincount(pieces.tree, minlength=forest.trees)
    assert (np.delete(counts, chosen) == 1).all()
    repeated = cut(alone, budget, range(alone.trees)).repeated_tokens
    assert pieces.repeated_tokens == repeated


def put_in() -> Forest:
    """Two branches, each with three tokens that were put in, and then two leaves."""
    tree = Tree("p7", [1, 2], seed=0)
    for branch in range(2):
        node = tree.grow(tree.root, Segment([3 + branch, 4], [-1.0] * 2), branch)
        node = tree.force(node, [7, 8, 9])
        for leaf in range(2):
            tree.grow(node, Segment([5 + leaf], [-1.0]), leaf).finish = "eos"
    return Forest.from_trees([tree])


def test_what_was_put_in_is_no_target_of_any_part() -> None:
    forest = put_in()
    pieces = cut(forest, 9, [0])
    assert pieces.forest.trees == 2
    assert pieces.forest.forced.tolist() == forest.forced[pieces.row].tolist()
    assert pieces.forest.trajectory_tokens == forest.trajectory_tokens
    for part in range(2):
        assert len(pack(pieces.forest, [part]).target) == 4


def test_tokens_that_were_put_in_have_no_share_of_the_loss() -> None:
    forest = put_in()
    trajectory, row = forest.entries
    batch = Batch(forest, Advantages(trajectory, row, np.ones(len(row))), [0], 1.0, 40)
    sampled = 4 * 3
    assert batch.shares([0], token_mean).tolist() == [1 / sampled] * 4
