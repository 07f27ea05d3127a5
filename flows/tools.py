"""Commands on single files: score, advantage, verify."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.advantage import estimate
from tasks.lineage import FILE
from tasks.responses import grade, read_answers, scores_table
from tasks.tables import read_forest
from tasks.workspace import policy
from treepo.data import as_gold, read_lines
from treepo.errors import UserError
from treepo.loading import load_section
from treepo.models import load_policy
from treepo.params import AdvantageParams, ScoringParams
from treepo.scoring import VerifierPool
from treepo.storage import write_table, write_text


def advantage(forest: Path, scores: Path, out: Path, overrides: Sequence[str]) -> None:
    """Write the advantages of a forest and its scores."""
    estimate(forest, scores, out, load_section(AdvantageParams, overrides))


def score(
    forest_file: Path, data: Path, out: Path, tokenizer: Path | None, overrides: Sequence[str]
) -> None:
    """Verify every response of a forest against the answers in `data`."""
    params = load_section(ScoringParams, overrides)
    forest = read_forest(forest_file)
    folder = tokenizer or _policy_of(forest_file)
    data = data / "train.parquet" if data.is_dir() else data
    chosen = load_policy(folder)
    with VerifierPool(params) as pool:
        verdicts = grade(forest, chosen, read_answers(data), pool, str(data))
    write_table(scores_table(forest, verdicts), out)


def _policy_of(forest_file: Path) -> Path:
    """The first policy of the experiment that a forest lies in: it holds the tokenizer."""
    for root in forest_file.absolute().parents:
        if (root / FILE).is_file():
            return root / policy(0)
    raise UserError(
        f"{forest_file}: lies in no experiment, so --tokenizer must name a policy's folder"
    )


def verify(pairs: Path, out: Path, overrides: Sequence[str]) -> None:
    """Add a verdict and a reason to each line of a file of {"gold", "response"}."""
    rows = list(_read_pairs(pairs))
    with VerifierPool(load_section(ScoringParams, overrides)) as pool:
        verdicts = pool.score([(as_gold(row["gold"]), row["response"]) for row in rows])
    lines = [
        json.dumps({**row, "verdict": verdict.correct, "reason": verdict.reason})
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    write_text("".join(f"{line}\n" for line in lines), out)


def _read_pairs(file: Path) -> Sequence[dict[str, Any]]:
    """The rows of a file of pairs; several gold answers come as a list."""
    rows: list[dict[str, Any]] = []
    for number, row in read_lines(file):
        if not {"gold", "response"} <= row.keys():
            raise UserError(f"{file}: line {number}: needs the keys gold and response")
        several = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
        if not several or not all(isinstance(gold, str) for gold in several):
            raise UserError(f"{file}: line {number}: gold must be text or a list of texts")
        rows.append(row)
    return rows
