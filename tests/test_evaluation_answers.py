"""Answers to a problem are grouped by verified equivalence, with few comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treepo.evaluation import group_answers, majority
from treepo.params import ScoringParams
from treepo.scoring import VerifierPool

Pairs = Sequence[tuple[str, str]]


class Asked:
    """Compares fractions by value, and remembers what it was asked."""

    def __init__(self) -> None:
        self.batches: list[Pairs] = []

    def __call__(self, pairs: Pairs) -> list[bool]:
        self.batches.append(pairs)
        return [Fraction(a) == Fraction(b) for a, b in pairs]


def test_equal_values_share_a_class_whatever_their_text() -> None:
    answers = ["1/2", "0.5", "3", None, "2/4", "7", "6/2"]
    correct = [False, False, False, False, False, True, False]
    found = group_answers(["p"] * 7, answers, correct, Asked())
    assert found == [1, 1, 2, -1, 1, 0, 2]


def test_equal_strings_and_right_answers_are_never_compared() -> None:
    asked = Asked()
    answers = ["1", "1", "2", "2.0", "1"]
    assert group_answers(["p"] * 5, answers, [False, False, True, True, False], asked) == [
        1, 1, 0, 0, 1,
    ]  # fmt: skip
    assert sum(map(len, asked.batches)) == 0


def test_problems_are_apart_and_asked_about_together() -> None:
    asked = Asked()
    found = group_answers(
        ["p", "q", "p", "q", "p"], ["1", "1", "2", "1.0", "3"], [False] * 5, asked
    )
    assert found == [1, 1, 2, 1, 3]
    assert asked.batches[0] == [("1", "2"), ("1", "3"), ("1", "1.0")]


@given(st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 3), st.integers(1, 3))))
def test_classes_are_those_of_the_value(rows: list[tuple[str, int, int]]) -> None:
    """Fractions 0 to 3 written over different denominators; value 0 is right."""
    problems = [problem for problem, _, _ in rows]
    answers = [f"{value * bottom}/{bottom}" for _, value, bottom in rows]
    correct = [value == 0 for _, value, _ in rows]
    found = group_answers(problems, answers, correct, Asked())
    for (problem, value, _), group in zip(rows, found, strict=True):
        for (other_problem, other_value, _), other in zip(rows, found, strict=True):
            if problem == other_problem:
                assert (group == other) == (value == other_value)
    assert all((group == 0) == right for group, right in zip(found, correct, strict=True))


def test_grouping_by_the_verifier_changes_the_vote() -> None:
    r"""Gold 7. By string 7 wins two to one to one; \frac12, 0.5 and 1/2 are one answer and win."""
    answers = ["7", "7", "\\frac{1}{2}", "0.5", "1/2"]
    correct = [True, True, False, False, False]
    with VerifierPool(ScoringParams(verifier="math")) as pool:
        found = group_answers(["p"] * 5, answers, correct, pool.same)
    assert found == [0, 0, 1, 1, 1]
    rng = np.random.default_rng(0)
    assert majority(np.array(found), 5, rng).mean() < 0.4
    assert majority(np.array([0, 0, 1, 2, 3]), 5, rng).mean() > 0.45
