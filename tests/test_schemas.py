from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from forests import advantages_table, forests, large_forest, scored_forests, scores_table
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import (
    ADVANTAGES_TABLE,
    EVALUATION_TABLE,
    FOREST,
    FOREST_TABLE,
    PROBLEMS_TABLE,
    SCORES_TABLE,
    WHERE,
    Change,
    assert_place,
    changed,
    drop,
    put,
    refused,
)

from treepo.forest import Forest
from treepo.schemas import (
    FOREST_SCHEMA,
    check_advantages,
    check_advantages_match,
    check_answers,
    check_evaluation,
    check_forest,
    check_problems,
    check_scores,
    check_scores_match,
)
from treepo.tree import Tree


@given(forests(min_trees=0))
@settings(max_examples=60)
def test_grown_forests_pass_and_round_trip(forest: Forest) -> None:
    table = check_forest(forest.to_arrow(), WHERE)
    assert table.schema.equals(FOREST_SCHEMA, check_metadata=True)
    again = Forest.from_arrow(table)
    assert again.to_arrow().equals(forest.to_arrow())
    assert [path.tolist() for path in again.paths] == [path.tolist() for path in forest.paths]


@given(scored_forests(st.floats(-1, 1)), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_what_belongs_to_a_forest_matches_it_in_any_order(scored: Any, random: Any) -> None:
    forest, reward = scored
    order = list(range(len(reward)))
    random.shuffle(order)
    scores, advantages = scores_table(forest, reward), advantages_table(forest, reward)
    shuffled = check_scores(scores.take(order), WHERE)
    assert check_scores_match(shuffled, forest, WHERE).equals(scores)
    shuffled = check_advantages(advantages.take(order), WHERE)
    assert check_advantages_match(shuffled, forest, WHERE).equals(advantages)


@pytest.mark.parametrize(
    ("change", "column", "row", "says"),
    [
        (put(0, "tree", 1), "tree", 0, "numbered 0, 1, 2"),
        (put(6, "tree", 3), "tree", 6, "numbered 0, 1, 2"),
        (put(6, "tree", 0), "tree", 6, "in order"),
        (put(0, "tree", -1), "tree", 0, "must not be negative"),
        (put(2, "node", 1), "node", 2, "2 comes here"),
        (put(2, "node", None), "node", 2, "must not be null"),
        (drop(5), "node", 5, "0 comes here"),
        (drop(4), None, None, None),
        (drop(3), "node", 3, "3 comes here"),
        (put(0, "parent", 0), "parent", 0, "parent -1"),
        (put(2, "parent", 2), "parent", 2, "a node before it"),
        (put(2, "parent", -1), "parent", 2, "a node before it"),
        (put(2, "parent", -2), "parent", 2, "must be -1"),
        (put(6, "parent", 5), "parent", 6, "a node before it"),
        (put(2, "parent", 0), "depth", 2, "must be 1"),
        (put(0, "depth", 1), "depth", 0, "every root"),
        (put(3, "depth", 3), "depth", 3, "one more than its parent's"),
        (put(0, "start", 1), "start", 0, "every root"),
        (put(2, "start", 3), "start", 2, "must be 4, where its parent ends"),
        (put(2, "tokens", []), "tokens", 2, "at least one token"),
        (put(2, "tokens", None), "tokens", 2, "must not be null"),
        (put(2, "tokens", [None]), "tokens", 2, "holds a null"),
        (put(2, "tokens", [-5]), "tokens", 2, "element 0 is -5, must not be negative"),
        (put(2, "tokens", [5, 6]), "logprobs", 2, "1 logprobs for 2 tokens"),
        (put(0, "logprobs", [0.0, 0.0]), "logprobs", 0, "a prompt is not sampled"),
        (put(1, "logprobs", [-1.0, float("nan")]), "logprobs", 1, "element 1 is nan, must be fin"),
        (put(1, "logprobs", [float("-inf"), 0.0]), "logprobs", 1, "must be finite"),
        (put(6, "logprobs", [0.0, 0.01]), "logprobs", 6, "must be at most 0"),
        (put(6, "logprobs", [None, 0.0]), "logprobs", 6, "holds a null"),
        (put(2, "finish", None), "finish", 2, "must say why"),
        (put(1, "finish", "eos"), "finish", 1, "only leaves"),
        (put(0, "finish", "eos"), "finish", 0, "only leaves"),
        (put(2, "finish", "tired"), "finish", 2, "must be null or one of eos, answer"),
        (put(3, "prompt_id", "b"), "prompt_id", 3, "differs within the tree"),
        (put(3, "prompt_id", None), "prompt_id", 3, "must not be null"),
    ],
)
def test_a_corrupt_forest_is_refused(change: Change, column: Any, row: Any, says: Any) -> None:
    table = changed(FOREST_TABLE, change)
    if column is None:  # without its last leaf the tree is still whole
        check_forest(table, WHERE)
        return
    message = refused(check_forest, table)
    assert_place(message, column, row)
    assert says in message


def test_a_root_without_children_is_a_tree_without_trajectories() -> None:
    lonely = Forest.from_trees([Tree("a", [1], seed=0)]).to_arrow()
    assert check_forest(lonely, WHERE).equals(lonely)
    message = refused(check_forest, changed(lonely, put(0, "finish", "eos")))
    assert_place(message, "finish", 0)


def test_logprobs_may_round_to_just_above_zero() -> None:
    check_forest(changed(FOREST_TABLE, put(2, "logprobs", [5e-7])), WHERE)


@pytest.mark.parametrize(
    ("change", "column", "row", "says"),
    [
        (put(1, "tree", -1), "tree", 1, "must not be negative"),
        (put(1, "leaf", 0), "leaf", 1, "below the root"),
        (put(1, "leaf", 2), "leaf", 1, "2 of tree 0 appears twice"),
        (put(3, "reward", float("nan")), "reward", 3, "must not be NaN"),
        (put(3, "reward", float("inf")), "reward", 3, "must be finite"),
        (put(3, "reward", None), "reward", 3, "must not be null"),
        (put(3, "correct", None), "correct", 3, "must not be null"),
        (put(0, "reason", None), "reason", 0, "must not be null"),
        (put(2, "components", None), "components", 2, "must not be null"),
        (put(2, "components", [None]), "components", 2, "holds a null"),
        (put(2, "components", [{"name": None, "value": 1.0}]), "components", 2, "holds a null"),
        (put(2, "components", [{"name": "a", "value": None}]), "components", 2, "holds a null"),
        (put(2, "components", [{"name": "a", "value": np.inf}]), "components", 2, "finite value"),
    ],
)
def test_corrupt_scores_are_refused(change: Change, column: str, row: int, says: str) -> None:
    message = refused(check_scores, changed(SCORES_TABLE, change))
    assert_place(message, column, row)
    assert says in message


@pytest.mark.parametrize(
    ("change", "column", "row", "says"),
    [
        (put(1, "leaf", 2), "leaf", 1, "appears twice"),
        (put(1, "path", []), "path", 1, "at least the leaf"),
        (put(1, "path", [1, None]), "path", 1, "holds a null"),
        (put(1, "path", [0, 3]), "path", 1, "above 0 and increase"),
        (put(1, "path", [3, 3]), "path", 1, "element 1 is 3, but node numbers"),
        (put(1, "path", [3, 1]), "path", 1, "above 0 and increase"),
        (put(1, "path", [1, 2]), "path", 1, "must end in the row's leaf"),
        (put(1, "advantage", [0.0]), "advantage", 1, "1 advantages for 2 nodes"),
        (put(1, "advantage", [0.0, np.nan]), "advantage", 1, "element 1 is nan, must be finite"),
        (put(1, "advantage", [0.0, 1e300]), "advantage", 1, "must be finite"),
        (put(1, "estimator", ""), "estimator", 1, "must not be blank"),
        (put(1, "estimator", None), "estimator", 1, "must not be null"),
    ],
)
def test_corrupt_advantages_are_refused(change: Change, column: str, row: int, says: str) -> None:
    message = refused(check_advantages, changed(ADVANTAGES_TABLE, change))
    assert_place(message, column, row)
    assert says in message


@pytest.mark.parametrize(
    ("change", "column", "row", "says"),
    [
        (put(2, "prompt_id", "p0"), "prompt_id", 2, "'p0' appears twice"),
        (put(2, "prompt_id", ""), "prompt_id", 2, "must not be blank"),
        (put(1, "problem", " \n"), "problem", 1, "must not be blank (got ' \\n')"),
        (put(1, "answer", ""), "answer", 1, "must not be blank"),
        (put(1, "answer", None), "answer", 1, "must not be null"),
        (put(1, "prompt_tokens", []), "prompt_tokens", 1, "at least one token"),
        (put(1, "prompt_tokens", [1, -1]), "prompt_tokens", 1, "must not be negative"),
        (put(1, "prompt_tokens", [1, None]), "prompt_tokens", 1, "holds a null"),
    ],
)
def test_corrupt_problems_are_refused(change: Change, column: str, row: int, says: str) -> None:
    message = refused(check_problems, changed(PROBLEMS_TABLE, change))
    assert_place(message, column, row)
    assert says in message


@pytest.mark.parametrize(
    ("change", "column", "row", "says"),
    [
        (put(2, "prompt_id", "p0"), "prompt_id", 2, "'p0' appears twice"),
        (put(1, "answer", ""), "answer", 1, "must not be blank"),
    ],
)
def test_corrupt_answers_are_refused(change: Change, column: str, row: int, says: str) -> None:
    message = refused(check_answers, changed(PROBLEMS_TABLE, change))
    assert_place(message, column, row)
    assert says in message


@pytest.mark.parametrize(
    ("change", "column", "row", "says"),
    [
        (put(3, "sample", 0), "sample", 3, "0 of prompt 'p1' appears twice"),
        (put(3, "sample", -1), "sample", 3, "must not be negative"),
        (put(3, "tokens", -1), "tokens", 3, "must not be negative (got -1)"),
        (put(3, "finish", "tired"), "finish", 3, "must be one of"),
        (put(3, "finish", None), "finish", 3, "must not be null"),
        (put(3, "reward", float("-inf")), "reward", 3, "must be finite"),
        (put(3, "response", None), "response", 3, "must not be null"),
        (put(3, "group", 1), "group", 3, "must be 0 where the answer is right"),
        (put(3, "correct", False), "group", 3, "must be 0 where the answer is right"),
        (put(3, "group", -2), "group", 3, "must be -1, 0 or"),
        (put(3, "new_tokens", 2), "new_tokens", 3, "must not exceed 'tokens'"),
    ],
)
def test_corrupt_evaluations_are_refused(change: Change, column: str, row: int, says: str) -> None:
    message = refused(check_evaluation, changed(EVALUATION_TABLE, change))
    assert_place(message, column, row)
    assert says in message


def test_checks_cannot_be_switched_off_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    from pandera.config import CONFIG

    monkeypatch.setattr(CONFIG, "validation_enabled", False)
    assert_place(refused(check_forest, changed(FOREST_TABLE, put(2, "finish", "x"))), "finish", 2)


def test_scores_must_match_the_leaves() -> None:
    def check(table: pa.Table, where: str) -> pa.Table:
        return check_scores_match(check_scores(table, where), FOREST, where)

    message = refused(check, changed(SCORES_TABLE, drop(2)))
    assert message == f"{WHERE}: column 'leaf': leaf 4 of tree 0 has no row (forest row 4)"
    for name, value in (("leaf", 1), ("leaf", 9), ("tree", 7)):
        message = refused(check, changed(SCORES_TABLE, put(2, name, value)))
        assert_place(message, "leaf", 2)
        assert "is not a leaf of the forest" in message


@pytest.mark.parametrize("path", [[3], [2, 3]])
def test_advantages_must_follow_the_path(path: list[int]) -> None:
    def check(table: pa.Table, where: str) -> pa.Table:
        return check_advantages_match(check_advantages(table, where), FOREST, where)

    def change(rows: list[dict[str, Any]]) -> None:
        rows[1] |= {"path": path, "advantage": [0.0] * len(path)}

    message = refused(check, changed(ADVANTAGES_TABLE, change))
    assert_place(message, "path", 1)
    assert "not a child of the node before it" in message
    message = refused(check, changed(ADVANTAGES_TABLE, drop(3)))
    assert "leaf 1 of tree 1 has no row" in message


@pytest.mark.timeout(120)  # a second or two; with the square of the rows: hours
def test_a_hundred_thousand_rows_are_checked_in_linear_time() -> None:
    check_forest(large_forest(count=512, width=16, depth=14, segment=8).to_arrow(), WHERE)
