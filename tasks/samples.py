"""A few trajectories of an iteration as a table: the problem, the response, what it was worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.tables import read_advantages, read_forest, read_scores
from tasks.workspace import Workspace, of_iteration
from treepo.models import load_tokenizer
from treepo.params.model import ModelParams

COUNT = 16


def sample_trajectories(
    workspace: Workspace, model: ModelParams, iteration: int, count: int = COUNT
) -> dict[str, list[Any]]:
    """Columns of at most `count` trajectories at even distances: of different trees and outcomes.

    advantage: the mean over the trajectory's tokens.
    """
    forest = read_forest(workspace.path(of_iteration(iteration, "forest.parquet")))
    scores = read_scores(workspace.path(of_iteration(iteration, "scores.parquet")), forest)
    file = workspace.path(of_iteration(iteration, "advantages.parquet"))
    advantages = read_advantages(file, forest)
    chosen = np.unique(np.linspace(0, len(forest.leaves) - 1, count).round().astype(int))
    trajectory, row = forest.entries
    tokens = np.bincount(trajectory, forest.lengths[row], len(forest.leaves))
    worth = np.bincount(
        trajectory, advantages.value * forest.lengths[row], len(forest.leaves)
    ) / np.maximum(tokens, 1)
    tokenizer = load_tokenizer(model)
    responses = forest.responses()
    roots = forest.tree_start[forest.tree[forest.leaves]]
    return {
        "iteration": [iteration] * len(chosen),
        "prompt_id": [str(forest.prompt_id[forest.leaves[k]]) for k in chosen],
        "prompt": tokenizer.batch_decode([forest.node_tokens(roots[k]) for k in chosen]),
        "response": tokenizer.batch_decode([responses[k] for k in chosen]),
        "reward": [float(scores["reward"][int(k)].as_py()) for k in chosen],
        "advantage": [float(worth[k]) for k in chosen],
        "tokens": [int(tokens[k]) for k in chosen],
        "finish": [str(forest.finish[forest.leaves[k]]) for k in chosen],
    }
