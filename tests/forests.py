"""Random trees for property tests, and the tables that belong to them.

`forests()` draws small, shrinking forests with forks, splits and uneven depth; `large_forest()`
makes one of a given shape fast. Import it as `from forests import forests`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from treepo.forest import Forest
from treepo.schemas import ADVANTAGES_SCHEMA, SCORES_SCHEMA
from treepo.tree import FINISHES, Segment, Tree


@st.composite
def trees(
    draw: st.DrawFn,
    *,
    vocabulary: int = 11,
    max_prompt: int = 5,
    max_segment: int = 5,
    max_segments: int = 8,
    max_splits: int = 2,
    prompt_ids: st.SearchStrategy[str] | None = None,
) -> Tree:
    """One finished tree of 1 to `max_segments` sampled segments, some of them split afterwards.

    Token ids are below `vocabulary`; lengths are in tokens. Every childless node has a finish.
    """
    tokens = st.integers(0, vocabulary - 1)
    prompt = draw(st.lists(tokens, min_size=1, max_size=max_prompt))
    ids = st.sampled_from(["p0", "p1", "p2"]) if prompt_ids is None else prompt_ids
    tree = Tree(draw(ids), prompt, seed=draw(st.integers(0, 7)))
    nodes = [tree.root]
    for key in range(draw(st.integers(1, max_segments))):
        parent = nodes[draw(st.integers(0, len(nodes) - 1))]
        nodes.append(tree.grow(parent, draw(segments(tokens, max_segment)), key))
    for _ in range(draw(st.integers(0, max_splits))):
        long = [node for node in tree.nodes() if node.parent is not None and len(node.tokens) > 1]
        if long:
            node = long[draw(st.integers(0, len(long) - 1))]
            tree.split(node, draw(st.integers(1, len(node.tokens) - 1)))
    for node in tree.nodes():
        if not node.children:
            node.finish = draw(st.sampled_from(FINISHES))
    return tree


@st.composite
def segments(draw: st.DrawFn, tokens: st.SearchStrategy[int], max_segment: int) -> Segment:
    """One sampled segment; logprobs are float32 numbers in [-20, 0] nats."""
    ids = draw(st.lists(tokens, min_size=1, max_size=max_segment))
    logprob = st.floats(-20, 0, width=32)
    return Segment(ids, draw(st.lists(logprob, min_size=len(ids), max_size=len(ids))))


@st.composite
def forests(
    draw: st.DrawFn,
    *,
    min_trees: int = 1,
    max_trees: int = 3,
    vocabulary: int = 11,
    max_prompt: int = 5,
    max_segment: int = 5,
    max_segments: int = 8,
    max_splits: int = 2,
) -> Forest:
    """A forest of finished trees; several trees may share a prompt_id, but not their prompt."""
    tree = trees(
        vocabulary=vocabulary,
        max_prompt=max_prompt,
        max_segment=max_segment,
        max_segments=max_segments,
        max_splits=max_splits,
    )
    return Forest.from_trees(draw(st.lists(tree, min_size=min_trees, max_size=max_trees)))


def rewards(
    forest: Forest, values: st.SearchStrategy[float] | None = None
) -> st.SearchStrategy[np.ndarray]:
    """A reward for each trajectory, float64 [trajectories]; 0 or 1 unless `values` says else."""
    count = len(forest.leaves)
    one = st.sampled_from([0.0, 1.0]) if values is None else values
    return st.lists(one, min_size=count, max_size=count).map(
        lambda drawn: np.array(drawn, dtype=np.float64)
    )


@st.composite
def scored_forests(
    draw: st.DrawFn, values: st.SearchStrategy[float] | None = None
) -> tuple[Forest, np.ndarray]:
    """A default forest and a reward for each of its trajectories."""
    forest = draw(forests())
    return forest, draw(rewards(forest, values))


def scores_table(forest: Forest, reward: np.ndarray) -> pa.Table:
    """The scores table of these rewards, in the order of `forest.leaves`."""
    rows = [
        {
            "tree": int(forest.tree[leaf]),
            "leaf": int(forest.node[leaf]),
            "reward": float(value),
            "correct": bool(value > 0),
            "answer": str(value) if value > 0 else None,
            "reason": "" if value > 0 else "no answer",
            "components": [{"name": "accuracy", "value": float(value)}],
        }
        for leaf, value in zip(forest.leaves, reward, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def advantages_table(forest: Forest, reward: np.ndarray) -> pa.Table:
    """An advantages table whose every node on a path has the trajectory's reward."""
    rows = [
        {
            "tree": int(forest.tree[leaf]),
            "leaf": int(forest.node[leaf]),
            "path": forest.node[path].tolist(),
            "advantage": [float(value)] * len(path),
            "estimator": "reward",
        }
        for leaf, path, value in zip(forest.leaves, forest.paths, reward, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ADVANTAGES_SCHEMA)


def large_forest(
    *, count: int, width: int, depth: int, segment: int, prompt: int = 32, seed: int = 0
) -> Forest:
    """`count` trees of `width` trajectories: one chain of `depth` segments each, from the root.

    No Python loop over nodes, so that benchmarks can afford 100,000 rows; `segment` and `prompt`
    are in tokens.
    """
    random = np.random.default_rng(seed)
    rows = 1 + width * depth
    node = np.arange(rows)
    level = np.where(node == 0, 0, (node - 1) % depth + 1)
    parent = np.where(level == 1, 0, node - 1)
    start = np.where(level == 0, 0, prompt + (level - 1) * segment)
    lengths = np.tile(np.where(level == 0, prompt, segment), count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    logprobs = -random.random(offsets[-1], dtype=np.float32)
    logprobs[np.repeat(np.tile(level == 0, count), lengths)] = 0.0
    tree = np.repeat(np.arange(count), rows)
    return Forest(
        tree=tree,
        prompt_id=np.array([f"p{index}" for index in range(count)], dtype=object)[tree],
        node=np.tile(node, count),
        parent=np.tile(parent, count),
        depth=np.tile(level, count),
        start=np.tile(start, count),
        tokens=random.integers(0, 50_000, offsets[-1], dtype=np.int32),
        logprobs=logprobs,
        offsets=offsets,
        finish=np.tile(np.where(level == depth, "eos", None), count),
        forced=np.zeros(rows * count, dtype=bool),
        restarted=np.zeros(rows * count, dtype=bool),
    )
