"""Step `prepare`: problems, held-out problems, and the account of what was filtered."""

from __future__ import annotations

import json
from collections import Counter

from tasks.steps import Job, Metrics, Step
from tasks.workspace import HELDOUT, TRAIN
from treepo.data import local_files, prepare
from treepo.models import load_tokenizer
from treepo.schemas import check_problems
from treepo.storage import write_table, write_text


def run(job: Job) -> Metrics:
    """Write train.parquet, heldout.parquet and filtered.json."""
    pool = job.resources.verifier(job.params.scoring)
    tokenizer = load_tokenizer(job.params.model)
    prepared = prepare(job.params.data, tokenizer, job.seed, pool.readable)
    folder = job.output
    folder.mkdir()
    for table, name in ((prepared.train, TRAIN), (prepared.heldout, HELDOUT)):
        file = name.removeprefix("data/")
        write_table(check_problems(table, name), folder / file)
    reasons = Counter(row["reason"] for row in prepared.filtered)
    account = {"reasons": dict(sorted(reasons.items())), "rows": prepared.filtered}
    write_text(json.dumps(account, indent=1), folder / "filtered.json")
    return {
        "train": float(prepared.train.num_rows),
        "heldout": float(prepared.heldout.num_rows),
        "filtered": float(len(prepared.filtered)),
    }


PREPARE = Step(
    name="prepare",
    description="load problems, make prompts, split off the held-out ones",
    inputs=lambda _: (),
    outputs=lambda _: ("data",),
    reads=("plugins", "data", "model", "scoring"),
    run=run,
    files=lambda params: local_files(params.data),
)
