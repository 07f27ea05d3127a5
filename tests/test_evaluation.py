from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.evaluation import DRAWS, majority, pass_at_k, summarize
from treepo.schemas import EVALUATION_SCHEMA, check_evaluation


def evaluation(problems: dict[str, list[str | None]], gold: str = "1") -> pa.Table:
    """A response for each answer, right where it is `gold`; lengths 1, 2, ... in tokens."""
    rows = [
        {
            "prompt_id": name,
            "sample": sample,
            "response": f"{answer}",
            "finish": "eos",
            "reward": float(answer == gold),
            "correct": answer == gold,
            "answer": answer,
        }
        for name, answers in problems.items()
        for sample, answer in enumerate(answers)
    ]
    lengths = [{**row, "tokens": number} for number, row in enumerate(rows, 1)]
    return check_evaluation(pa.Table.from_pylist(lengths, schema=EVALUATION_SCHEMA), "e.parquet")


def majority_by_enumeration(answers: list[str | None], correct: list[bool], k: int) -> float:
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
    # Accuracies 1, 1/4, 0: sample deviation sqrt(13/48), over the root of three problems.
    half = 1.96 * math.sqrt(13 / 48) / math.sqrt(3)
    assert found["high"] - found["accuracy"] == pytest.approx(half)
    assert found["accuracy"] - found["low"] == pytest.approx(half)
    assert found["pass@k"] == pytest.approx(2 / 3)
    assert (found["k"], found["problems"], found["tokens"]) == (4, 3, 6.5)
    exact = majority_by_enumeration(["1", "2", "2", "2"], [True, False, False, False], 4)
    assert found["maj@k"] == pytest.approx((1 + exact) / 3, abs=tolerance(exact) / 3)


def test_k_is_the_fewest_responses_of_a_problem() -> None:
    found = summarize(evaluation({"a": ["1", "2", "2"], "b": ["2", "1"]}), seed=0)
    assert found["k"] == 2
    # Two of three hold the one right answer in two of three cases; both of two always do.
    assert found["pass@k"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["accuracy"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_one_response_a_problem_makes_all_figures_the_accuracy() -> None:
    problems: dict[str, list[str | None]] = {"a": ["1"], "b": ["2"], "c": [None], "d": ["1"]}
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
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=60, deadline=None, derandomize=True)
def test_majority_is_the_exact_chance(answers: list[str | None], k: int, seed: int) -> None:
    correct = [answer == "1" for answer in answers]
    exact = majority_by_enumeration(answers, correct, k)
    found = majority(answers, np.array(correct, dtype=np.float64), k, np.random.default_rng(seed))
    assert found == pytest.approx(exact, abs=tolerance(exact))


def test_absent_answers_do_not_vote() -> None:
    answers: list[str | None] = [None, None, None, "1"]
    rng = np.random.default_rng(0)
    found = majority(answers, np.array([0.0, 0.0, 0.0, 1.0]), 4, rng)
    exact = 1 - (3 / 4) ** 4
    assert found == pytest.approx(exact, abs=tolerance(exact))


def test_ties_are_broken_evenly() -> None:
    rng = np.random.default_rng(0)
    found = majority(["1", "2"], np.array([1.0, 0.0]), 2, rng)
    assert found == pytest.approx(0.5, abs=tolerance(0.5))
