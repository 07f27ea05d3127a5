"""What several seeds tell: means with intervals, paired differences with tests, curves with bands.

Pure functions of numbers. An interval is Student's t over seeds, 95 %: seeds are few, and a
bootstrap of five values is too narrow. A difference to the reference is paired by seed, as both
start from the same data and warm-up; its test is the paired t test, with the exact sign-flip
permutation test beside it, which assumes only that a difference is as likely as its opposite but
cannot go below 2 / 2^n for n seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from treepo.seeds import derive

LEVEL = 0.95
EXACT = 1 << 14  # sign assignments up to which all are tried; beyond, as many are drawn
_NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """Mean of n values; low and high: 95 % Student's t interval, nan where n < 2."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Paired differences of n seeds.

    p_t: paired t test; p_sign: sign-flip permutation test; both two-sided, nan where n < 2.
    """

    interval: Interval
    p_t: float
    p_sign: float


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval of one value a seed.

    >>> interval([1.0, 2.0, 3.0])
    Interval(n=3, mean=2.0, low=-0.48..., high=4.48...)
    """
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if n == 0:
        return Interval(0, _NAN, _NAN, _NAN)
    mean = float(data.mean())
    if n == 1:
        return Interval(1, mean, _NAN, _NAN)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * data.std(ddof=1) / np.sqrt(n))
    return Interval(n, mean, mean - half, mean + half)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """Differences to the reference over the seeds that both have (seed -> value)."""
    seeds = sorted(values.keys() & reference.keys())
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    if len(seeds) < 2:
        return Difference(interval(differences.tolist()), _NAN, _NAN)
    return Difference(
        interval(differences.tolist()), _t_test(differences), sign_flip(differences.tolist())
    )


def _t_test(differences: np.ndarray) -> float:
    """Two-sided p of the paired t test; 1 where nothing differs, nan where all differ alike."""
    if np.ptp(differences) == 0.0:
        return 1.0 if differences[0] == 0.0 else _NAN
    n = len(differences)
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(n))
    return float(2 * stats.t.sf(abs(t), n - 1))


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the sign-flip permutation test of the mean, exact up to 14 seeds.

    >>> sign_flip([1.0, 2.0, 3.0])  # of 8 sign assignments, +++ and --- are as extreme
    0.25
    """

    values = np.asarray(differences, dtype=np.float64)
    largest = np.abs(values).max() or 1.0

    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        # Rounded, as equal means of large differences may differ by more than scipy allows for.
        return sample.mean(axis=axis).round(12)

    result = stats.permutation_test(
        (values / largest,),
        mean,
        permutation_type="samples",
        n_resamples=EXACT,
        rng=np.random.default_rng(derive("sign_flip")),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment for testing several variants against one reference; nan stays nan.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not np.isnan(p))
    adjusted = [_NAN] * len(p_values)
    worst = 0.0
    for rank, (p, place) in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - rank)))
        adjusted[place] = worst
    return adjusted


@dataclass(frozen=True)
class Point:
    """One place of a learning curve: the band over those that reach it, more than half of all."""

    x: float
    band: Interval


def curve(runs: Sequence[Sequence[tuple[float, float]]], grid: Sequence[float]) -> list[Point]:
    """Mean and band of several runs' (x, y) series at the places of `grid`.

    A run counts where the place lies within its own series, interpolated linearly; x increases. A
    place that half of the runs or fewer reach is left out: the mean would follow who is left.
    """
    series = [np.asarray(run, dtype=np.float64).reshape(-1, 2) for run in runs if len(run)]
    points: list[Point] = []
    for x in grid:
        values = [
            float(np.interp(x, run[:, 0], run[:, 1]))
            for run in series
            if run[0, 0] <= x <= run[-1, 0]
        ]
        if 2 * len(values) > len(series):
            points.append(Point(float(x), interval(values)))
    return points
