"""Paired comparison of two evaluations: by hand, and against all resamples."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from test_evaluation import Answers, evaluation

from treepo.errors import UserError
from treepo.evaluation import OVERALL, compare
from treepo.evaluation.comparison import Flip

BEFORE: dict[str, Answers] = {"a": ["1", "1"], "b": ["2", "1"], "c": ["2", "2"], "d": ["2", "2"]}
AFTER: dict[str, Answers] = {"a": ["1", "1"], "b": ["2", "2"], "c": ["1", "1"], "d": ["1", "2"]}


def test_by_hand() -> None:
    compared, flips = compare(evaluation(BEFORE), evaluation(AFTER), seed=0)
    assert list(compared) == ["sums", OVERALL]
    found = compared[OVERALL]
    assert (found.problems, found.before, found.after) == (4, 0.375, 0.625)
    assert found.difference == 0.25
    # At least half of the responses: b from solved to not, c and d the other way.
    assert flips == [
        Flip("sums", "c", 0.0, 1.0),
        Flip("sums", "b", 0.5, 0.0),
        Flip("sums", "d", 0.0, 0.5),
    ]


def test_interval_is_that_of_all_paired_resamples() -> None:
    found = compare(evaluation(BEFORE), evaluation(AFTER), seed=0)[0][OVERALL]
    changes = (0.0, -0.5, 1.0, 0.5)
    means = np.array([sum(draw) / 4 for draw in itertools.product(changes, repeat=4)])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    exact = 2 * min((means <= 0).mean(), (means >= 0).mean())
    assert found.p == pytest.approx(exact, abs=0.06)


def test_pairing_matters() -> None:
    """Both evaluations vary much between problems, but the second is always a little better."""
    shares = range(1, 10)
    before = {f"p{n}": ["1"] * n + ["2"] * (10 - n) for n in shares}
    after = {f"p{n}": ["1"] * (n + 1) + ["2"] * (9 - n) for n in shares}
    found = compare(evaluation(before), evaluation(after), seed=0)[0][OVERALL]
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.p == pytest.approx(2 / 1001)


def test_an_evaluation_against_itself_differs_in_nothing() -> None:
    compared, flips = compare(evaluation(BEFORE), evaluation(BEFORE), seed=0)
    found = compared[OVERALL]
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert flips == []


def test_only_common_problems_count() -> None:
    later = evaluation({**AFTER, "z": ["1"]})
    found = compare(evaluation({**BEFORE, "y": ["1"]}), later, seed=0)[0][OVERALL]
    assert found == compare(evaluation(BEFORE), evaluation(AFTER), seed=0)[0][OVERALL]


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(UserError, match="no problem in common"):
        compare(evaluation({"a": ["1"]}), evaluation({"b": ["1"]}), seed=0)
    with pytest.raises(UserError, match="no problem in common"):
        compare(evaluation(BEFORE), evaluation(BEFORE, benchmark="other"), seed=0)


def test_swapping_the_two_swaps_the_sign() -> None:
    tables = (evaluation(BEFORE), evaluation(AFTER))
    forth, back = compare(*tables, seed=0), compare(*tables[::-1], seed=0)
    assert forth[0][OVERALL].low == pytest.approx(-back[0][OVERALL].high)
    assert {flip.prompt_id for flip in forth[1]} == {flip.prompt_id for flip in back[1]}


def test_each_benchmark_on_its_own() -> None:
    other = evaluation({"q": ["1"]}, benchmark="other")
    before = pa.concat_tables([evaluation(BEFORE), other])
    after = pa.concat_tables([evaluation(AFTER), other])
    compared, _ = compare(before, after, seed=0)
    assert compared["other"].difference == 0
    assert compared["sums"].difference == 0.25
    assert compared[OVERALL].difference == pytest.approx(0.2)
