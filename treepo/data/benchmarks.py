"""A benchmark's problems as prompts, in the order of the set: nothing is cut or shuffled."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from treepo.data.files import BadRows, named, read
from treepo.data.prepare import prepare_rows, unusable
from treepo.params import BenchmarkParams, DataParams, PromptParams


def read_benchmark(
    name: str,
    params: BenchmarkParams,
    prompts: PromptParams,
    tokenizer: PreTrainedTokenizerBase,
    mirrors: str | None = None,
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Prompts of one benchmark (PROBLEMS_SCHEMA, `family` is its name), and the rows left out.

    mirrors: folder with local copies, which recipes read instead of the hub.
    Raises UserError naming the source, and its row or column, for anything wrong.
    """
    source = params.source
    if isinstance(source, str):
        source = named(source, params.split, params.problem_column, params.answer_column)
    bad: BadRows = []
    rows = islice(read(source, mirrors, bad), params.rows)
    own = [{**row, "family": name} for row in rows]
    table, left_out = prepare_rows(DataParams(**prompts.model_dump()), own, name, tokenizer)
    return table, [*unusable(bad, name), *left_out]
