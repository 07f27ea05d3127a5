from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from forests import forests, large_forest, scored_forests, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.advantages import (
    EPSILON,
    ESTIMATORS,
    Advantages,
    compute,
    entries,
    group_means,
    grpo,
    informative,
    treepo,
    whiten,
)
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.schemas import check_advantages, check_advantages_match
from treepo.tree import Node, Segment, Tree

Array = np.ndarray
WHERE = "it/advantages.parquet"
# Quarters, so that rewards differ clearly or not at all.
REAL = st.integers(-12, 12).map(lambda number: number / 4)


def trajectories(forest: Forest) -> list[list[int]]:
    """Rows from the root to each leaf, read from the raw columns."""
    row_of = {
        (int(tree), int(node)): row
        for row, (tree, node) in enumerate(zip(forest.tree, forest.node, strict=True))
    }
    result: list[list[int]] = []
    for leaf in range(len(forest)):
        if forest.finish[leaf] is None:
            continue
        path = [leaf]
        while forest.parent[path[0]] >= 0:
            path.insert(0, row_of[int(forest.tree[leaf]), int(forest.parent[path[0]])])
        result.append(path)
    return result


def treepo_by_sets(forest: Forest, rewards: Array) -> Array:
    """Eq. 5 as it is written: the set of leaves below each ancestor, one by one."""
    paths = trajectories(forest)
    result: list[float] = []
    for i, path in enumerate(paths):
        groups = [
            {k for k, other in enumerate(paths) if j < len(other) and other[j] == ancestor}
            for j, ancestor in enumerate(path)
        ]
        assert all(i in group for group in groups)
        counted = [group for j, group in enumerate(groups) if j == 0 or len(group) > 1]
        means = [sum(rewards[k] for k in group) / len(group) for group in counted]
        result.append(sum(rewards[i] - mean for mean in means) / len(means))
    return np.array(result)


def grpo_by_sets(forest: Forest, rewards: Array) -> Array:
    tree = [int(forest.tree[path[0]]) for path in trajectories(forest)]
    result: list[float] = []
    for i, reward in enumerate(rewards):
        group = [rewards[k] for k in range(len(rewards)) if tree[k] == tree[i]]
        mean = math.fsum(group) / len(group)
        std = math.sqrt(math.fsum((other - mean) ** 2 for other in group) / len(group))
        result.append((reward - mean) / std if max(group) > min(group) else 0.0)
    return np.array(result)


def flat_reference(forest: Forest, rewards: Array, params: AdvantageParams) -> list[float]:
    """One advantage a trajectory; the moments are taken over explicitly expanded flat arrays."""
    raw = ESTIMATORS.get(params.estimator)(forest, rewards)
    paths = trajectories(forest)
    kept: list[int] = []
    for i, path in enumerate(paths):
        of_tree = [rewards[k] for k, other in enumerate(paths) if other[0] == path[0]]
        if not params.query_filter or len(set(of_tree)) > 1:
            kept.append(i)
    flat: list[float] = []
    for i in kept:
        length = sum(int(forest.lengths[row]) for row in paths[i][1:])
        flat += [raw[i]] * (length if params.normalization == "tokens" else 1)
    mean, std = (np.mean(flat), np.std(flat)) if flat else (0.0, 1.0)
    if params.normalization == "none":
        mean, std = 0.0, 1.0 - EPSILON
    return [
        (value - mean) / (std + EPSILON) if i in kept else 0.0
        for i, value in enumerate(raw.tolist())
    ]


def per_trajectory(advantages: Advantages, count: int) -> list[set[float]]:
    values: list[set[float]] = [set() for _ in range(count)]
    for trajectory, value in zip(advantages.trajectory, advantages.value, strict=True):
        values[trajectory].add(float(value))
    return values


def example_tree() -> Forest:
    """A root that forks into a leaf and a node with two leaves: the docstring's example."""
    tree = Tree("a", [1], seed=0)
    tree.grow(tree.root, Segment([2, 3], [-1.0, -1.0]), 0).finish = "eos"
    inner = tree.grow(tree.root, Segment([4], [-1.0]), 1)
    for key in range(2):
        tree.grow(inner, Segment([5], [-1.0]), key).finish = "eos"
    return Forest.from_trees([tree])


@given(scored_forests(REAL))
@settings(max_examples=150, deadline=None)
def test_treepo_is_equation_5(scored: tuple[Forest, Array]) -> None:
    np.testing.assert_allclose(treepo(*scored), treepo_by_sets(*scored), atol=1e-12)


@given(scored_forests(REAL))
@settings(max_examples=150, deadline=None)
def test_grpo_is_the_standardised_reward(scored: tuple[Forest, Array]) -> None:
    np.testing.assert_allclose(grpo(*scored), grpo_by_sets(*scored), rtol=1e-6, atol=1e-9)


def test_grpo_is_zero_where_the_deviation_underflows() -> None:
    forest = large_forest(count=1, width=2, depth=1, segment=1)
    assert grpo(forest, np.array([0.0, 5e-324])).tolist() == [0.0, 0.0]


def test_examples_of_the_docstrings() -> None:
    forest = example_tree()
    expected = [-1 / 3, 7 / 12, -5 / 12]
    np.testing.assert_allclose(treepo(forest, np.array([0.0, 1.0, 0.0])), expected, atol=1e-15)
    flat = large_forest(count=1, width=4, depth=1, segment=3)
    root3 = math.sqrt(3)
    np.testing.assert_allclose(
        grpo(flat, np.array([1.0, 0.0, 0.0, 0.0])), [root3, *[-1 / root3] * 3], atol=1e-15
    )


def test_a_chain_counts_the_same_leaves_once_a_depth() -> None:
    """A node between the root and a fork adds a group at its own depth, equal to the root's."""
    tree = Tree("a", [1], seed=0)
    chain = tree.grow(tree.root, Segment([2], [-1.0]), 0)
    fork = tree.grow(chain, Segment([3], [-1.0]), 0)
    for key in range(2):
        tree.grow(fork, Segment([4], [-1.0]), key).finish = "eos"
    tree.grow(tree.root, Segment([5], [-1.0]), 1).finish = "eos"
    forest = Forest.from_trees([tree])
    # Groups of the first: root (mean 1/3), chain (1/2), fork (1/2); the leaf's own is skipped.
    expected = [(2 / 3 + 1 / 2 + 1 / 2) / 3, (-1 / 3 - 1 / 2 - 1 / 2) / 3, -1 / 3]
    np.testing.assert_allclose(treepo(forest, np.array([1.0, 0.0, 0.0])), expected, atol=1e-15)


def test_a_lone_trajectory_counts_its_root_group() -> None:
    forest = large_forest(count=1, width=1, depth=3, segment=2)
    assert treepo(forest, np.array([0.7])).tolist() == [0.0]


@pytest.mark.parametrize("depth", [1, 4])
def test_treepo_without_shared_segments_is_reward_minus_mean(depth: int) -> None:
    forest = large_forest(count=3, width=5, depth=depth, segment=2)
    rewards = np.random.default_rng(0).normal(size=15)
    expected = rewards - np.repeat(rewards.reshape(3, 5).mean(axis=1), 5)
    np.testing.assert_allclose(treepo(forest, rewards), expected, atol=1e-14)


@given(forests(), st.sampled_from(sorted(ESTIMATORS)), REAL, st.booleans())
@settings(max_examples=60, deadline=None)
def test_constant_rewards_give_zero(
    forest: Forest, estimator: str, reward: float, query_filter: bool
) -> None:
    params = AdvantageParams(estimator=estimator, query_filter=query_filter)
    value = compute(forest, np.full(len(forest.leaves), reward), params).value
    # Without the filter, whitening divides rounding errors of 1e-16 by EPSILON = 1e-8.
    np.testing.assert_allclose(value, 0, atol=0 if query_filter else 1e-6)


def shuffle_children(tree: Tree, random: Any) -> None:
    for node in tree.nodes():
        random.shuffle(node.children)


@given(
    st.lists(trees(), min_size=1, max_size=3),
    st.data(),
    st.sampled_from(sorted(ESTIMATORS)),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_permuted_siblings_permute_the_advantages(
    grown: list[Tree], data: st.DataObject, estimator: str, random: Any
) -> None:
    params = AdvantageParams(estimator=estimator)
    leaves = [leaf for tree in grown for leaf in tree.leaves()]
    reward = {id(leaf): data.draw(st.sampled_from([0.0, 0.5, 1.0])) for leaf in leaves}

    def advantage_of(order: list[Node]) -> dict[int, float]:
        rewards = np.array([reward[id(leaf)] for leaf in order])
        advantages = compute(Forest.from_trees(grown), rewards, params)
        values = per_trajectory(advantages, len(order))
        return {id(leaf): value for leaf, (value,) in zip(order, values, strict=True)}

    before = advantage_of(leaves)
    for tree in grown:
        shuffle_children(tree, random)
    after = advantage_of([leaf for tree in grown for leaf in tree.leaves()])
    assert after == pytest.approx(before, abs=1e-6)


@given(
    scored_forests(),
    st.sampled_from(sorted(ESTIMATORS)),
    st.sampled_from(["tokens", "trajectories", "none"]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_normalisation_is_that_of_the_flat_batch(
    scored: tuple[Forest, Array], estimator: str, normalization: Any, query_filter: bool
) -> None:
    forest, rewards = scored
    params = AdvantageParams(
        estimator=estimator, normalization=normalization, query_filter=query_filter
    )
    advantages = compute(forest, rewards, params)
    values = per_trajectory(advantages, len(rewards))
    assert all(len(distinct) == 1 for distinct in values)
    expected = flat_reference(forest, rewards, params)
    np.testing.assert_allclose([value for (value,) in values], expected, rtol=1e-9, atol=1e-6)


@given(scored_forests(), scored_forests(st.just(1.0)), st.sampled_from(sorted(ESTIMATORS)))
@settings(max_examples=60, deadline=None)
def test_uninformative_trees_are_zero_and_move_nothing(
    scored: tuple[Forest, Array], idle: tuple[Forest, Array], estimator: str
) -> None:
    """Adding trees whose rewards are all 1 leaves the others' advantages alone."""
    forest, rewards = scored
    both = joined(forest, idle[0])
    params = AdvantageParams(estimator=estimator, query_filter=True)
    alone = compute(forest, rewards, params)
    together = compute(both, np.concatenate([rewards, idle[1]]), params)
    added = together.trajectory >= len(rewards)
    assert not together.value[added].any()
    np.testing.assert_allclose(together.value[~added], alone.value, rtol=1e-12, atol=1e-12)
    assert not informative(idle[0], idle[1]).any()


def joined(first: Forest, second: Forest) -> Forest:
    columns = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(Forest)
        if field.name not in ("tree", "offsets")
    }
    tree = np.concatenate([first.tree, second.tree + first.trees])
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return Forest(tree=tree, offsets=offsets, **columns)


@given(scored_forests(REAL))
@settings(max_examples=60, deadline=None)
def test_node_sums_and_group_means_against_loops(scored: tuple[Forest, Array]) -> None:
    forest, rewards = scored
    advantages = compute(forest, rewards, AdvantageParams(query_filter=False))
    paths = trajectories(forest)
    value = [next(iter(values)) for values in per_trajectory(advantages, len(paths))]
    positive, negative = advantages.of_nodes(forest)
    means = group_means(forest, rewards)
    for row in range(len(forest)):
        through = [i for i, path in enumerate(paths) if row in path]
        below_root = through if forest.parent[row] >= 0 else []
        assert positive[row] == pytest.approx(sum(max(value[i], 0) for i in below_root))
        assert negative[row] == pytest.approx(sum(min(value[i], 0) for i in below_root))
        assert means[row] == pytest.approx(np.mean([rewards[i] for i in through]))


@given(scored_forests(REAL), st.sampled_from(sorted(ESTIMATORS)))
@settings(max_examples=60, deadline=None)
def test_tables_pass_their_checks_and_come_back(
    scored: tuple[Forest, Array], estimator: str
) -> None:
    forest, rewards = scored
    advantages = compute(forest, rewards, AdvantageParams(estimator=estimator))
    table = check_advantages(advantages.to_arrow(forest, estimator), WHERE)
    assert check_advantages_match(table, forest, WHERE).equals(table)
    assert set(table["estimator"].to_pylist()) == {estimator}
    again = Advantages.from_arrow(table, forest)
    np.testing.assert_array_equal(again.trajectory, advantages.trajectory)
    np.testing.assert_array_equal(again.row, advantages.row)
    np.testing.assert_array_equal(again.value, advantages.value.astype(np.float32))
    paths = [forest.node[path[1:]].tolist() for path in trajectories(forest)]
    assert table["path"].to_pylist() == paths


def test_unknown_estimator_names_the_nearest() -> None:
    params = AdvantageParams(estimator="treeppo")
    with pytest.raises(UserError, match=r"^advantage\.estimator: .*'treeppo'.*'treepo'\?$"):
        compute(example_tree(), np.zeros(3), params)
    with pytest.raises(UserError, match="there are: treepo, grpo"):
        ESTIMATORS.get("zzzzzz")


@pytest.mark.parametrize("normalization", ["tokens", "trajectories", "none"])
def test_no_trees_give_no_advantages(normalization: Any) -> None:
    forest = Forest.from_trees([])
    for estimator in ESTIMATORS:
        params = AdvantageParams(estimator=estimator, normalization=normalization)
        assert len(compute(forest, np.zeros(0), params).value) == 0


def test_whitening_has_zero_mean_and_unit_deviation_under_its_weight() -> None:
    random = np.random.default_rng(0)
    value, weight = random.normal(size=50), random.integers(0, 4, 50)
    white = np.repeat(whiten(value, weight), weight)
    assert white.mean() == pytest.approx(0, abs=1e-12)
    assert white.std() == pytest.approx(1, abs=1e-6)
    assert whiten(value, np.zeros(50)).tolist() == value.tolist()


def test_eight_thousand_trajectories() -> None:
    forest = large_forest(count=512, width=16, depth=14, segment=2)
    rewards = np.random.default_rng(0).integers(0, 2, 8192).astype(np.float64)
    advantages = compute(forest, rewards, AdvantageParams())
    assert len(advantages.value) == len(entries(forest)[1]) == 8192 * 14
    assert np.isfinite(advantages.value).all()
    table = advantages.to_arrow(forest, "treepo")
    assert table.num_rows == 8192
    assert check_advantages_match(check_advantages(table, WHERE), forest, WHERE).equals(table)
