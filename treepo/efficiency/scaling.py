"""Compute scaling (paper Fig. 9): what k of a tree's trajectories cost, what their vote is worth.

Both sides draw from one tree of w trajectories, so a single measurement gives the whole curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from treepo.evaluation import pass_at_k, solve
from treepo.forest import Forest

SCALING = {
    "scaling_tokens": "expected sampled tokens of k trajectories a problem, all problems [tokens]",
    "scaling_accuracy": "the vote of k of the trajectories is right [share]",
}


@dataclass(frozen=True)
class Point:
    """tokens: sampled for k trajectories of every problem; accuracy: maj@k."""

    k: int
    tokens: float
    accuracy: float


def expected_tokens(forest: Forest) -> list[float]:
    """Expected number of sampled tokens in k trajectories of each tree, for k = 1, 2, ...

    The k are drawn from a tree's w without replacement. A node with c of the w below it is among
    their tokens with the chance that pass@k gives c right ones of w, so the sum over nodes is
    exact; at k = w it is every sampled token. k ends at the fewest trajectories of any tree.
    """
    below = forest.leaf_counts
    width = below[forest.tree_start[:-1]]  # [trees]
    pairs = np.stack([width[forest.tree], below], axis=1)[forest.sampled]
    kinds, kind = np.unique(pairs, axis=0, return_inverse=True)
    tokens = np.bincount(kind.reshape(-1), forest.lengths[forest.sampled])  # of each (w, c)
    return [
        float(
            sum(t * pass_at_k(int(w), int(c), k) for (w, c), t in zip(kinds, tokens, strict=True))
        )
        for k in range(1, int(min(width, default=0)) + 1)
    ]


def scaling_points(tokens_of_k: Sequence[float], responses: pa.Table, seed: int) -> list[Point]:
    """The curve of one arm in one round; `responses`: its graded ones (EVALUATION_SCHEMA)."""
    return [
        Point(k, tokens, float(solve(responses, seed, k).voted.mean()))
        for k, tokens in enumerate(tokens_of_k, 1)
    ]
