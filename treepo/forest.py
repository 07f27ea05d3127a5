"""The forest: many finished trees as flat columns, and its Parquet form.

The columns are numpy arrays, so that scoring, advantages and packing are array programs over
all trees at once. `offsets` index into `tokens` and `logprobs`, one span a node; the root's
logprobs, and those of tokens that were put in, are stored as zeros here and as an empty list on
disk: they were not sampled. The columns of MARKS are there only where some node has the mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from treepo.tree import Node, Tree

Array = np.ndarray

ARROW_SCHEMA = pa.schema(
    [
        ("tree", pa.int32()),
        ("prompt_id", pa.string()),
        ("node", pa.int32()),
        ("parent", pa.int32()),
        ("depth", pa.int16()),
        ("start", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("finish", pa.string()),
    ]
)
MARKS = ("forced", "restarted")


def schema_with(marks: Iterable[str]) -> pa.Schema:
    """The schema of a forest with these marks."""
    return pa.schema([*ARROW_SCHEMA, *(pa.field(mark, pa.bool_()) for mark in marks)])


@dataclass(frozen=True)
class Forest:
    """Rows are nodes, sorted by tree, parents before children.

    tree, node, parent, depth, start: int64 [rows]; `node` and `parent` count within a tree.
    tokens: int32, logprobs: float32 [tokens]; offsets: int64 [rows + 1].
    finish: object [rows], None where a node is not a leaf. prompt_id: object [rows].
    forced: bool [rows], whether the node's tokens were put in, not sampled.
    restarted: bool [rows], whether a fallback began a path here.
    """

    tree: Array
    prompt_id: Array
    node: Array
    parent: Array
    depth: Array
    start: Array
    tokens: Array
    logprobs: Array
    offsets: Array
    finish: Array
    forced: Array
    restarted: Array

    def __len__(self) -> int:
        return len(self.tree)

    @cached_property
    def lengths(self) -> Array:
        """Tokens in each node, int64 [rows]."""
        return np.diff(self.offsets)

    @cached_property
    def sampled(self) -> Array:
        """Whether the node's tokens were sampled: neither a prompt nor put in. bool [rows]."""
        return (self.parent >= 0) & ~self.forced

    @cached_property
    def sampled_lengths(self) -> Array:
        """Sampled tokens in each node, int64 [rows]."""
        return self.lengths * self.sampled

    @cached_property
    def tree_start(self) -> Array:
        """Row of each tree's root, with the row count appended: int64 [trees + 1]."""
        return np.append(np.flatnonzero(self.parent < 0), len(self))

    @cached_property
    def parent_row(self) -> Array:
        """Row of each node's parent, -1 for roots: int64 [rows]."""
        first = np.repeat(self.tree_start[:-1], np.diff(self.tree_start))
        return np.where(self.parent < 0, -1, first + self.parent)

    @cached_property
    def leaves(self) -> Array:
        """Rows of the leaves, one a trajectory: int64 [trajectories]."""
        return np.flatnonzero(np.array([finish is not None for finish in self.finish], dtype=bool))

    @cached_property
    def leaf_counts(self) -> Array:
        """Leaves at or below each node: int64 [rows]."""
        counts = np.zeros(len(self), dtype=np.int64)
        counts[self.leaves] = 1
        return self.sum_up(counts)

    @cached_property
    def entries(self) -> tuple[Array, Array]:
        """(trajectory, row) of each node below the root of each trajectory, top down.

        int64 [entries] each; an entry is a segment as one trajectory sees it.
        """
        counts = self.depth[self.leaves]
        rows = np.empty(int(counts.sum()), dtype=np.int64)
        place, row = np.cumsum(counts) - 1, self.leaves
        while len(row):
            below_root = self.parent[row] >= 0
            place, row = place[below_root], row[below_root]
            rows[place] = row
            place, row = place - 1, self.parent_row[row]
        return np.repeat(np.arange(len(self.leaves)), counts), rows

    @cached_property
    def paths(self) -> list[Array]:
        """Rows below the root on the way to each leaf, top down; one array a trajectory."""
        ends = np.cumsum(self.depth[self.leaves])
        return np.split(self.entries[1], ends[:-1]) if len(ends) else []

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self.tree_start) - 1

    @property
    def sampled_tokens(self) -> int:
        """Tokens that were sampled, each counted once."""
        return int(self.sampled_lengths.sum())

    @property
    def trajectory_tokens(self) -> int:
        """Tokens of all responses, as a flat batch would have to sample them."""
        return int((self.sampled_lengths * self.leaf_counts).sum())

    def sum_up(self, values: Array) -> Array:
        """Sum of `values` [rows, ...] over each node and everything below it."""
        return self.fold_up(values, np.add)

    def fold_up(self, values: Array, combine: np.ufunc) -> Array:
        """`combine`, such as np.maximum, of each node's values [rows, ...] and all below it."""
        total = values.copy()
        for depth in range(int(self.depth.max(initial=0)), 0, -1):
            rows = np.flatnonzero(self.depth == depth)
            combine.at(total, self.parent_row[rows], total[rows])
        return total

    def sum_down(self, values: Array) -> Array:
        """Sum of `values` [rows] over each node and everything above it."""
        total = values.copy()
        for depth in range(1, int(self.depth.max(initial=0)) + 1):
            rows = np.flatnonzero(self.depth == depth)
            total[rows] += total[self.parent_row[rows]]
        return total

    def node_tokens(self, row: int) -> Array:
        """Token ids of one node."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def responses(self) -> list[Array]:
        """Token ids of each trajectory, the prompt excluded."""
        empty = np.empty(0, dtype=np.int32)
        return [
            np.concatenate([self.node_tokens(row) for row in path]) if len(path) else empty
            for path in self.paths
        ]

    def to_trees(self) -> Iterator[Tree]:
        """The finished trees that the forest was made of; their random streams are spent."""
        for first, end in zip(self.tree_start[:-1], self.tree_start[1:], strict=True):
            tree = Tree(str(self.prompt_id[first]), self.node_tokens(first).tolist(), 0)
            nodes = [tree.root]
            for row in range(first + 1, end):
                span = slice(self.offsets[row], self.offsets[row + 1])
                parent = nodes[self.parent[row]]
                node = Node(
                    parent=parent,
                    depth=parent.depth + 1,
                    start=parent.end,
                    tokens=self.tokens[span].tolist(),
                    logprobs=[] if self.forced[row] else self.logprobs[span].tolist(),
                    key=0,
                    finish=self.finish[row],
                    forced=bool(self.forced[row]),
                    restarted=bool(self.restarted[row]),
                )
                parent.children.append(node)
                nodes.append(node)
            yield tree

    @staticmethod
    def from_trees(trees: Iterable[Tree]) -> Forest:
        """Flatten finished trees; nodes are numbered depth first, so that parent < node."""
        rows: list[tuple[int, str, int, int, int, int, str | None, bool, bool]] = []
        tokens: list[int] = []
        logprobs: list[float] = []
        offsets = [0]
        for index, tree in enumerate(trees):
            number: dict[int, int] = {}
            for node in tree.nodes():
                number[id(node)] = len(number)
                parent = -1 if node.parent is None else number[id(node.parent)]
                rows.append(
                    (
                        index,
                        tree.prompt_id,
                        number[id(node)],
                        parent,
                        node.depth,
                        node.start,
                        node.finish,
                        node.forced,
                        node.restarted,
                    )
                )
                tokens.extend(node.tokens)
                logprobs.extend(node.logprobs or [0.0] * len(node.tokens))
                offsets.append(len(tokens))
        column = list(zip(*rows, strict=True)) if rows else [()] * 9
        integers = [np.array(column[i], dtype=np.int64) for i in (0, 2, 3, 4, 5)]
        return Forest(
            integers[0],
            np.array(column[1], dtype=object),
            *integers[1:],
            tokens=np.array(tokens, dtype=np.int32),
            logprobs=np.array(logprobs, dtype=np.float32),
            offsets=np.array(offsets, dtype=np.int64),
            finish=np.array(column[6], dtype=object),
            forced=np.array(column[7], dtype=bool),
            restarted=np.array(column[8], dtype=bool),
        )

    def to_arrow(self) -> pa.Table:
        """The table `forest.parquet`: `ARROW_SCHEMA`."""
        sampled = self.sampled
        logprob_lengths = np.where(sampled, self.lengths, 0)
        logprob_offsets = np.concatenate([[0], np.cumsum(logprob_lengths)])
        marks = {mark: getattr(self, mark) for mark in MARKS if getattr(self, mark).any()}
        columns = [
            self.tree,
            self.prompt_id,
            self.node,
            self.parent,
            self.depth,
            self.start,
            pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.tokens)),
            pa.ListArray.from_arrays(
                pa.array(logprob_offsets, pa.int32()),
                pa.array(self.logprobs[np.repeat(sampled, self.lengths)]),
            ),
            self.finish,
            *marks.values(),
        ]
        schema = schema_with(marks)
        arrays = [
            column.cast(field.type)
            if isinstance(column, pa.Array)
            else pa.array(column, field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        return pa.table(arrays, schema=schema)

    @staticmethod
    def from_arrow(table: pa.Table) -> Forest:
        """Read back what `to_arrow` wrote; the table must have passed `schemas.check_forest`."""

        def integers(name: str) -> Array:
            return table[name].to_numpy().astype(np.int64)

        lists = table["tokens"].combine_chunks()
        flat_logprobs = pc.list_flatten(table["logprobs"].combine_chunks())
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
        parent = integers("parent")
        forced, restarted = (_mark(table, name) for name in MARKS)
        sampled = np.repeat((parent >= 0) & ~forced, np.diff(offsets))
        logprobs = np.zeros(len(sampled), dtype=np.float32)
        logprobs[sampled] = flat_logprobs.to_numpy()
        return Forest(
            tree=integers("tree"),
            prompt_id=table["prompt_id"].to_numpy(),
            node=integers("node"),
            parent=parent,
            depth=integers("depth"),
            start=integers("start"),
            tokens=pc.list_flatten(lists).to_numpy(),
            logprobs=logprobs,
            offsets=offsets.astype(np.int64),
            finish=table["finish"].to_numpy(),
            forced=forced,
            restarted=restarted,
        )


def _mark(table: pa.Table, name: str) -> Array:
    if name not in table.column_names:
        return np.zeros(len(table), dtype=bool)
    return table[name].to_numpy().astype(bool)
