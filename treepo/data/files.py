"""Rows of a problem set from a JSON Lines or Parquet file, or from the hub, one at a time.

It knows formats, columns and recipes, and names the row of whatever is wrong; it knows nothing
about splits or prompts. Nothing is written: files are read without a cache, and never as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
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
from treepo.params import DatasetParams
from treepo.scoring.answers import boxed_answer

SUFFIXES = (".parquet", ".jsonl")
Numbered = Iterator[tuple[int, Mapping[str, Any]]]
# What is wrong with single rows: where each stands, and why it is left out.
BadRows = list[tuple[str, str]]


@dataclass(frozen=True)
class _Place:
    """Rows as they lie somewhere. name: for messages; unit: of its numbers; columns: for hints."""

    name: str
    unit: str
    numbered: Numbered
    checksum: str | None


def named(source: str, split: str, problem: str, answer: str) -> DatasetParams:
    """The dataset of a file, or of a name on the hub, with the columns given."""
    is_file = Path(source).suffix.lower() in SUFFIXES or Path(source).expanduser().is_file()
    where: dict[str, Any] = {"path": source} if is_file else {"hub": source, "split": split}
    name = Path(source).stem if is_file else source
    return DatasetParams(name=name, problem=problem, answer=answer, **where)


def local_file(dataset: DatasetParams, mirrors: str | None) -> Path | None:
    """The file that a dataset is read from, as it is written; None: it comes from the hub."""
    path = _at_hand(dataset, mirrors).path
    return None if path is None else Path(path)


def _at_hand(dataset: DatasetParams, mirrors: str | None) -> DatasetParams:
    """What is read: the dataset itself or, where there are mirrors, the file of its local copy."""
    if mirrors is None or dataset.mirror is None:
        return dataset
    copy = str(Path(mirrors, dataset.mirror))
    return DatasetParams(name=dataset.name, path=copy, checksum=dataset.mirror_checksum)


def read(
    dataset: DatasetParams, mirrors: str | None, bad: BadRows, most: int | None = None
) -> Iterator[Row]:
    """The rows of a dataset: problem, answer, solution and family, all text.

    mirrors: folder with local copies; where the dataset has one, it is read from there. most: no
    more rows are given, and rows after them are read for the checksum alone. Rows without a
    problem or an answer, or with something that is no text, go to `bad`. A solution is empty where
    there is none; the family is the dataset's name where the row names none.

    Raises UserError naming the dataset, and the row (of a .jsonl file: the line, from 1), for
    anything unreadable, a missing column, no rows at all, or a checksum that does not fit.
    """
    dataset = _at_hand(dataset, mirrors)
    place = _open(dataset)
    digest, count, given = hashlib.sha256(), 0, 0
    for number, row in place.numbered:
        enough = given == most
        if enough and place.checksum is None:
            return
        where = f"{place.name}: {place.unit} {number}"
        if count == 0:
            _check_columns(place.name, row, dataset)
        count += 1
        if not all(_at(row, column) in values for column, values in dataset.only.items()):
            continue
        texts = _texts(row, dataset)
        if isinstance(texts, str):
            if not enough:
                bad.append((where, texts))
            continue
        digest.update(f"{texts['problem']}\x1f{texts['answer']}\x1e".encode())
        if not enough:
            given += 1
            yield texts
    if count == 0:
        raise UserError(f"{place.name}: holds no rows")
    _compare(place, dataset.name, digest.hexdigest())


def _compare(place: _Place, recipe: str, checksum: str) -> None:
    if place.checksum not in (None, checksum):
        raise UserError(
            f"{place.name}: yields other rows than the recipe '{recipe}' was made for"
            f" (checksum {checksum}, not {place.checksum})"
        )


def _open(dataset: DatasetParams) -> _Place:
    """The rows where they lie: in a file, or on the hub."""
    if dataset.path is not None:
        file = Path(dataset.path)
        return _Place(str(file), *_file(file.expanduser()), dataset.checksum)
    if dataset.hub is None:
        raise UserError(f"{dataset.name}: only a local copy is known: {_serves(dataset)}")
    return _Place(f"{dataset.hub} ({dataset.split})", "row", _hub(dataset), dataset.checksum)


def _file(file: Path) -> tuple[str, Numbered]:
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        return "line", read_lines(file)
    if suffix == ".parquet":
        return "row", _parquet(file)
    raise UserError(f"{file}: must be a .parquet or .jsonl file")


def read_lines(file: Path) -> Numbered:
    """The objects of a JSON Lines file with their line numbers, from 1.

    Raises UserError naming the file, and the line of whatever is no JSON object or no UTF-8 text.
    """
    number = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, _object(text, f"{file}: line {number}")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: line {number}: not UTF-8 text") from None


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be a JSON object")
    return row


def _parquet(file: Path) -> Numbered:
    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not a readable Parquet file ({reason:.200})") from None


def _hub(dataset: DatasetParams) -> Numbered:
    arguments = {"name": dataset.config, "revision": dataset.revision, "streaming": True}
    if not dataset.streaming:
        del arguments["streaming"]
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    try:
        found: Any = datasets.load_dataset(str(dataset.hub), split=dataset.split, **given)
        for number, row in enumerate(found, 1):
            yield number, dict(row)
        return
    except ConnectionError as error:
        reason = f"the hub cannot be reached: {error}"
    except FileNotFoundError as error:
        reason = f"neither a file here nor a dataset of the hub: {error}"
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error)
    shown = f"{dataset.hub} ({dataset.split}): cannot be loaded ({' '.join(reason.split()):.300})"
    raise UserError(f"{shown}; {_serves(dataset)}" if dataset.mirror else shown)


def _serves(dataset: DatasetParams) -> str:
    return f"a local copy serves: set data.mirrors to the folder that holds {dataset.mirror}"


def _check_columns(where: str, row: Mapping[str, Any], dataset: DatasetParams) -> None:
    """Refuse a source whose first row lacks a column: it was renamed, or the wrong one is named."""
    wanted = [("problem", dataset.problem), ("answer", dataset.answer)]
    for key, column in [*wanted, *(("only", column) for column in dataset.only)]:
        if _at(row, column, _MISSING) is _MISSING:
            raise UserError(
                f"{where}: no column '{column}' (data.{key}_column, or '{key}' of the recipe);"
                f" found: {', '.join(map(str, row))}"
            )


_MISSING = object()


def _at(row: Mapping[str, Any], column: str, default: object = None) -> Any:
    """The value of a column; `a.-1.b` is the "b" of the last entry of the list in "a"."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.lstrip("-").isdigit() and value:
            value = value[int(key)] if -len(value) <= int(key) < len(value) else default
        else:
            return default
    return value


def _texts(row: Mapping[str, Any], dataset: DatasetParams) -> Row | str:
    """The row as text, or what is wrong with it."""
    problem, given = _at(row, dataset.problem), _at(row, dataset.answer)
    answer = as_gold(_extracted(given, dataset.extract))
    pairs = ((dataset.problem, problem, problem), (dataset.answer, given, answer))
    for column, found, value in pairs:
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"no '{column}'"
        if not isinstance(value, str):
            return f"'{column}' is not text ({found!r:.60})"
    solution, family = row.get("solution"), row.get("family")
    texts = Row(
        problem=_stripped(str(problem), dataset.strip),
        answer=str(answer),
        solution=solution if isinstance(solution, str) else "",
        family=family if isinstance(family, str) else dataset.name,
    )
    for column, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            return f"'{column}' is not valid Unicode text"
    return texts


def _stripped(problem: str, texts: list[str]) -> str:
    for text in texts:
        problem = problem.removeprefix(text).removesuffix(text)
    return problem


def _extracted(given: object, part: str) -> object:
    """The gold answer in a worked solution; None where it holds none."""
    if part == "whole" or not isinstance(given, str):
        return given
    if part == "last_box":
        return boxed_answer(given)
    _, marker, answer = given.rpartition("####")
    return answer.strip().replace(",", "") if marker else None


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
