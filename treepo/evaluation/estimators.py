"""What k responses to one problem are worth: pass@k and maj@k, from n responses.

Pure functions of one problem; means and intervals over problems are in `summary`.
"""

from __future__ import annotations

from math import comb

import numpy as np

from treepo.evaluation.answers import NO_ANSWER, RIGHT

Array = np.ndarray
DRAWS = 1000


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n responses, drawn without replacement, hold a right one (unbiased).

    Source: Chen et al., 2021 (arXiv 2107.03374), Eq. 1.
    """
    return 1.0 - comb(n - correct, k) / comb(n, k)


def majority(classes: Array, k: int, rng: np.random.Generator) -> Array:
    """Whether the vote of k responses is right, for each of 1,000 bootstrap draws: bool [DRAWS].

    classes: int [n], the class of each response's answer; 0 is right, -1 does not vote. Draws are
    with replacement; a tie is broken at random; without any vote the draw is wrong.
    """
    drawn = classes[rng.integers(len(classes), size=(DRAWS, k))]
    width = int(classes.max(initial=0)) + 1
    voter, _ = np.nonzero(drawn != NO_ANSWER)
    votes = drawn[drawn != NO_ANSWER]
    tally = np.bincount(voter * width + votes, minlength=DRAWS * width).reshape(DRAWS, width)
    best = np.argmax(tally + rng.random(tally.shape) * 0.5, axis=1)
    return (best == RIGHT) & (tally.max(axis=1) > 0)
