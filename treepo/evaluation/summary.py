"""The figures of an evaluation, with intervals: mean@k, maj@k, pass@k, lengths, stop reasons.

The overall figures are means over all problems: each benchmark is weighted by its size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from treepo.evaluation.estimators import DRAWS, majority, pass_at_k
from treepo.params.benchmarks import OVERALL
from treepo.seeds import derive

Array = np.ndarray
INTERVAL = (2.5, 97.5)  # ends of all intervals [percentiles]
BLOCK = 100  # bootstrap draws made together; bounds the memory


@dataclass(frozen=True)
class Solved:
    """How each of P problems fared.

    names: [P]; share: of right responses [P]; passed: chance that k of them hold a right one [P];
    voted: whether the vote of k is right in each bootstrap draw, bool [P, DRAWS]; samples: fewest
    responses of a problem.
    """

    names: list[str]
    share: Array
    passed: Array
    voted: Array
    samples: int
    k: int


def solve(table: pa.Table, seed: int, k: int | None = None) -> Solved:
    """Each problem's figures, in the order of their names; k None: all responses of a problem."""
    correct = table["correct"].to_numpy().astype(np.float64)
    classes = table["group"].to_numpy()
    problems = np.asarray(table["prompt_id"].to_pylist(), dtype=object)
    names, problem, counts = np.unique(problems, return_inverse=True, return_counts=True)
    samples = int(counts.min())
    k = samples if k is None else min(k, samples)
    spans = np.split(np.argsort(problem, kind="stable"), np.cumsum(counts)[:-1])
    right = np.bincount(problem, correct)
    return Solved(
        names=[str(name) for name in names],
        share=right / counts,
        passed=np.array([pass_at_k(int(n), int(c), k) for n, c in zip(counts, right, strict=True)]),
        voted=np.stack(
            [
                majority(classes[span], k, np.random.default_rng(derive(seed, "maj@k", str(name))))
                for name, span in zip(names, spans, strict=True)
            ]
        ),
        samples=samples,
        k=k,
    )


def summarize(table: pa.Table, seed: int, k: int | None = None) -> dict[str, float]:
    """The figures of one set of problems; k None: all responses of a problem.

    accuracy: mean@k, the expected share of right ones; maj@k; pass@k. Their 95 % intervals (low
    and high of the accuracy, NAME/low and NAME/high of the others) are percentiles of 1,000
    bootstrap draws of the problems; those of maj@k also draw each problem's k responses anew.
    k, samples (n), problems; tokens: mean length of a response; trajectory_tokens: of all
    responses; sampled_tokens: what the engine sampled, shared tokens once; finish/REASON: shares.
    """
    solved = solve(table, seed, k)
    ends = Counter(table["finish"].to_pylist())
    lengths = table["tokens"].to_numpy()
    return {
        "accuracy": float(solved.share.mean()),
        "maj@k": float(solved.voted.mean()),
        "pass@k": float(solved.passed.mean()),
        **_intervals(solved, np.random.default_rng(derive(seed, "problems"))),
        "k": float(solved.k),
        "samples": float(solved.samples),
        "problems": float(len(solved.names)),
        "tokens": float(lengths.mean()),
        "trajectory_tokens": float(lengths.sum()),
        "sampled_tokens": float(table["new_tokens"].to_numpy().sum()),
        **{f"finish/{end}": count / table.num_rows for end, count in sorted(ends.items())},
    }


def by_benchmark(table: pa.Table, seed: int, k: int | None = None) -> dict[str, dict[str, float]]:
    """The figures of each benchmark, in the order of the table, and of all problems together."""
    of_row = [str(name) for name in table["benchmark"].to_pylist()]
    figures: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(of_row):
        mask = pa.array([other == name for other in of_row])
        figures[name] = summarize(table.filter(mask), seed, k)
    return {**figures, OVERALL: summarize(table, seed, k)}


def _intervals(solved: Solved, rng: np.random.Generator) -> dict[str, float]:
    """Ends of the intervals of accuracy, maj@k and pass@k, from one set of draws."""
    problems = len(solved.names)
    means: list[Array] = []
    for _ in range(0, DRAWS, BLOCK):
        drawn = rng.integers(problems, size=(BLOCK, problems))
        vote = rng.integers(DRAWS, size=(BLOCK, problems))
        draws = (solved.share[drawn], solved.voted[drawn, vote], solved.passed[drawn])
        means.append(np.stack([values.mean(axis=1) for values in draws], axis=1))
    low, high = np.percentile(np.concatenate(means), INTERVAL, axis=0)
    ends: dict[str, float] = {}
    for column, prefix in enumerate(("", "maj@k/", "pass@k/")):
        ends |= {f"{prefix}low": float(low[column]), f"{prefix}high": float(high[column])}
    return ends
