"""One small good table of every kind, and ways to spoil a single cell of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from forests import advantages_table, scores_table

from treepo.errors import UserError
from treepo.forest import Forest
from treepo.schemas import EVALUATION_SCHEMA, PROBLEMS_SCHEMA
from treepo.tree import Segment, Tree

WHERE = "it/f.parquet"
Change = Callable[[list[dict[str, Any]]], None]


def put(row: int, name: str, value: Any) -> Change:
    """A change of one cell."""

    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][name] = value

    return change


def drop(row: int) -> Change:
    return lambda rows: rows.__delitem__(row)


def changed(table: pa.Table, change: Change) -> pa.Table:
    rows = table.to_pylist()
    change(rows)
    return pa.Table.from_pylist(rows, schema=table.schema)


def refused(check: Callable[[pa.Table, str], Any], table: pa.Table) -> str:
    """The one line of the refusal."""
    with pytest.raises(UserError) as caught:
        check(table, WHERE)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: ")
    assert "\n" not in message
    return message


def assert_place(message: str, column: str, row: int) -> None:
    assert message.startswith(f"{WHERE}: column {column!r}, row {row}: "), message


def small_forest() -> Forest:
    """Tree 0: root, 1, (2, 3), 4; tree 1: root, 1. Rows 0 to 4 and 5 to 6."""
    first = Tree("a", [1, 2], seed=0)
    inner = first.grow(first.root, Segment([3, 4], [-1.0, -1.0]), 0)
    for index in range(2):
        first.grow(inner, Segment([5 + index], [-0.5]), index).finish = "eos"
    first.grow(first.root, Segment([7], [-2.0]), 1).finish = "answer"
    second = Tree("b", [8], seed=0)
    second.grow(second.root, Segment([9, 9], [-1.0, 0.0]), 0).finish = "max_depth"
    return Forest.from_trees([first, second])


FOREST = small_forest()
FOREST_TABLE = FOREST.to_arrow()
SCORES_TABLE = scores_table(FOREST, np.array([1.0, 0.0, 1.0, 0.0]))
ADVANTAGES_TABLE = advantages_table(FOREST, np.array([1.0, 0.0, 1.0, 0.0]))
PROBLEMS_TABLE = pa.Table.from_pylist(
    [
        {
            "prompt_id": f"p{index}",
            "problem": "1 + 1",
            "answer": "2",
            "solution": "",
            "family": "sum",
            "prompt": "1 + 1\n",
            "prompt_tokens": [1, 2, 3],
        }
        for index in range(3)
    ],
    schema=PROBLEMS_SCHEMA,
)
EVALUATION_TABLE = pa.Table.from_pylist(
    [
        {
            "benchmark": "sum",
            "prompt_id": f"p{index // 2}",
            "sample": index % 2,
            "response": "2",
            "tokens": 1,
            "new_tokens": 1,
            "finish": "eos",
            "reward": 1.0,
            "correct": True,
            "answer": None,
            "group": 0,
        }
        for index in range(4)
    ],
    schema=EVALUATION_SCHEMA,
)
