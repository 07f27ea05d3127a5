"""A benchmark's problems as prompts, in the order of the set: nothing is cut or shuffled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import transformers

from treepo.data.files import BadRows, local_file, named, read
from treepo.data.prepare import Readable, prepare_rows, unusable
from treepo.params import BenchmarkParams, DataParams, DatasetParams


def read_benchmark(
    name: str,
    params: BenchmarkParams,
    mirrors: str | None,
    tokenizer: transformers.PreTrainedTokenizerBase,
    readable: Readable,
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Prompts of one benchmark (PROBLEMS_SCHEMA, `family` is its name), and the rows left out.

    mirrors: folder with local copies, which recipes read instead of the hub.
    Raises UserError naming the source, and its row or column, for anything wrong.
    """
    dataset = _dataset(params)
    bad: BadRows = []
    rows = [{**row, "family": name} for row in read(dataset, mirrors, bad, params.rows)]
    form = DataParams(**params.prompts.model_dump())
    table, filtered = prepare_rows(form, rows, name, tokenizer, readable)
    return table, [*unusable(bad, name), *filtered]


def benchmark_files(benchmarks: Iterable[BenchmarkParams], mirrors: str | None) -> list[Path]:
    """The files that benchmarks are read from, as they are written in the parameters."""
    files = (local_file(_dataset(params), mirrors) for params in benchmarks)
    return [file for file in files if file is not None]


def _dataset(params: BenchmarkParams) -> DatasetParams:
    source = params.source
    if isinstance(source, DatasetParams):
        return source
    return named(source, params.split, params.problem_column, params.answer_column)
