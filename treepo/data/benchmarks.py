"""A benchmark's problems as prompts, in the order of the set: nothing is cut or shuffled."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import transformers

from treepo.data.files import BadRows, named, read
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
    dataset = params.source
    if not isinstance(dataset, DatasetParams):
        dataset = named(dataset, params.split, params.problem_column, params.answer_column)
    bad: BadRows = []
    rows = [{**row, "family": name} for row in read(dataset, mirrors, bad, params.rows)]
    form = DataParams(**params.prompts.model_dump())
    table, filtered = prepare_rows(form, rows, name, tokenizer, readable)
    return table, [*unusable(bad, name), *filtered]
