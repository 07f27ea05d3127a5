"""What every artifact table must be: schemas by pandera, invariants between rows by numpy.

Knows the tables of a run, and names file, column and row in what it refuses.
Knows nothing of where a table comes from: `treepo.storage` reads and writes.
"""

from treepo.forest import ARROW_SCHEMA as FOREST_SCHEMA
from treepo.schemas.forest import check_forest
from treepo.schemas.tables import (
    ADVANTAGES_SCHEMA,
    EVALUATION_SCHEMA,
    PROBLEMS_SCHEMA,
    SCORES_SCHEMA,
    check_advantages,
    check_advantages_match,
    check_answers,
    check_evaluation,
    check_problems,
    check_reward_table,
    check_scores,
    check_scores_match,
)

__all__ = [
    "ADVANTAGES_SCHEMA",
    "EVALUATION_SCHEMA",
    "FOREST_SCHEMA",
    "PROBLEMS_SCHEMA",
    "SCORES_SCHEMA",
    "check_advantages",
    "check_advantages_match",
    "check_answers",
    "check_evaluation",
    "check_forest",
    "check_problems",
    "check_reward_table",
    "check_scores",
    "check_scores_match",
]
