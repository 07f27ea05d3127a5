"""A benchmark's problems as prompts, in the order of the set: nothing is cut or shuffled."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from treepo.data.files import Columns, read
from treepo.data.prepare import prepare_rows
from treepo.params import BenchmarkParams, DataParams, PromptParams


def read_benchmark(
    name: str, params: BenchmarkParams, prompts: PromptParams, tokenizer: PreTrainedTokenizerBase
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Prompts of one benchmark (PROBLEMS_SCHEMA, `family` is its name), and the rows left out.

    Raises UserError naming the source, and its row or column, for anything wrong.
    """
    columns = Columns(params.problem_column, params.answer_column)
    rows = read(params.source, params.split, columns)[: params.rows]
    form = DataParams(**prompts.model_dump())
    named = [{**row, "family": name} for row in rows]
    return prepare_rows(form, named, name, tokenizer)
