from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from tables import (
    ADVANTAGES_TABLE,
    EVALUATION_TABLE,
    FOREST_TABLE,
    PROBLEMS_TABLE,
    SCORES_TABLE,
    WHERE,
    assert_place,
    refused,
)

from treepo.schemas import (
    check_advantages,
    check_evaluation,
    check_forest,
    check_problems,
    check_scores,
)

TABLES = [
    pytest.param(check_forest, FOREST_TABLE, id="forest"),
    pytest.param(check_scores, SCORES_TABLE, id="scores"),
    pytest.param(check_advantages, ADVANTAGES_TABLE, id="advantages"),
    pytest.param(check_problems, PROBLEMS_TABLE, id="problems"),
    pytest.param(check_evaluation, EVALUATION_TABLE, id="evaluation"),
]


@pytest.mark.parametrize(("check", "table"), TABLES)
def test_good_tables_come_back_as_they_are(check: Any, table: pa.Table) -> None:
    assert check(table, WHERE).equals(table)
    assert check(table.slice(0, 0), WHERE).schema.equals(table.schema)


@pytest.mark.parametrize(("check", "table"), TABLES)
def test_other_widths_orders_and_chunks_are_brought_into_form(check: Any, table: pa.Table) -> None:
    wide = {pa.int16(): pa.int64(), pa.int32(): pa.int64(), pa.string(): pa.large_string()}
    wide |= {pa.list_(pa.int32()): pa.large_list(pa.uint32())}
    given = pa.table(
        {
            name: table[name].cast(wide.get(table[name].type, table[name].type))
            for name in reversed(table.column_names)
        }
    )
    given = pa.concat_tables([given.slice(0, 1), given.slice(1)]) if len(given) > 1 else given
    result = check(given, WHERE)
    assert result.equals(table)
    assert result.schema.equals(table.schema, check_metadata=True)


@pytest.mark.parametrize(("check", "table"), TABLES)
def test_missing_and_unknown_columns_are_named(check: Any, table: pa.Table) -> None:
    for name in table.column_names:
        message = refused(check, table.drop_columns([name]))
        assert message == f"{WHERE}: column {name!r} is missing"
    more = table.append_column("note", table.column(0)).append_column("x", table.column(0))
    assert refused(check, more) == f"{WHERE}: unknown columns 'note', 'x'"
    twice = table.append_column(table.column_names[0], table.column(0))
    assert "appears more than once" in refused(check, twice)


@pytest.mark.parametrize(("check", "table"), TABLES)
def test_wrong_types_are_named(check: Any, table: pa.Table) -> None:
    for index, name in enumerate(table.column_names):
        wrong = pa.array([b"x"] * len(table))
        message = refused(check, table.set_column(index, name, wrong))
        assert message == f"{WHERE}: column {name!r} is binary, not {table[name].type}"


def test_text_and_fractions_are_no_integers() -> None:
    for values in (["2"] * 4, [2.0] * 4):
        message = refused(check_scores, SCORES_TABLE.set_column(1, "leaf", pa.array(values)))
        assert re.search(r"column 'leaf' is (string|double), not int32", message)


def test_numbers_that_do_not_fit_are_named_with_their_row() -> None:
    big = pa.chunked_array([[2, 3], [2**31, 2**40]], pa.int64())
    message = refused(check_scores, SCORES_TABLE.set_column(1, "leaf", big))
    assert_place(message, "leaf", 2)
    lists = pa.array([[1], [2], [3, 2**31]])
    message = refused(check_problems, PROBLEMS_TABLE.set_column(6, "prompt_tokens", lists))
    assert_place(message, "prompt_tokens", 2)


def test_a_column_of_nulls_is_text_without_values() -> None:
    empty = SCORES_TABLE.set_column(4, "answer", pa.nulls(4))
    assert check_scores(empty, WHERE)["answer"].type == pa.string()
    assert_place(refused(check_scores, empty.set_column(5, "reason", pa.nulls(4))), "reason", 0)


def test_integers_and_dictionaries_are_taken_for_rewards_and_text() -> None:
    given = SCORES_TABLE.set_column(2, "reward", pa.array([1, 0, 1, 0]))
    given = given.set_column(5, "reason", SCORES_TABLE["reason"].dictionary_encode())
    assert check_scores(given, WHERE).equals(SCORES_TABLE)
