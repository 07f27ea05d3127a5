"""Which sampled trees the report holds, read from the artifacts of their iterations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import transformers

from tasks.report_page import ShownIteration, ShownTree, TreeNodes
from tasks.tables import read_advantages, read_forest, read_scores
from tasks.workspace import of_iteration
from treepo.advantages import Advantages
from treepo.forest import Forest

PARTS = ("forest", "scores", "advantages")
ITERATIONS = 8  # shown at most
TOKENS = 1_000_000  # shown at most, over all iterations; the page must stay light


def shown_iterations(iterations: int) -> list[int]:
    """The first and the last iteration, and others at even distances between."""
    count = min(ITERATIONS, iterations)
    return sorted({round(k) for k in np.linspace(1, iterations, count)}) if count else []


def tree_artifacts(iteration: int) -> list[str]:
    """What the trees of one iteration are read from."""
    return [of_iteration(iteration, f"{part}.parquet") for part in PARTS]


def shown_trees(
    inputs: Mapping[str, Path],
    iterations: list[int],
    tokenizer: transformers.PreTrainedTokenizerBase,
    answers: Mapping[str, str],
) -> list[ShownIteration]:
    """The trees of these iterations, those that were learned from first."""
    return [
        _iteration(inputs, k, tokenizer, answers, TOKENS // len(iterations)) for k in iterations
    ]


def _iteration(
    inputs: Mapping[str, Path],
    iteration: int,
    tokenizer: transformers.PreTrainedTokenizerBase,
    answers: Mapping[str, str],
    budget: int,
) -> ShownIteration:
    forest_file, scores_file, advantages_file = (inputs[n] for n in tree_artifacts(iteration))
    forest = read_forest(forest_file)
    reward = np.full(len(forest), np.nan)
    reward[forest.leaves] = read_scores(scores_file, forest)["reward"].to_numpy()
    advantages = read_advantages(advantages_file, forest)
    total = np.bincount(advantages.row, advantages.value, minlength=len(forest))
    columns = {"advantage": total / forest.leaf_counts, "reward": reward}
    trees: list[ShownTree] = []
    for tree in _within(budget, forest, advantages):
        rows = np.arange(forest.tree_start[tree], forest.tree_start[tree + 1])
        prompt_id = str(forest.prompt_id[rows[0]])
        nodes = _nodes(forest, rows, columns, tokenizer)
        trees.append(ShownTree(prompt_id, answers[prompt_id], nodes))
    return ShownIteration(iteration, forest.trees, trees)


def _within(budget: int, forest: Forest, advantages: Advantages) -> list[int]:
    """Trees whose tokens together keep the budget, the first in any case."""
    learned = np.bincount(
        forest.tree[advantages.row], np.abs(advantages.value), minlength=forest.trees
    )
    order = np.argsort(learned == 0, kind="stable")
    sizes = np.add.reduceat(forest.lengths, forest.tree_start[:-1])[order]
    count = int(np.searchsorted(np.cumsum(sizes), budget, side="right"))
    return order[: max(1, count)].tolist()


def _nodes(
    forest: Forest,
    rows: np.ndarray,
    columns: Mapping[str, np.ndarray],
    tokenizer: transformers.PreTrainedTokenizerBase,
) -> TreeNodes:
    inner = forest.parent[rows] >= 0
    tokens = np.concatenate([np.arange(forest.offsets[r], forest.offsets[r + 1]) for r in rows])
    starts = np.cumsum([0, *forest.lengths[rows][:-1]])
    logprob = np.add.reduceat(forest.logprobs[tokens], starts) / forest.lengths[rows]
    return TreeNodes(
        parent=forest.parent[rows].tolist(),
        start=forest.start[rows].tolist(),
        end=(forest.start[rows] + forest.lengths[rows]).tolist(),
        text=tokenizer.batch_decode([forest.node_tokens(row) for row in rows]),
        advantage=np.where(inner, columns["advantage"][rows], np.nan).tolist(),
        logprob=np.where(forest.sampled[rows], logprob, np.nan).tolist(),
        reward=columns["reward"][rows].tolist(),
        finish=forest.finish[rows].tolist(),
        restarted=forest.restarted[rows].tolist(),
    )
