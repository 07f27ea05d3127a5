"""How much one token of a trajectory counts in the loss of a minibatch.

A weighting gives float64 [trajectories] from their lengths [tokens] and the longest response
allowed. The weights hold the normaliser, so that the loss is a plain sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Weighting = Callable[[Array, int], Array]


def token_mean(lengths: Array, _: int) -> Array:
    """Mean over all tokens of the flat minibatch (DAPO)."""
    return np.full(len(lengths), 1 / max(1, lengths.sum()))


def sequence_mean(lengths: Array, _: int) -> Array:
    """Mean over each trajectory's tokens, then over trajectories (GRPO)."""
    return 1 / (np.maximum(lengths, 1) * len(lengths))


def constant(lengths: Array, limit: int) -> Array:
    """Sum over tokens / longest response allowed, mean over trajectories (Dr. GRPO)."""
    return np.full(len(lengths), 1 / (limit * max(1, len(lengths))))
