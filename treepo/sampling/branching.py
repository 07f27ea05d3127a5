"""Branching: how many segments start below each living path (paper section 2.2).

Knows counts only. Budget transfer follows from the target counting finished paths too: what
those no longer use goes to the living ones.
"""

from __future__ import annotations

import random

from treepo.params import SamplingParams


def initial_branches(params: SamplingParams, rng: random.Random) -> int:
    """Branches of the root: fixed, or uniform in the given range ("more init divergence")."""
    return min(params.width, rng.randint(*params.initial_range))


def target_width(params: SamplingParams, initial: int, step: int) -> int:
    """Paths, finished and living, that a tree should have after inference step `step` (from 1)."""
    growth = min(step - 1, params.width.bit_length())  # enough for any b >= 2 to reach the width
    return min(params.width, initial * params.branching**growth)


def allocate_even(living: int, budget: int, rng: random.Random) -> list[int]:
    """Split `budget` branches over the living paths: at least one each, the rest evenly.

    Which paths get the remainder is drawn at random.
    """
    share, remainder = divmod(max(budget, living), living)
    lucky = set(rng.sample(range(living), remainder))
    return [share + (path in lucky) for path in range(living)]
