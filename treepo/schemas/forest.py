"""The invariants of `forest.parquet`.

Knows how the rows of a tree must hang together; every check is an array program over all rows.
Knows nothing of how trees grow. Siblings may begin with the same token: they are two nodes that
were sampled apart, and no two leaves share a path because every row is a node of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from treepo.forest import ARROW_SCHEMA, MARKS, schema_with
from treepo.schemas.columns import NATURAL, Array, Check, Lists, Rules, codes, demand
from treepo.tree import FINISHES

_ROUNDING = 1e-6  # nats: a log-softmax in float32 may end this far above zero

FOREST = Rules(
    ARROW_SCHEMA,
    checks={
        "tree": NATURAL,
        "node": NATURAL,
        "parent": Check.ge(-1, error="must be -1 (the root) or the number of a node"),
        "depth": NATURAL,
        "start": NATURAL,
        "finish": Check.isin(FINISHES, error=f"must be null or one of {', '.join(FINISHES)}"),
    },
    nullable=frozenset({"finish"}),
)


def check_forest(table: pa.Table, where: str) -> pa.Table:
    """The forest with the exact schema of `forest.ARROW_SCHEMA`; an empty one is fine.

    A tree whose root has no children holds no trajectory, and passes. Without a column of MARKS no
    node has that mark. Raises UserError naming `where`, the column and the first bad row.
    """
    marks = [mark for mark in MARKS if mark in table.column_names]
    table = replace(FOREST, schema=schema_with(marks)).conform(table, where)
    if len(table):
        parent_row = _check_numbers(table, where)
        _check_prompts(table, parent_row, where)
        _check_places(table, parent_row, where)
        _check_contents(table, parent_row, where)
        _check_leaves(table, parent_row, where)
    return table


def _integers(table: pa.Table, name: str) -> Array:
    return table[name].to_numpy().astype(np.int64)


def _check_numbers(table: pa.Table, where: str) -> Array:
    """Trees and nodes are numbered without gaps; returns the row of each parent, -1 for roots."""
    tree, node, parent = (_integers(table, name) for name in ("tree", "node", "parent"))
    step = np.diff(tree, prepend=-1)
    in_order = (step == 0) | (step == 1)
    in_order[0] = tree[0] == 0
    demand(
        in_order,
        where,
        "tree",
        lambda row: f"{tree[row]}, but trees must be numbered 0, 1, 2, ... in order",
    )
    roots = np.flatnonzero(step == 1)
    first = roots[tree]
    expected = np.arange(len(tree)) - first
    demand(
        node == expected,
        where,
        "node",
        lambda row: (
            f"{node[row]}, but the nodes of tree {tree[row]} must be numbered "
            f"0, 1, 2, ... in order, and {expected[row]} comes here"
        ),
    )
    good = np.where(node == 0, parent == -1, (parent >= 0) & (parent < node))
    demand(
        good,
        where,
        "parent",
        lambda row: (
            f"{parent[row]}, but node 0 is the root and has parent -1"
            if node[row] == 0
            else f"{parent[row]}, but the parent of node {node[row]} must be a node before it"
        ),
    )
    return np.where(node == 0, -1, first + parent)


def _check_prompts(table: pa.Table, parent_row: Array, where: str) -> None:
    prompt = codes(table["prompt_id"])
    demand(
        (parent_row < 0) | (prompt == prompt[parent_row]),
        where,
        "prompt_id",
        "differs within the tree",
    )


def _check_places(table: pa.Table, parent_row: Array, where: str) -> None:
    """Depth and start follow from the parent's."""
    root = parent_row < 0
    lengths = Lists(table["tokens"]).lengths
    depth, start = _integers(table, "depth"), _integers(table, "start")
    for name, values, expected, what in (
        ("depth", depth, depth[parent_row] + 1, "one more than its parent's depth"),
        ("start", start, (start + lengths)[parent_row], "where its parent ends"),
    ):
        wanted = np.where(root, 0, expected)
        demand(
            values == wanted,
            where,
            name,
            lambda row, values=values, wanted=wanted, what=what: (
                f"{values[row]}, but must be {wanted[row]}, "
                f"{'as of every root' if root[row] else what}"
            ),
        )


def _check_contents(table: pa.Table, parent_row: Array, where: str) -> None:
    root = parent_row < 0
    tokens, logprobs = Lists(table["tokens"]), Lists(table["logprobs"])
    demand(root | (tokens.lengths > 0), where, "tokens", "a node needs at least one token")
    tokens.demand(tokens.values >= 0, where, "tokens", "must not be negative")
    forced = np.zeros(len(table), dtype=bool)
    if "forced" in table.column_names:
        forced = table["forced"].to_numpy().astype(bool)
    demand(~(root & forced), where, "forced", "true, but the root holds the prompt")
    expected = np.where(root | forced, 0, tokens.lengths)
    demand(
        logprobs.lengths == expected,
        where,
        "logprobs",
        lambda row: (
            f"the root has {logprobs.lengths[row]} logprobs, but a prompt is not sampled"
            if root[row]
            else f"{logprobs.lengths[row]} logprobs for {tokens.lengths[row]} tokens"
            + (" that were put in" if forced[row] else "")
        ),
    )
    values = logprobs.values
    logprobs.demand(np.isfinite(values), where, "logprobs", "must be finite")
    logprobs.demand(values <= _ROUNDING, where, "logprobs", "must be at most 0")


def _check_leaves(table: pa.Table, parent_row: Array, where: str) -> None:
    """Leaves and only leaves have a finish; a root never has one."""
    inner = parent_row < 0
    inner[parent_row[parent_row >= 0]] = True
    finished = table["finish"].is_valid().to_numpy()
    demand(
        finished != inner,
        where,
        "finish",
        lambda row: (
            f"{table['finish'][row].as_py()!r}, but only leaves have a finish"
            if inner[row]
            else "null, but a leaf must say why it ended"
        ),
    )
