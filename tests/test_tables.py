"""Tables that steps share: read once, and again where the file has changed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tasks.tables import recent_table
from treepo.errors import UserError
from treepo.storage import write_table


def test_a_file_is_checked_once_until_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    checked: list[str] = []

    def check(table: pa.Table, where: str) -> pa.Table:
        checked.append(where)
        return table

    for numbers in ([1, 2], [1, 3]):  # the same size
        write_table(pa.table({"a": numbers}), file)
        for _ in range(3):
            assert recent_table(file, check)["a"].to_pylist() == numbers
    assert checked == [str(file)] * 2


def test_what_is_no_table_is_refused_each_time(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    for _ in range(2):
        with pytest.raises(UserError, match="no such file"):
            recent_table(file, lambda table, _: table)
    file.write_bytes(b"PAR1")
    for _ in range(2):
        with pytest.raises(UserError, match="cannot be read as Parquet"):
            recent_table(file, lambda table, _: table)
