"""Problem sets for tests."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from treepo.data import Prepared
from treepo.params import DataParams
from treepo.tokenizer import character_tokenizer

TOKENIZER = character_tokenizer()


def params(**values: Any) -> DataParams:
    return DataParams(**{"train_size": 20, "heldout_size": 5, **values})


def jsonl(file: Path, rows: list[Any]) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(file)


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"problem": f"{number}+1=?", "answer": str(number + 1)}
        for number in range(start, start + count)
    ]


def problems(table: pa.Table | datasets.Dataset) -> list[str]:
    return list(table.to_pydict()["problem"] if isinstance(table, pa.Table) else table["problem"])


def reasons(prepared: Prepared) -> Counter[tuple[str, str]]:
    return Counter((row["split"], row["reason"]) for row in prepared.filtered)
