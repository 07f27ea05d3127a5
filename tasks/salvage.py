"""Finished trees of a step that failed: kept beside its output for the next attempt.

A tree is a function of what the step reads and of its prompt, so one that is finished stays right
as long as the step would be recorded with the same inputs, parameters and seed, and the user's own
policies are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.hashing import content_hash
from tasks.steps import Job
from tasks.tables import read_forest
from treepo.forest import Forest
from treepo.plugins import sources
from treepo.storage import write_table
from treepo.tree import Tree


@contextmanager
def salvaged(job: Job) -> Iterator[dict[str, Tree]]:
    """Finished trees by prompt_id, to be filled; empty but after a failed attempt at the same.

    What it holds when the block fails is kept, and dropped when the block succeeds.
    """
    inputs = {name: content_hash(path) for name, path in job.inputs.items()}
    plugins = [content_hash(file) for file in sources(job.params.plugins)]
    key = json.dumps([inputs, plugins, job.params.values(), job.seed], sort_keys=True)
    name = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    file = job.output.parent / f".{name}.trees.parquet"
    finished = (
        {tree.prompt_id: tree for tree in read_forest(file).to_trees()} if file.exists() else {}
    )
    try:
        yield finished
    except BaseException:  # whatever it was, and also when the user stopped it
        if finished:
            write_table(Forest.from_trees(finished.values()).to_arrow(), file)
        raise
    file.unlink(missing_ok=True)
