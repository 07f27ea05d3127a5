"""The other artifact tables: scores, advantages, problems and evaluation.

Knows their columns, their keys, and how scores and advantages belong to the leaves of a forest.
Knows nothing of how a reward or an advantage is computed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from treepo.errors import UserError
from treepo.forest import Forest
from treepo.schemas.columns import (
    FILLED,
    FINITE,
    NATURAL,
    Array,
    Check,
    Lists,
    Rules,
    at,
    codes,
    demand,
    first_repeat,
)
from treepo.tree import FINISHES

# One row a trajectory. `reason`: why the verifier refused the response, "" where it did not.
SCORES_SCHEMA = pa.schema(
    [
        ("tree", pa.int32()),
        ("leaf", pa.int32()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
        ("answer", pa.string()),
        ("reason", pa.string()),
        ("components", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
    ]
)
# One row a trajectory. `path`: node numbers below the root, top down; one advantage for each.
ADVANTAGES_SCHEMA = pa.schema(
    [
        ("tree", pa.int32()),
        ("leaf", pa.int32()),
        ("path", pa.list_(pa.int32())),
        ("advantage", pa.list_(pa.float32())),
        ("estimator", pa.string()),
    ]
)
# One row a problem. `prompt`: the text that the policy reads, and `prompt_tokens` its ids.
PROBLEMS_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("solution", pa.string()),
        ("family", pa.string()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.list_(pa.int32())),
    ]
)
# One row a response. `tokens`: its length; `new_tokens`: those of them that no earlier response of
# the problem shares. `group`: the class of its answer among the problem's, by verified equivalence;
# 0 is right, -1 no answer.
EVALUATION_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("response", pa.string()),
        ("tokens", pa.int32()),
        ("new_tokens", pa.int32()),
        ("finish", pa.string()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
        ("answer", pa.string()),
        ("group", pa.int32()),
    ]
)

_LEAF = Check.ge(1, error="must be the number of a node below the root")
_NULLABLE_ANSWER = frozenset({"answer"})

SCORES = Rules(
    SCORES_SCHEMA,
    checks={"tree": NATURAL, "leaf": _LEAF, "reward": FINITE},
    nullable=_NULLABLE_ANSWER,
)
# Of scores that come from elsewhere only the rewards must be given.
REWARDS = Rules(SCORES_SCHEMA, checks=SCORES.checks, nullable=_NULLABLE_ANSWER | {"correct"})
ADVANTAGES = Rules(ADVANTAGES_SCHEMA, checks={"tree": NATURAL, "leaf": _LEAF, "estimator": FILLED})
PROBLEMS = Rules(PROBLEMS_SCHEMA, checks={"prompt_id": FILLED, "problem": FILLED, "answer": FILLED})
ANSWERS = Rules(
    pa.schema([("prompt_id", pa.string()), ("answer", pa.string())]),
    checks={"prompt_id": FILLED, "answer": FILLED},
)
EVALUATION = Rules(
    EVALUATION_SCHEMA,
    checks={
        "sample": NATURAL,
        "tokens": NATURAL,
        "new_tokens": NATURAL,
        "group": Check.ge(-1, error="must be -1, 0 or the number of a class"),
        "finish": Check.isin(FINISHES, error=f"must be one of {', '.join(FINISHES)}"),
        "reward": FINITE,
    },
    nullable=_NULLABLE_ANSWER,
)


def check_scores(table: pa.Table, where: str) -> pa.Table:
    """The scores with the exact schema, one row for each (tree, leaf).

    Raises UserError naming `where`, the column and the first bad row.
    """
    return _check_scores(SCORES, table, where)


def _check_scores(rules: Rules, table: pa.Table, where: str) -> pa.Table:
    table = rules.conform(table, where)
    _refuse_repeated_leaves(table, where)
    components = Lists(table["components"])
    values = pc.struct_field(components.flat, "value").to_numpy(zero_copy_only=False)
    components.demand(np.isfinite(values), where, "components", "must have a finite value")
    return table


def check_reward_table(table: pa.Table, where: str) -> pa.Table:
    """Scores of which only tree, leaf and reward must be given.

    Where they do not say what is correct, that stays null; the others get plain values.
    """
    count = table.num_rows
    defaults = {
        "correct": pa.nulls(count, pa.bool_()),
        "answer": pa.nulls(count, pa.string()),
        "reason": pa.nulls(count, pa.string()).fill_null(""),
        "components": pa.array([[]] * count, SCORES_SCHEMA.field("components").type),
    }
    for name, column in defaults.items():
        if name not in table.column_names:
            table = table.append_column(name, column)
    return _check_scores(REWARDS, table, where)


def check_answers(table: pa.Table, where: str) -> pa.Table:
    """The columns prompt_id and answer of any table of problems, each prompt_id once.

    Raises UserError naming `where`, the column and the first bad row.
    """
    for name in ("prompt_id", "answer"):
        if name not in table.column_names:
            raise UserError(f"{where}: column '{name}' is missing")
    table = ANSWERS.conform(table.select(["prompt_id", "answer"]), where)
    _refuse_repeated_prompts(table, where)
    return table


def check_advantages(table: pa.Table, where: str) -> pa.Table:
    """The advantages with the exact schema, one row for each (tree, leaf).

    A path goes down, ends in its leaf, and has one finite advantage for each of its nodes.
    Raises UserError naming `where`, the column and the first bad row.
    """
    table = ADVANTAGES.conform(table, where)
    _refuse_repeated_leaves(table, where)
    path, advantage = Lists(table["path"]), Lists(table["advantage"])
    nodes, last = path.values, path.offsets[1:] - 1
    demand(path.lengths > 0, where, "path", "must hold at least the leaf")
    demand(
        advantage.lengths == path.lengths,
        where,
        "advantage",
        lambda row: f"{advantage.lengths[row]} advantages for {path.lengths[row]} nodes",
    )
    increasing = np.diff(nodes, prepend=0) > 0
    increasing[path.offsets[:-1]] = nodes[path.offsets[:-1]] > 0
    path.demand(increasing, where, "path", "but node numbers must be above 0 and increase")
    demand(nodes[last] == _integers(table, "leaf"), where, "path", "must end in the row's leaf")
    advantage.demand(np.isfinite(advantage.values), where, "advantage", "must be finite")
    return table


def check_problems(table: pa.Table, where: str) -> pa.Table:
    """The problems with the exact schema, each prompt_id once.

    `solution`, `family` and `prompt` may be empty text, the others not. Raises UserError naming
    `where`, the column and the first bad row.
    """
    table = PROBLEMS.conform(table, where)
    _refuse_repeated_prompts(table, where)
    tokens = Lists(table["prompt_tokens"])
    demand(tokens.lengths > 0, where, "prompt_tokens", "a prompt needs at least one token")
    tokens.demand(tokens.values >= 0, where, "prompt_tokens", "must not be negative")
    return table


def check_evaluation(table: pa.Table, where: str) -> pa.Table:
    """The responses with the exact schema, each (prompt_id, sample) once.

    What is correct, and nothing else, has group 0; no more tokens are new than there are.
    Raises UserError naming `where`, the column and the first bad row.
    """
    table = EVALUATION.conform(table, where)
    repeated = first_repeat(_pair(codes(table["prompt_id"]), _integers(table, "sample")))
    if repeated is not None:
        name, sample = (table[key][repeated].as_py() for key in ("prompt_id", "sample"))
        place = at(where, "sample", repeated)
        raise UserError(f"{place}: {sample} of prompt {name!r:.60} appears twice")
    right = table["correct"].to_numpy(zero_copy_only=False)
    group, new = _integers(table, "group"), _integers(table, "new_tokens")
    demand((group == 0) == right, where, "group", "must be 0 where the answer is right, only there")
    demand(new <= _integers(table, "tokens"), where, "new_tokens", "must not exceed 'tokens'")
    return table


def check_scores_match(scores: pa.Table, forest: Forest, where: str) -> pa.Table:
    """The checked scores in the order of `forest.leaves`.

    Raises UserError where a leaf of the forest has no score, or a score no leaf; `where` names
    the scores.
    """
    return scores.take(_rows_of_leaves(scores, forest, where))


def check_advantages_match(advantages: pa.Table, forest: Forest, where: str) -> pa.Table:
    """The checked advantages in the order of `forest.leaves`.

    Raises UserError where a leaf of the forest has no row, a row no leaf, or a path is not the
    way from the root to its leaf; `where` names the advantages.
    """
    order = _rows_of_leaves(advantages, forest, where)
    path = Lists(advantages["path"])
    nodes = path.values.astype(np.int64)
    tree = np.repeat(_integers(advantages, "tree"), path.lengths)
    # A node number beyond its tree would read another tree's rows; a path ends in a leaf that is
    # known to exist, and increases up to it.
    rows = forest.tree_start[tree] + nodes
    above = np.concatenate([[0], nodes[:-1]])
    above[path.offsets[:-1]] = 0
    path.demand(forest.parent[rows] == above, where, "path", "not a child of the node before it")
    return advantages.take(order)


def _integers(table: pa.Table, name: str) -> Array:
    return table[name].to_numpy().astype(np.int64)


def _pair(high: Array, low: Array) -> Array:
    """One int64 key for two numbers of at most 31 bits."""
    return (high << 32) | low


def _refuse_repeated_prompts(table: pa.Table, where: str) -> None:
    row = first_repeat(codes(table["prompt_id"]))
    if row is not None:
        name = table["prompt_id"][row].as_py()
        raise UserError(f"{at(where, 'prompt_id', row)}: {name!r:.60} appears twice")


def _refuse_repeated_leaves(table: pa.Table, where: str) -> None:
    tree, leaf = _integers(table, "tree"), _integers(table, "leaf")
    row = first_repeat(_pair(tree, leaf))
    if row is not None:
        raise UserError(f"{at(where, 'leaf', row)}: {leaf[row]} of tree {tree[row]} appears twice")


def _rows_of_leaves(table: pa.Table, forest: Forest, where: str) -> Array:
    """The row of `table` for each leaf of the forest, int64 [trajectories]."""
    tree, leaf = _integers(table, "tree"), _integers(table, "leaf")
    given = _pair(tree, leaf)
    wanted = _pair(forest.tree[forest.leaves], forest.node[forest.leaves])
    demand(
        np.isin(given, wanted),
        where,
        "leaf",
        lambda row: f"{leaf[row]} of tree {tree[row]} is not a leaf of the forest",
    )
    missing = np.flatnonzero(~np.isin(wanted, given))
    if len(missing):
        row = forest.leaves[missing[0]]
        place = f"leaf {forest.node[row]} of tree {forest.tree[row]} has no row"
        raise UserError(f"{where}: column 'leaf': {place} (forest row {row})")
    # Both are now the same set without repeats, so the sorted keys pair up.
    order = np.empty(len(wanted), dtype=np.int64)
    order[np.argsort(wanted)] = np.argsort(given)
    return order
