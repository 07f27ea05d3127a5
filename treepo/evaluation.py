"""Held-out accuracy from graded responses: mean@k, maj@k, pass@k (DESIGN section 9).

Pure functions of the evaluation table: one row a response, k rows a problem.
"""

from __future__ import annotations

from math import comb

import numpy as np
import pyarrow as pa

from treepo.seeds import derive

Array = np.ndarray
DRAWS = 1000


def summarize(table: pa.Table, seed: int) -> dict[str, float]:
    """Accuracy figures of one evaluation.

    accuracy: mean@k, with low and high, its 95 % interval over problems (normal); maj@k: of
    1,000 bootstrap draws; pass@k: at least one of the k right; tokens: mean response length.
    """
    problems = table["prompt_id"].to_numpy()
    correct = table["correct"].to_numpy().astype(np.float64)
    answers = table["answer"].to_pylist()
    _, group, counts = np.unique(problems, return_inverse=True, return_counts=True)
    by_problem = np.bincount(group, correct) / counts
    k = int(counts.min())
    error = 1.96 * by_problem.std(ddof=1) / np.sqrt(len(counts)) if len(counts) > 1 else 0.0
    order = np.argsort(group, kind="stable")
    spans = np.split(order, np.cumsum(counts)[:-1])
    rng = np.random.default_rng(derive(seed, "maj@k"))
    votes = [majority([answers[i] for i in span], correct[span], k, rng) for span in spans]
    passes = [pass_at_k(len(span), int(correct[span].sum()), k) for span in spans]
    accuracy = float(by_problem.mean())
    return {
        "accuracy": accuracy,
        "low": accuracy - float(error),
        "high": accuracy + float(error),
        "maj@k": float(np.mean(votes)),
        "pass@k": float(np.mean(passes)),
        "k": float(k),
        "problems": float(len(counts)),
        "tokens": float(table["tokens"].to_numpy().mean()),
    }


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n responses, drawn without replacement, hold a right one (unbiased)."""
    return 1.0 - comb(n - correct, k) / comb(n, k)


def majority(answers: list[str | None], correct: Array, k: int, rng: np.random.Generator) -> float:
    """Chance that the most frequent answer of k draws with replacement is right.

    Responses without an answer do not vote; ties are broken at random.
    """
    names = {answer: index for index, answer in enumerate(dict.fromkeys(answers))}
    vote = np.array([names[answer] for answer in answers])
    drawn = vote[rng.integers(len(answers), size=(DRAWS, k))]
    tally = np.zeros((DRAWS, len(names)))
    np.add.at(tally, (np.arange(DRAWS)[:, None], drawn), 1.0)
    if None in names:
        tally[:, names[None]] = 0.0
    right = np.zeros(len(names))
    np.maximum.at(right, vote, correct)
    best = np.argmax(tally + rng.random(tally.shape) * 0.5, axis=1)
    return float((right[best] * (tally.max(axis=1) > 0)).mean())
