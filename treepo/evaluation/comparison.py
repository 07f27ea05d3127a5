"""Two evaluations of the same problems: the paired difference, and the problems that flipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from treepo.errors import UserError
from treepo.evaluation.estimators import DRAWS
from treepo.evaluation.summary import INTERVAL, OVERALL
from treepo.seeds import derive

Array = np.ndarray


@dataclass(frozen=True)
class Flip:
    """A problem that one evaluation solves and the other does not.

    before, after: share of its responses that are right.
    """

    benchmark: str
    prompt_id: str
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """The accuracy of a second evaluation less that of a first, over the problems in both.

    low, high: 95 % interval of the difference by 1,000 paired bootstrap draws over problems;
    p: twice the smaller share of draws on either side of zero (both counts plus one), at most 1.
    """

    problems: int
    before: float
    after: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        """After less before."""
        return self.after - self.before


def compare(
    first: pa.Table, second: pa.Table, seed: int
) -> tuple[dict[str, Comparison], list[Flip]]:
    """Compare two evaluation tables problem by problem: for each benchmark and overall.

    A problem counts as solved where at least half of its responses are right; the flips come with
    the largest change first. Raises UserError where no problem is in both.
    """
    before, after = _shares(first), _shares(second)
    both = [key for key in before if key in after]
    if not both:
        raise UserError("the two evaluations have no problem in common: nothing can be compared")
    pairs = np.array([(before[key], after[key]) for key in both])  # [problems, 2]
    benchmarks = np.array([key[0] for key in both], dtype=object)
    compared = {
        str(name): _paired(pairs[benchmarks == name], seed) for name in dict.fromkeys(benchmarks)
    }
    flips = [
        Flip(*key, before=float(was), after=float(now))
        for key, (was, now) in zip(both, pairs, strict=True)
        if (was >= 0.5) != (now >= 0.5)
    ]
    flips.sort(key=lambda flip: -abs(flip.after - flip.before))
    return {**compared, OVERALL: _paired(pairs, seed)}, flips


def _shares(table: pa.Table) -> dict[tuple[str, str], float]:
    """Share of right responses of each (benchmark, prompt_id), in the order of the table."""
    right: dict[tuple[str, str], list[bool]] = {}
    columns = (table[name].to_pylist() for name in ("benchmark", "prompt_id", "correct"))
    for benchmark, problem, correct in zip(*columns, strict=True):
        right.setdefault((benchmark, problem), []).append(correct)
    return {key: sum(verdicts) / len(verdicts) for key, verdicts in right.items()}


def _paired(pairs: Array, seed: int) -> Comparison:
    """Draw problems with replacement; a problem brings its result in both evaluations."""
    change = pairs[:, 1] - pairs[:, 0]
    rng = np.random.default_rng(derive(seed, "paired"))
    means = np.array(
        [change[rng.integers(len(change), size=len(change))].mean() for _ in range(DRAWS)]
    )
    low, high = np.percentile(means, INTERVAL)
    before, after = pairs.mean(axis=0)
    return Comparison(
        problems=len(change),
        before=float(before),
        after=float(after),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (1 + int(min((means <= 0).sum(), (means >= 0).sum()))) / (1 + DRAWS)),
    )
