"""Every advantage estimator: its docstring's example, a brute force, and what must hold for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from forests import forests, large_forest, scored_forests, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.advantages import ESTIMATORS, compute
from treepo.advantages.flat import grpo
from treepo.advantages.nested import treepo
from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.tree import Node, Segment, Tree

Array = np.ndarray
NAMES = sorted(ESTIMATORS)
# Quarters, so that rewards differ clearly or not at all.
REAL = st.integers(-12, 12).map(lambda number: number / 4)
ROOT2, ROOT3 = math.sqrt(2), math.sqrt(3)


def estimate(name: str, forest: Forest, rewards: Sequence[float] | Array, **settings: Any) -> Array:
    params = AdvantageParams(estimator=name, **settings)
    return ESTIMATORS.get(name)(forest, np.array(rewards, dtype=np.float64), params)


def example_tree(prompt_id: str = "a") -> Tree:
    """A root that forks into a leaf and a node with two leaves: the docstrings' example."""
    tree = Tree(prompt_id, [1], seed=0)
    tree.grow(tree.root, Segment([2, 3], [-1.0, -1.0]), 0).finish = "eos"
    inner = tree.grow(tree.root, Segment([4], [-1.0]), 1)
    for key in range(2):
        tree.grow(inner, Segment([5], [-1.0]), key).finish = "eos"
    return tree


# Rewards of a, b and c; values of the entries (a), (m, b), (m, c).
EXAMPLES: dict[str, tuple[list[float], list[float]]] = {
    "treepo": ([0, 1, 0], [-1 / 3, 7 / 12, 7 / 12, -5 / 12, -5 / 12]),
    "treepo_size_weighted": ([0, 1, 0], [-1 / 3, 3 / 5, 3 / 5, -2 / 5, -2 / 5]),
    "subgroup_rejection": ([0, 1, 1], [-2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3]),
    "no_root": ([0, 1, 0], [0, 1 / 2, 1 / 2, -1 / 2, -1 / 2]),
    "treepo_segment": ([0, 1, 0], [-1 / 4, 1 / 12, 5 / 12, 1 / 12, -5 / 12]),
    "spo_tree": ([0, 1, 0], [-1, 1, 0, 1, -2]),
    "treerl": ([0, 1, 0], [-2 / 3, 1 / (3 * ROOT2), 7 / 6, 1 / (3 * ROOT2), -5 / 6]),
    "grpo": ([0, 1, 0], [-1 / ROOT2, ROOT2, ROOT2, -1 / ROOT2, -1 / ROOT2]),
    "dr_grpo": ([0, 1, 0], [-1 / 3, 2 / 3, 2 / 3, -1 / 3, -1 / 3]),
    "rloo": ([0, 1, 0], [-1 / 2, 1, 1, -1 / 2, -1 / 2]),
    "reinforce_pp_baseline": ([0, 1, 0], [-1 / 3, 2 / 3, 2 / 3, -1 / 3, -1 / 3]),
    "tree_grpo": ([0, 1, 0], [-ROOT2, 2 * ROOT2, 2 * ROOT2, -ROOT2, -ROOT2]),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_docstrings_example(name: str) -> None:
    rewards, expected = EXAMPLES[name]
    forest = Forest.from_trees([example_tree()])
    np.testing.assert_allclose(estimate(name, forest, rewards), expected, atol=1e-15)


def test_the_docstrings_other_examples() -> None:
    one = Forest.from_trees([example_tree()])
    got = estimate("treepo_segment", one, [0, 1, 0], eta=0.5)
    np.testing.assert_allclose(got, [-1 / 4, 1 / 12, 11 / 24, 1 / 12, -3 / 8], atol=1e-15)
    two = Forest.from_trees([example_tree(), example_tree()])
    low, high, rest = -1 / ROOT2 - ROOT2, ROOT2 + 1 / ROOT2, 1 / ROOT2
    expected = [low, high, high, low, low, *[rest] * 5]
    np.testing.assert_allclose(estimate("tree_grpo", two, [0, 1, 0, 1, 1, 1]), expected, atol=1e-15)


def test_every_estimator_says_what_it_is_and_has_an_example() -> None:
    lines = dict(ESTIMATORS.describe())
    assert set(lines) == set(EXAMPLES) == set(BRUTE)
    assert all(line.endswith(".") for line in lines.values())


# Brute force: every definition as it is written, over sets of trajectories, one entry at a time.


@dataclass(frozen=True)
class Written:
    """A forest as paths of rows from the root to each leaf, read from the raw columns."""

    paths: list[list[int]]
    prompts: list[str]
    rewards: list[Fraction]

    def below(self, row: int) -> list[int]:
        return [i for i, path in enumerate(self.paths) if row in path]

    def tree(self, i: int) -> list[int]:
        return self.below(self.paths[i][0])

    def mean(self, group: Sequence[int]) -> Fraction:
        return sum((self.rewards[i] for i in group), Fraction(0)) / len(group)

    def children(self, row: int) -> list[int]:
        followers = [path[path.index(row) + 1 :][:1] for path in self.paths if row in path]
        return sorted({after[0] for after in followers if after})

    def parent(self, row: int) -> int:
        path = next(path for path in self.paths if row in path)
        return path[path.index(row) - 1]


def written(forest: Forest, rewards: Array) -> Written:
    row_of = {
        (int(tree), int(node)): row
        for row, (tree, node) in enumerate(zip(forest.tree, forest.node, strict=True))
    }
    paths: list[list[int]] = []
    for leaf in range(len(forest)):
        if forest.finish[leaf] is None:
            continue
        path = [leaf]
        while forest.parent[path[0]] >= 0:
            path.insert(0, row_of[int(forest.tree[leaf]), int(forest.parent[path[0]])])
        paths.append(path)
    prompts = [str(forest.prompt_id[path[-1]]) for path in paths]
    return Written(paths, prompts, [Fraction(float(reward)) for reward in rewards])


def z_score(values: Sequence[Fraction], value: Fraction) -> float:
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((other - mean) ** 2 for other in values), Fraction(0)) / len(values)
    return float(value - mean) / math.sqrt(variance) if variance else 0.0


def weighted_groups(
    w: Written, i: int, weight: Callable[[list[int], int], int], own: bool = False
) -> Fraction:
    """sum_j weight (R_i - mean of G_j) / sum_j weight; `own`: the group of one counts too."""
    groups = [w.below(row) for row in w.paths[i]]
    pairs = [
        (weight(group, j), w.rewards[i] - w.mean(group))
        for j, group in enumerate(groups)
        if j == 0 or len(group) > 1 or own
    ]
    total = sum(share for share, _ in pairs)
    return (
        sum((share * gain for share, gain in pairs), Fraction(0)) / total if total else Fraction()
    )


def tree_mean(w: Written, row: int, leaf: Callable[[int], Fraction]) -> Fraction:
    """V of a node: a leaf's own, else the mean of its children's."""
    children = w.children(row)
    if not children:
        return leaf(w.below(row)[0])
    return sum((tree_mean(w, child, leaf) for child in children), Fraction(0)) / len(children)


def segment_brute(w: Written, i: int, row: int, eta: Fraction | None = None) -> float:
    def value(at: int) -> Fraction:
        if at == w.paths[i][0]:
            return Fraction(0)
        sizes = lambda group, _: len(group)  # noqa: E731
        return tree_mean(w, at, lambda leaf: weighted_groups(w, leaf, sizes, own=True))

    place, count = w.paths[i].index(row), len(w.paths[i]) - 1
    k = Fraction(1) if eta is None else eta ** (count + 1 - place)
    return float(value(row) - k * value(w.parent(row)))


def spo_brute(w: Written, i: int, row: int) -> float:
    def value(at: int) -> float:
        if at == w.paths[i][0]:
            return 0.0
        siblings = [tree_mean(w, s, lambda leaf: w.rewards[leaf]) for s in w.children(w.parent(at))]
        own = tree_mean(w, at, lambda leaf: w.rewards[leaf])
        return z_score(siblings, own) if len(siblings) > 1 else float(own)

    return value(row) - value(w.parent(row))


def treerl_brute(w: Written, i: int, row: int) -> float:
    here, above, top = (w.mean(w.below(at)) for at in (row, w.parent(row), w.paths[i][0]))
    return float((here - top) + (here - above)) / math.sqrt(len(w.below(row)))


def rloo_brute(w: Written, i: int, _: int) -> float:
    others = [k for k in w.tree(i) if k != i]
    return float(w.rewards[i] - w.mean(others)) if others else 0.0


def grpo_brute(w: Written, i: int, _: int) -> float:
    return z_score([w.rewards[k] for k in w.tree(i)], w.rewards[i])


def tree_grpo_brute(w: Written, i: int, row: int) -> float:
    same = [w.rewards[k] for k in range(len(w.paths)) if w.prompts[k] == w.prompts[i]]
    return grpo_brute(w, i, row) + z_score(same, w.rewards[i])


def less_the_mean(w: Written, i: int, _: int) -> float:
    return float(w.rewards[i] - w.mean(w.tree(i)))


def rejecting(w: Written) -> Callable[[list[int], int], int]:
    return lambda group, _: int(len({w.rewards[k] for k in group}) > 1)


BRUTE: dict[str, Callable[[Written, int, int], float]] = {
    "treepo": lambda w, i, _: float(weighted_groups(w, i, lambda group, j: 1)),
    "treepo_size_weighted": lambda w, i, _: float(
        weighted_groups(w, i, lambda group, j: len(group))
    ),
    "subgroup_rejection": lambda w, i, _: float(weighted_groups(w, i, rejecting(w))),
    "no_root": lambda w, i, _: float(weighted_groups(w, i, lambda group, j: int(j > 0))),
    "treepo_segment": segment_brute,
    "spo_tree": spo_brute,
    "treerl": treerl_brute,
    "grpo": grpo_brute,
    "dr_grpo": less_the_mean,
    "rloo": rloo_brute,
    "reinforce_pp_baseline": less_the_mean,
    "tree_grpo": tree_grpo_brute,
}


@pytest.mark.parametrize("name", NAMES)
@given(scored=scored_forests(REAL))
@settings(max_examples=60)
def test_against_the_definition_as_written(name: str, scored: tuple[Forest, Array]) -> None:
    w = written(*scored)
    expected = [BRUTE[name](w, i, row) for i, path in enumerate(w.paths) for row in path[1:]]
    np.testing.assert_allclose(estimate(name, *scored), expected, rtol=1e-9, atol=1e-12)


@given(scored_forests(REAL), st.sampled_from([0.25, 0.5, 1.0]))
@settings(max_examples=60)
def test_eta_discounts_the_parent(scored: tuple[Forest, Array], eta: float) -> None:
    w = written(*scored)
    expected = [
        segment_brute(w, i, row, Fraction(eta))
        for i, path in enumerate(w.paths)
        for row in path[1:]
    ]
    got = estimate("treepo_segment", *scored, eta=eta)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    if eta == 1:
        np.testing.assert_array_equal(got, estimate("treepo_segment", *scored))


@given(forests(), st.sampled_from(NAMES), REAL, st.booleans())
@settings(max_examples=100)
def test_constant_rewards_give_zero(
    forest: Forest, name: str, reward: float, query_filter: bool
) -> None:
    """Also without the filter, but for an only child of `spo_tree`, which keeps its own value."""
    rewards = np.full(len(forest.leaves), reward)
    if name == "spo_tree" and not query_filter:
        forest, rewards = Forest.from_trees([example_tree()]), np.full(3, reward)
    params = AdvantageParams(estimator=name, query_filter=query_filter, normalization="none")
    value = compute(forest, rewards, rewards, params).value
    np.testing.assert_allclose(value, 0, atol=0 if query_filter else 1e-14)


@given(
    scored_forests(REAL),
    st.sampled_from([name for name in NAMES if name != "spo_tree"]),
    st.sampled_from([-8.0, 0.5, 64.0]),
)
@settings(max_examples=100)
def test_a_constant_added_to_all_rewards_changes_nothing(
    scored: tuple[Forest, Array], name: str, shift: float
) -> None:
    forest, rewards = scored
    moved = estimate(name, forest, rewards + shift)
    np.testing.assert_allclose(moved, estimate(name, forest, rewards), rtol=1e-9, atol=1e-11)


@given(
    st.lists(trees(), min_size=1, max_size=3),
    st.data(),
    st.sampled_from(NAMES),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
def test_permuted_siblings_permute_the_advantages(
    grown: list[Tree], data: st.DataObject, name: str, random: Any
) -> None:
    leaves = [leaf for tree in grown for leaf in tree.leaves()]
    reward = {id(leaf): data.draw(st.sampled_from([0.0, 0.5, 1.0])) for leaf in leaves}

    def advantage_of(order: list[Node]) -> dict[tuple[int, int], float]:
        forest = Forest.from_trees(grown)
        rewards = np.array([reward[id(leaf)] for leaf in order])
        value = compute(forest, rewards, rewards, AdvantageParams(estimator=name)).value
        segments = [(id(leaf), id(node)) for leaf in order for node in leaf.path()[1:]]
        return dict(zip(segments, value.tolist(), strict=True))

    before = advantage_of(leaves)
    for tree in grown:
        for node in tree.nodes():
            random.shuffle(node.children)
    after = advantage_of([leaf for tree in grown for leaf in tree.leaves()])
    assert after == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("name", ["treepo", "treepo_size_weighted", "subgroup_rejection"])
@pytest.mark.parametrize("depth", [1, 4])
def test_without_shared_segments_the_nested_mean_is_the_mean_baseline(
    name: str, depth: int
) -> None:
    forest = large_forest(count=3, width=5, depth=depth, segment=2)
    rewards = np.random.default_rng(0).normal(size=15)
    np.testing.assert_allclose(
        estimate(name, forest, rewards), estimate("dr_grpo", forest, rewards), atol=1e-14
    )


def test_a_lone_trajectory_counts_its_root_group() -> None:
    forest = large_forest(count=1, width=1, depth=3, segment=2)
    assert treepo(forest, np.array([0.7])).tolist() == [0.0]


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


def test_a_deviation_that_is_rounding_counts_as_zero() -> None:
    forest = large_forest(count=1, width=2, depth=1, segment=1)
    assert grpo(forest, np.array([0.0, 5e-324])).tolist() == [0.0, 0.0]
    assert grpo(forest, np.array([0.3, 0.1 + 0.2])).tolist() == [0.0, 0.0]
