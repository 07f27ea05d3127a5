"""Artifact tables as the library's objects: read, checked against each other, and built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.hashing import content_hash
from treepo.advantages import Advantages
from treepo.forest import Forest
from treepo.schemas import (
    check_advantages,
    check_advantages_match,
    check_forest,
    check_reward_table,
    check_scores_match,
)
from treepo.storage import read_table

Check = Callable[[pa.Table, str], pa.Table]


# Tables kept in memory, those that the steps of one iteration share: prompts, answers, forest,
# scores, advantages. No more, as a forest may be large.
RECENT = 5


def recent_table(path: Path, check: Check) -> pa.Table:
    """As `read_table`; what this process has read before, by its content, is not read again.

    The steps of an iteration read the same few files, and checking one takes longer than all else
    that is done with a small one.
    """
    try:
        digest = content_hash(path)
    except OSError:
        return read_table(path, check)  # which says what is wrong
    return _read(path, digest, check)


@lru_cache(RECENT)
def _read(path: Path, digest: str, check: Check) -> pa.Table:
    del digest  # a part of the key
    return read_table(path, check)


def read_forest(path: Path) -> Forest:
    """The forest in a file. Raises UserError where it is none."""
    return Forest.from_arrow(recent_table(path, check_forest))


def read_scores(path: Path, forest: Forest) -> pa.Table:
    """Scores in the order of the forest's leaves, one each; only rewards must be given."""
    return check_scores_match(recent_table(path, check_reward_table), forest, str(path))


def outcomes(scores: pa.Table) -> np.ndarray:
    """What the verifier said of each trajectory, float64: 1 right, 0 wrong, or else the reward.

    Shaping makes rewards differ where answers do not, so a query filter must not look at it.
    """
    correct = scores["correct"].cast(pa.float64())
    return pc.coalesce(correct, scores["reward"]).to_numpy()


def read_advantages(path: Path, forest: Forest) -> Advantages:
    """Advantages of the forest's trajectories."""
    table = check_advantages_match(recent_table(path, check_advantages), forest, str(path))
    return Advantages.from_arrow(table, forest)


def table_of(schema: pa.Schema, columns: Sequence[Any]) -> pa.Table:
    """A table of this schema from one sequence a column."""
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)
