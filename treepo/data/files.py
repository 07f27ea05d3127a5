"""Rows of a problem set from a JSON Lines or Parquet file, or from the hub.

It knows formats and columns, and names the row of whatever is wrong; it knows nothing about
splits or prompts. Nothing is written: files are read without a cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError

from treepo.data.mix import Row
from treepo.errors import UserError

SUFFIXES = (".parquet", ".jsonl")


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold the problem and the gold answer."""

    problem: str
    answer: str


def read(source: str, split: str, columns: Columns) -> list[Row]:
    """All rows of a .parquet or .jsonl file, or of one split of a hub dataset.

    Columns `solution` and `family` are taken where they hold text; otherwise a solution is empty
    and the family is the file's or dataset's name. Raises UserError naming the source, and the row
    (of a .jsonl file: the line, from 1), for anything unreadable, missing or empty.
    """
    file = Path(source).expanduser()
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        numbered = read_lines(file)
    elif suffix == ".parquet":
        numbered = _parquet(file)
    elif file.is_file():
        raise UserError(f"{source}: must be a .parquet or .jsonl file")
    else:
        return _rows(f"{source} ({split})", source, "row", _hub(source, split), columns)
    unit = "line" if suffix == ".jsonl" else "row"
    return _rows(source, file.stem, unit, numbered, columns)


Numbered = Iterable[tuple[int, Mapping[str, Any]]]


def read_lines(file: Path) -> Numbered:
    """The objects of a JSON Lines file with their line numbers, from 1.

    Raises UserError naming the file, and the line of whatever is no JSON object or no UTF-8 text.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line}: not UTF-8 text") from None
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: line {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}: line {number}: must be a JSON object")
        rows.append((number, row))
    return rows


def _parquet(file: Path) -> Numbered:
    try:
        table = pq.ParquetFile(file).read()
        return list(enumerate(table.to_pylist(), 1))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not a readable Parquet file ({reason:.200})") from None


def _hub(name: str, split: str) -> Numbered:
    try:
        found = datasets.load_dataset(name, split=split)
    except ConnectionError as error:
        reason = f"the hub cannot be reached: {error}"
    except FileNotFoundError as error:
        reason = f"neither a file here nor a dataset of the hub: {error}"
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error)
    else:
        return [(number, dict(row)) for number, row in enumerate(found, 1)]
    raise UserError(f"{name} ({split}): cannot be loaded ({' '.join(reason.split()):.300})")


def _rows(where: str, name: str, unit: str, numbered: Numbered, columns: Columns) -> list[Row]:
    rows = list(numbered)
    if not rows:
        raise UserError(f"{where}: holds no rows")
    names = list(dict.fromkeys(key for _, row in rows for key in row))
    for key, column in (("problem", columns.problem), ("answer", columns.answer)):
        if column not in names:
            raise UserError(
                f"{where}: no column '{column}' (data.{key}_column); found: {', '.join(names)}"
            )
    return [_row(f"{where}: {unit} {number}", name, row, columns) for number, row in rows]


def _row(where: str, name: str, row: Mapping[str, Any], columns: Columns) -> Row:
    problem = row.get(columns.problem)
    answer = as_gold(row.get(columns.answer))
    for column, value in ((columns.problem, problem), (columns.answer, answer)):
        given = row.get(column)
        if given is None or (isinstance(given, str) and not given.strip()):
            raise UserError(f"{where}: no '{column}'")
        if not isinstance(value, str):
            raise UserError(f"{where}: '{column}' is not text ({given!r:.60})")
    solution, family = row.get("solution"), row.get("family")
    texts = Row(
        problem=str(problem),
        answer=str(answer),
        solution=solution if isinstance(solution, str) else "",
        family=family if isinstance(family, str) else name,
    )
    for column, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            raise UserError(f"{where}: '{column}' is not valid Unicode text") from None
    return texts


def as_gold(answer: object) -> object:
    """What a verifier is given: several gold answers as a JSON list, one as text.

    Anything else stays as it is, for the caller to refuse.
    """
    if isinstance(answer, list | tuple):
        texts = [_as_text(one) for one in answer]
        if texts and all(isinstance(text, str) for text in texts):
            return json.dumps(texts, ensure_ascii=False) if len(texts) > 1 else texts[0]
        return answer
    return _as_text(answer)


def _as_text(answer: object) -> object:
    """Numbers as text: 7 and 7.0 -> "7" (integers with gaps arrive as floats), 0.5 -> "0.5"."""
    if isinstance(answer, bool):
        return answer
    if isinstance(answer, float):
        if not math.isfinite(answer):
            return answer
        return str(int(answer)) if answer.is_integer() and abs(answer) < 2**53 else repr(answer)
    return str(answer) if isinstance(answer, int | Decimal) else answer
