"""One column at a time: types, nulls and ranges, and how a table that breaks them is refused.

Knows pandera and arrow, and turns whatever they object to into one line naming file, column, row.
Knows no table in particular, and no invariant between rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import pandera.pyarrow as pandera
import pyarrow as pa
import pyarrow.compute as pc
from pandera.config import ValidationDepth, config_context

from treepo.errors import UserError

Array = np.ndarray
Check = pandera.Check

NATURAL = Check.ge(0, error="must not be negative")
FINITE = Check.in_range(-sys.float_info.max, sys.float_info.max, error="must be finite")
FILLED = Check.str_contains(r"\S", error="must not be blank")


@dataclass(frozen=True)
class Rules:
    """The columns of one table: their arrow types, the check on each, and which may hold nulls."""

    schema: pa.Schema
    checks: Mapping[str, Check]
    nullable: frozenset[str] = frozenset()

    @cached_property
    def pandera(self) -> pandera.DataFrameSchema:
        """The same, as pandera reads it; columns that are not named here are refused."""
        columns = {
            field.name: pandera.Column(
                field.type, self.checks.get(field.name), nullable=field.name in self.nullable
            )
            for field in self.schema
        }
        return pandera.DataFrameSchema(columns, strict=True)

    def conform(self, table: pa.Table, where: str) -> pa.Table:
        """The table with exactly these columns, types and order, in one chunk.

        Integers may come in any width that holds their values, numbers for real columns as
        integers, text as any of arrow's string types, and a column of nulls as arrow's null type.
        Raises UserError naming `where`, the column, and the first bad row where there is one.
        """
        repeated = [name for name in table.column_names if table.column_names.count(name) > 1]
        if repeated:
            raise UserError(f"{where}: column {repeated[0]!r} appears more than once")
        for index, name in enumerate(table.column_names):
            if name in self.schema.names:
                column = _cast(table[name], self.schema.field(name), where)
                table = table.set_column(index, name, column)
        try:
            # Later checks build on these, so no environment variable may switch them off.
            with config_context(
                validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA
            ):
                self.pandera.validate(table)
        except pandera.errors.SchemaError as error:
            _refuse(error, table, self.schema, where)
        columns = [table[name].combine_chunks() for name in self.schema.names]
        for name, column in zip(self.schema.names, columns, strict=True):
            if pa.types.is_list(column.type):
                Lists(column).refuse_nulls(where, name)
        return pa.Table.from_arrays(columns, schema=self.schema)


class Lists:
    """A list column without null rows: `values` of all rows in one array, `offsets` [rows + 1]."""

    def __init__(self, column: pa.Array[Any] | pa.ChunkedArray[Any]) -> None:
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        self.flat = pc.list_flatten(column)
        self.lengths: Array = pc.list_value_length(column).to_numpy().astype(np.int64)
        self.offsets: Array = np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def values(self) -> Array:
        """The elements of all rows, in order, as numpy holds them."""
        return self.flat.to_numpy(zero_copy_only=False)

    def row(self, index: int) -> int:
        """The row that holds element `index` of `values`."""
        return int(np.searchsorted(self.offsets, index, side="right")) - 1

    def refuse_nulls(self, where: str, name: str) -> None:
        """Raise UserError at the first null element, or null field of a struct element."""
        fields = [self.flat]
        if pa.types.is_struct(self.flat.type):
            fields += self.flat.flatten()
        for field in fields:
            if field.null_count:
                index = int(np.argmax(field.is_null().to_numpy(zero_copy_only=False)))
                raise UserError(f"{at(where, name, self.row(index))}: the list holds a null")

    def demand(self, good: Array, where: str, name: str, problem: str) -> None:
        """Raise UserError naming the row of the first element where `good` [elements] is false."""
        if not good.all():
            index = int(np.argmin(good))
            row = self.row(index)
            place = f"element {index - int(self.offsets[row])} is {self.flat[index].as_py()!r:.60}"
            raise UserError(f"{at(where, name, row)}: {place}, {problem}")


def at(where: str, column: str, row: int) -> str:
    """How every message names a place; rows count from 0."""
    return f"{where}: column {column!r}, row {row}"


def demand(good: Array, where: str, column: str, problem: str | Callable[[int], str]) -> None:
    """Raise UserError for the first row where `good` [rows] is false; `problem` may ask for it."""
    if not good.all():
        row = int(np.argmin(good))
        text = problem if isinstance(problem, str) else problem(row)
        raise UserError(f"{at(where, column, row)}: {text}")


def first_repeat(keys: Array) -> int | None:
    """The first row whose key [rows] an earlier row has already, or None."""
    order = np.argsort(keys, kind="stable")
    later = order[1:][keys[order[1:]] == keys[order[:-1]]]
    return int(later.min()) if len(later) else None


def codes(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> Array:
    """A number for each row, int64 [rows]: equal where the values are equal."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.dictionary_encode().indices.to_numpy().astype(np.int64)


def _cast(column: pa.ChunkedArray[Any], field: pa.Field[Any], where: str) -> pa.ChunkedArray[Any]:
    """Cast where the kind fits; another kind is left alone, for pandera to refuse it."""
    if not _fits(column.type, field.type):
        return column
    try:
        # Also where the types are equal: equal list types may still name their elements otherwise.
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = _first_uncastable(column, field.type)
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"{at(where, field.name, row)}: does not fit {field.type} ({reason})"
        ) from None


def _fits(given: Any, wanted: Any) -> bool:
    """Whether a value of one type can be meant as the other: no text for numbers, no fractions."""
    types = pa.types
    if types.is_dictionary(given):
        return _fits(given.value_type, wanted)
    if types.is_null(given):
        return True
    if types.is_list(wanted):
        is_list = types.is_list(given) or types.is_large_list(given)
        is_list = is_list or types.is_fixed_size_list(given)
        return is_list and _fits(given.value_type, wanted.value_type)
    if types.is_struct(wanted):
        if not types.is_struct(given):
            return False
        fields = {part.name: part.type for part in given}
        return list(fields) == [part.name for part in wanted] and all(
            _fits(fields[part.name], part.type) for part in wanted
        )
    if types.is_integer(wanted):
        return types.is_integer(given)
    if types.is_floating(wanted):
        return types.is_floating(given) or types.is_integer(given)
    if types.is_string(wanted):
        return types.is_string(given) or types.is_large_string(given) or types.is_string_view(given)
    return given == wanted


def _first_uncastable(column: pa.ChunkedArray[Any], wanted: pa.DataType) -> int:
    """Halve the column until one row is left that the cast refuses."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            # Taken, since the cast of a slice of lists would also read what lies outside it.
            column.take(np.arange(low, middle)).cast(wanted)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            high = middle
    return low


def _refuse(
    error: pandera.errors.SchemaError, table: pa.Table, schema: pa.Schema, where: str
) -> NoReturn:
    """Say in one line what pandera found."""
    reasons = pandera.errors.SchemaErrorReason
    found: Any = error.failure_cases
    if error.reason_code == reasons.COLUMN_NOT_IN_SCHEMA:
        extra = [name for name in table.column_names if name not in schema.names]
        names = ", ".join(repr(name) for name in extra)
        noun = "columns" if len(extra) > 1 else "column"
        raise UserError(f"{where}: unknown {noun} {names}") from None
    if error.reason_code == reasons.COLUMN_NOT_IN_DATAFRAME:
        raise UserError(f"{where}: column {found!r} is missing") from None
    name = str(error.schema.name)
    column = table[name]
    if error.reason_code == reasons.WRONG_DATATYPE:
        wanted = schema.field(name).type
        raise UserError(f"{where}: column {name!r} is {column.type}, not {wanted}") from None
    if error.reason_code == reasons.SERIES_CONTAINS_NULLS:
        row = int(np.argmax(column.is_null(nan_is_null=True).to_numpy()))
        what = "null" if column[row].as_py() is None else "NaN"
        raise UserError(f"{at(where, name, row)}: must not be {what}") from None
    # Pandera keeps the failing values in order, but not the rows that they came from.
    value = found[name][0]
    rule = getattr(error.check, "error", None) or str(error.check)
    place = at(where, name, int(pc.index(column, value).as_py()))
    raise UserError(f"{place}: {rule} (got {value.as_py()!r:.60})") from None
