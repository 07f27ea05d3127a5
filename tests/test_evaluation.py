"""The figures of an evaluation: by hand, and against brute-force enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.evaluation import (
    DRAWS,
    OVERALL,
    by_benchmark,
    group_answers,
    majority,
    pass_at_k,
    summarize,
)
from treepo.schemas import EVALUATION_SCHEMA, check_evaluation

Answers = Sequence[str | None]


def evaluation(problems: dict[str, Answers], gold: str = "1", benchmark: str = "sums") -> pa.Table:
    """A response for each answer, right where it is `gold`; lengths 1, 2, ... in tokens."""
    rows = []
    for name, answers in problems.items():
        groups = classes(answers, gold)
        for sample, (answer, group) in enumerate(zip(answers, groups, strict=True)):
            rows.append(
                {
                    "benchmark": benchmark,
                    "prompt_id": name,
                    "sample": sample,
                    "response": f"{answer}",
                    "tokens": len(rows) + 1,
                    "new_tokens": 1,
                    "finish": "eos" if answer else "max_tokens",
                    "reward": float(answer == gold),
                    "correct": answer == gold,
                    "answer": answer,
                    "group": group,
                }
            )
    return check_evaluation(pa.Table.from_pylist(rows, schema=EVALUATION_SCHEMA), "e.parquet")


def classes(answers: Answers, gold: str = "1") -> list[int]:
    """Classes by string."""
    correct = [answer == gold for answer in answers]
    return group_answers(
        ["p"] * len(answers), answers, correct, lambda pairs: [a == b for a, b in pairs]
    )


def majority_by_enumeration(answers: Answers, correct: Sequence[bool], k: int) -> float:
    """All n^k draws; a tie counts by the share of the right answers among the winners."""
    right = {answer for answer, good in zip(answers, correct, strict=True) if good}
    total = 0.0
    for draw in itertools.product(answers, repeat=k):
        votes = [answer for answer in draw if answer is not None]
        most = max((votes.count(answer) for answer in votes), default=0)
        winners = {answer for answer in votes if votes.count(answer) == most}
        total += len(winners & right) / len(winners) if winners else 0.0
    return total / len(answers) ** k


def tolerance(chance: float) -> float:
    """Five standard deviations of the mean of DRAWS yes-or-no draws: wrong once in 1.7 million."""
    return 5 * math.sqrt(chance * (1 - chance) / DRAWS) + 1e-12


def test_figures_of_a_table_by_hand() -> None:
    table = evaluation({"b": ["1", "1", "1", "1"], "a": ["1", "2", "2", "2"], "c": [None] * 4})
    found = summarize(table, seed=0)
    assert found["accuracy"] == pytest.approx(5 / 12)
    assert found["pass@k"] == pytest.approx(2 / 3)
    assert (found["k"], found["samples"], found["problems"], found["tokens"]) == (4, 4, 3, 6.5)
    assert (found["trajectory_tokens"], found["sampled_tokens"]) == (78, 12)
    assert found["finish/eos"] == pytest.approx(2 / 3)
    assert found["finish/max_tokens"] == pytest.approx(1 / 3)
    exact = majority_by_enumeration(["1", "2", "2", "2"], [True, False, False, False], 4)
    assert found["maj@k"] == pytest.approx((1 + exact) / 3, abs=tolerance(exact) / 3)


def test_smaller_k_than_samples() -> None:
    answers = ["1", "2", "2", "3"]
    found = summarize(evaluation({"a": answers}), seed=0, k=2)
    assert found["k"] == 2
    assert found["samples"] == 4
    assert found["accuracy"] == 0.25
    assert found["pass@k"] == pytest.approx(1 - (3 * 2) / (4 * 3))
    exact = majority_by_enumeration(answers, [True, False, False, False], 2)
    assert found["maj@k"] == pytest.approx(exact, abs=tolerance(exact))


def test_interval_of_the_accuracy_is_that_of_all_resamples() -> None:
    """Shares 1, 1/2, 0, 0: percentiles of the means of all 4^4 resamples, by enumeration."""
    table = evaluation({"a": ["1", "1"], "b": ["1", "2"], "c": ["2", "3"], "d": [None, None]})
    found = summarize(table, seed=0)
    means = [sum(draw) / 4 for draw in itertools.product((1.0, 0.5, 0.0, 0.0), repeat=4)]
    low, high = np.percentile(means, (2.5, 97.5))
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_interval_covers_the_truth() -> None:
    """Of 200 evaluations of 60 problems, about 95 % of the intervals hold the true accuracy."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = rng.random((60, 2)) < 0.3
        problems = {f"p{i}": ["1" if r else "2" for r in row] for i, row in enumerate(right)}
        found = summarize(evaluation(problems), seed=trial)
        covered += found["low"] <= 0.3 <= found["high"]
    assert 180 <= covered <= 199


def test_interval_of_the_majority_by_enumeration() -> None:
    """One problem, k = 1: each draw's vote is right with chance 1/4, so it reaches from 0 to 1."""
    found = summarize(evaluation({"a": ["1", "2", "2", "2"]}), seed=0, k=1)
    assert (found["maj@k/low"], found["maj@k/high"]) == (0, 1)
    sure = summarize(evaluation({"a": ["1", "1"], "b": ["1", "1"]}), seed=0)
    assert (sure["maj@k/low"], sure["maj@k"], sure["maj@k/high"]) == (1, 1, 1)


def test_overall_is_weighted_by_set_size() -> None:
    small = evaluation({"a": ["1", "1"]}, benchmark="small")
    large = evaluation({"b": ["2", "2"], "c": ["1", "2"], "d": ["1", "2"]}, benchmark="large")
    found = by_benchmark(pa.concat_tables([small, large]), seed=0)
    assert list(found) == ["small", "large", OVERALL]
    assert found["large"] == summarize(large, seed=0)
    for key in ("accuracy", "maj@k", "pass@k"):
        weighted = (found["small"][key] * 1 + found["large"][key] * 3) / 4
        assert found[OVERALL][key] == pytest.approx(weighted)
    assert found[OVERALL]["problems"] == 4


def test_k_is_the_fewest_responses_of_a_problem() -> None:
    found = summarize(evaluation({"a": ["1", "2", "2"], "b": ["2", "1"]}), seed=0)
    assert found["k"] == 2
    # Two of three hold the one right answer in two of three cases; both of two always do.
    assert found["pass@k"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["accuracy"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_one_response_a_problem_makes_all_figures_the_accuracy() -> None:
    problems: dict[str, Answers] = {"a": ["1"], "b": ["2"], "c": [None], "d": ["1"]}
    found = summarize(evaluation(problems), seed=0)
    assert found["k"] == 1
    assert found["accuracy"] == found["maj@k"] == found["pass@k"] == 0.5


def test_one_problem_has_an_interval_of_no_width() -> None:
    found = summarize(evaluation({"a": ["1", "2"]}), seed=0)
    assert found["low"] == found["accuracy"] == found["high"] == 0.5


def test_no_answers_at_all_are_zero() -> None:
    found = summarize(evaluation({"a": [None, None], "b": [None, None]}), seed=0)
    assert found["accuracy"] == found["maj@k"] == found["pass@k"] == 0
    assert found["low"] == found["high"] == 0


def test_summaries_are_deterministic_in_the_seed_and_in_interleaved_rows() -> None:
    answers: list[str | None] = ["1", "2", "3", "1", None, "2"]
    table = evaluation({"a": answers, "b": answers[::-1], "c": ["2", *answers[1:]]})
    found = summarize(table, seed=1)
    assert summarize(table, seed=1) == found
    assert summarize(table, seed=2)["maj@k"] != found["maj@k"]
    interleaved = table.take([6 * row + sample for sample in range(6) for row in range(3)])
    assert summarize(interleaved, seed=1) == pytest.approx(found)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
@settings(max_examples=60)
def test_pass_at_k_is_the_share_of_subsets(correct: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(itertools.combinations(correct, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(expected)


@given(
    st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=60, derandomize=True)
def test_majority_is_the_exact_chance(answers: list[str | None], k: int, seed: int) -> None:
    exact = majority_by_enumeration(answers, [answer == "1" for answer in answers], k)
    found = majority(np.array(classes(answers)), k, np.random.default_rng(seed)).mean()
    assert found == pytest.approx(exact, abs=tolerance(exact))


def test_absent_answers_do_not_vote() -> None:
    found = majority(np.array([-1, -1, -1, 0]), 4, np.random.default_rng(0)).mean()
    exact = 1 - (3 / 4) ** 4
    assert found == pytest.approx(exact, abs=tolerance(exact))


def test_ties_are_broken_evenly() -> None:
    found = majority(np.array([0, 1]), 2, np.random.default_rng(0)).mean()
    assert found == pytest.approx(0.5, abs=tolerance(0.5))


def test_the_interval_of_pass_at_k_is_its_own() -> None:
    found = summarize(evaluation({"a": ["1", "2"], "b": ["1", "2"]}), seed=0)
    assert (found["pass@k/low"], found["pass@k/high"]) == (1, 1)
    assert found["accuracy"] == 0.5
