"""Rounds become one table: medians, and ratios that are taken within a round.

A machine that slows down for a while slows all arms of that round, so a ratio within the round
stays; the ratio of two medians would not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# Of one arm in one round, by measure and, for points of a curve, k.
Values = Mapping[tuple[str, int | None], float]
# Of shares, such as an accuracy, a quotient would say little.
SHARES = {"tokens_saved", "cache_hit_rate", "accuracy", "maj@k", "pass@k", "scaling_accuracy"}


@dataclass(frozen=True)
class Row:
    """One measure of one arm over the rounds: median, least and largest value.

    k: of a point of a curve, else None; ratio, ratio_low, ratio_high: median, least and largest of
    the quotients by the arm `against`, one a round; None where there is none.
    """

    arm: str
    against: str | None
    measure: str
    k: int | None
    rounds: int
    median: float
    low: float
    high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


def summary(rounds: Sequence[Mapping[str, Values]], against: Mapping[str, str | None]) -> list[Row]:
    """One row an arm and measure, in the order of the arms in `against`.

    rounds: what each arm came to in each round; against: the arm that each is compared with.
    """
    return [row for arm, base in against.items() for row in _rows(rounds, arm, base)]


def _rows(rounds: Sequence[Mapping[str, Values]], arm: str, base: str | None) -> Iterator[Row]:
    # A curve may end earlier in one round than in another: only what all have is told.
    shared = [key for key in rounds[0][arm] if all(key in done[arm] for done in rounds)]
    for key in shared:
        values = [done[arm][key] for done in rounds]
        divisors = [] if base is None else [done[base].get(key, 0.0) for done in rounds]
        ratios: list[float] = []
        if divisors and all(divisors) and key[0] not in SHARES and key[1] is None:
            ratios = [value / by for value, by in zip(values, divisors, strict=True)]
        yield Row(
            arm=arm,
            against=base,
            measure=key[0],
            k=key[1],
            rounds=len(rounds),
            median=median(values),
            low=min(values),
            high=max(values),
            ratio=median(ratios) if ratios else None,
            ratio_low=min(ratios, default=None),
            ratio_high=max(ratios, default=None),
        )
