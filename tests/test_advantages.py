"""Advantages of a whole forest: query filter, normalisation, and their table."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from forests import forests, large_forest, scored_forests
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.advantages import (
    EPSILON,
    ESTIMATORS,
    Advantages,
    compute,
    group_means,
    informative,
    kept_trees,
    whiten,
)
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.schemas import check_advantages, check_advantages_match

Array = np.ndarray
WHERE = "it/advantages.parquet"
NAMES = sorted(ESTIMATORS)
NORMALIZATIONS = ["tokens", "trajectories", "none"]
# Quarters, so that rewards differ clearly or not at all.
REAL = st.integers(-12, 12).map(lambda number: number / 4)


def computed(forest: Forest, rewards: Array, **settings: Any) -> Advantages:
    return compute(forest, rewards, rewards, AdvantageParams(**settings))


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


def flat_reference(forest: Forest, rewards: Array, params: AdvantageParams) -> list[list[float]]:
    """Values of each trajectory's segments; the moments are taken over expanded flat arrays."""
    paths = trajectories(forest)
    estimates = iter(ESTIMATORS.get(params.estimator)(forest, rewards, params).tolist())
    raw = [[next(estimates) for _ in path[1:]] for path in paths]
    kept: list[int] = []
    for i, path in enumerate(paths):
        of_tree = [rewards[k] for k, other in enumerate(paths) if other[0] == path[0]]
        if not params.query_filter or len(set(of_tree)) > 1:
            kept.append(i)
    flat: list[float] = []
    weight: list[float] = []
    for i in kept:
        for row, value in zip(paths[i][1:], raw[i], strict=True):
            copies = int(forest.lengths[row]) if params.normalization == "tokens" else 1
            flat += [value] * copies
            by_tokens = params.normalization == "tokens"
            weight += [1.0 if by_tokens else 1 / len(raw[i])] * copies
    mean, std = 0.0, 1.0 - EPSILON
    if params.normalization != "none" and flat:
        mean = float(np.average(flat, weights=weight))
        std = float(np.sqrt(np.average((np.array(flat) - mean) ** 2, weights=weight)))
    return [
        [(value - mean) / (std + EPSILON) if i in kept else 0.0 for value in values]
        for i, values in enumerate(raw)
    ]


@given(scored_forests(), st.sampled_from(NAMES), st.sampled_from(NORMALIZATIONS), st.booleans())
@settings(max_examples=200)
def test_normalisation_is_that_of_the_flat_batch(
    scored: tuple[Forest, Array], estimator: str, normalization: Any, query_filter: bool
) -> None:
    forest, rewards = scored
    params = AdvantageParams(
        estimator=estimator, normalization=normalization, query_filter=query_filter
    )
    value = compute(forest, rewards, rewards, params).value
    expected = [value for path in flat_reference(forest, rewards, params) for value in path]
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-6)


@given(scored_forests(), scored_forests(st.just(1.0)), st.sampled_from(NAMES))
@settings(max_examples=60)
def test_uninformative_trees_are_zero_and_move_nothing(
    scored: tuple[Forest, Array], idle: tuple[Forest, Array], estimator: str
) -> None:
    """Adding trees of other prompts whose rewards are all 1 leaves the others' advantages alone."""
    forest, rewards = scored
    both = joined(forest, replace(idle[0], prompt_id=idle[0].prompt_id + "'"))
    alone = computed(forest, rewards, estimator=estimator)
    together = computed(both, np.concatenate([rewards, idle[1]]), estimator=estimator)
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


def test_the_query_filter_looks_at_the_outcome_not_at_the_shaped_reward() -> None:
    forest = large_forest(count=3, width=2, depth=2, segment=2)
    shaped = np.array([1.0, 0.7, 1.0, 0.0, -0.2, 0.0])
    correct = np.array([True, True, True, False, False, False])
    params = AdvantageParams(estimator="dr_grpo", normalization="none")
    value = compute(forest, shaped, correct, params).value.reshape(3, 2, 2)
    assert kept_trees(forest, correct, params).tolist() == [False, True, False]
    assert not value[[0, 2]].any()
    np.testing.assert_allclose(value[1], [[0.5, 0.5], [-0.5, -0.5]])
    every = compute(forest, shaped, correct, params.model_copy(update={"query_filter": False}))
    np.testing.assert_allclose(every.value[:4], [0.15, 0.15, -0.15, -0.15])


@given(forests())
@settings(max_examples=60)
def test_entries_and_paths_against_loops(forest: Forest) -> None:
    paths = [path[1:] for path in trajectories(forest)]
    assert [path.tolist() for path in forest.paths] == paths
    trajectory, row = forest.entries
    expected = [(i, row) for i, path in enumerate(paths) for row in path]
    assert list(zip(trajectory.tolist(), row.tolist(), strict=True)) == expected


@given(scored_forests(REAL))
@settings(max_examples=60)
def test_group_means_against_loops(scored: tuple[Forest, Array]) -> None:
    forest, rewards = scored
    means = group_means(forest, rewards)
    for row in range(len(forest)):
        through = [i for i, path in enumerate(trajectories(forest)) if row in path]
        assert means[row] == pytest.approx(np.mean([rewards[i] for i in through]))


@given(scored_forests(REAL), st.sampled_from(NAMES))
@settings(max_examples=60)
def test_tables_pass_their_checks_and_come_back(
    scored: tuple[Forest, Array], estimator: str
) -> None:
    forest, rewards = scored
    advantages = computed(forest, rewards, estimator=estimator)
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
    forest = large_forest(count=1, width=2, depth=1, segment=1)
    with pytest.raises(UserError, match=r"^advantage\.estimator: .*'treeppo'.*'treepo'\?$"):
        computed(forest, np.zeros(2), estimator="treeppo")
    with pytest.raises(UserError, match=r"there are: .*treepo, treepo_size_weighted"):
        ESTIMATORS.get("zzzzzz")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_no_trees_give_no_advantages(normalization: Any) -> None:
    forest = Forest.from_trees([])
    for estimator in ESTIMATORS:
        found = computed(forest, np.zeros(0), estimator=estimator, normalization=normalization)
        assert len(found.value) == 0


def test_whitening_has_zero_mean_and_unit_deviation_under_its_weight() -> None:
    random = np.random.default_rng(0)
    value, weight = random.normal(size=50), random.integers(0, 4, 50)
    white = np.repeat(whiten(value, weight), weight)
    assert white.mean() == pytest.approx(0, abs=1e-12)
    assert white.std() == pytest.approx(1, abs=1e-6)
    assert whiten(value, np.zeros(50)).tolist() == value.tolist()


@pytest.mark.parametrize("estimator", NAMES)
def test_eight_thousand_trajectories(estimator: str) -> None:
    forest = large_forest(count=512, width=16, depth=14, segment=2)
    rewards = np.random.default_rng(0).integers(0, 2, 8192).astype(np.float64)
    advantages = computed(forest, rewards, estimator=estimator)
    assert len(advantages.value) == 8192 * 14
    assert np.isfinite(advantages.value).all()
    table = advantages.to_arrow(forest, estimator)
    assert table.num_rows == 8192
    assert check_advantages_match(check_advantages(table, WHERE), forest, WHERE).equals(table)
