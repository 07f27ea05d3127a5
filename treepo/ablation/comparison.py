"""From the results of runs to the tables of an ablation: runs, comparison, learning curves.

Pure functions; the tables' columns are those of `treepo.schemas.ablation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import numpy as np

from treepo.ablation.statistics import Difference, Interval, curve, holm, interval, paired
from treepo.ablation.stopping import History

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
MEASURES = {
    "accuracy": "held-out accuracy of the last policy (mean@k)",
    "gain": "accuracy of the last policy less that of the first",
    "maj@k": "accuracy of the majority of k answers, last policy",
    "pass@k": "share of problems with at least one right answer of k, last policy",
    "response_tokens": "mean length of a held-out response, last policy [tokens]",
    "sampled_tokens": "tokens sampled in training, each once [tokens]",
    "trajectory_tokens": "tokens of all trajectories, as if sampled flat [tokens]",
    "tokens_saved": "one less sampled over flat tokens [share]",
    "iterations": "RL iterations",
    "trajectories_per_second": "of the rollouts [1/s]",
    "evaluation_tokens": "tokens sampled to evaluate the last policy, each once [tokens]",
    "evaluation_seconds": "device time of sampling them [s]",
    "wall_seconds": "all steps, as if none had been taken over [s]",
}
CURVES = {
    "reward": "reward/mean",
    "entropy": "update/entropy",
    "response_length": "rollout/response_length",
}
AXES = ("iteration", "sampled_tokens")
PLACES = 40  # of a curve over tokens, where no two runs share a place

Series = list[tuple[float, float]]  # (x, value), x increasing


@dataclass(frozen=True)
class RunResult:
    """What came of one run. measures: none where it failed; reason: why it ended early."""

    variant: str
    seed: int
    status: str
    reason: str
    measures: Mapping[str, float]
    history: History


def measures_of(metrics: Mapping[str, Any], history: History) -> dict[str, float]:
    """The measures of one run from its metrics.json and its history."""
    first, last = metrics["initial"], metrics["final"]
    judged = history.evaluations[int(metrics["iterations"])]
    flat = metrics["trajectory_tokens"]
    taken = ("sampled_tokens", "trajectory_tokens", "iterations")
    return {
        "accuracy": last["accuracy"],
        "gain": last["accuracy"] - first["accuracy"],
        "maj@k": last["maj@k"],
        "pass@k": last["pass@k"],
        "response_tokens": last["tokens"],
        **{name: float(metrics[name]) for name in taken},
        "tokens_saved": 1 - metrics["sampled_tokens"] / flat if flat else 0.0,
        "trajectories_per_second": metrics["trajectories_per_second"],
        "evaluation_tokens": judged["sampled_tokens"],
        "evaluation_seconds": judged["device_seconds"],
        "wall_seconds": metrics["wall_seconds"],
    }


def run_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """One row a run, a null for each measure of a run that has none."""
    return [
        {
            "variant": result.variant,
            "seed": result.seed,
            "status": result.status,
            "reason": result.reason,
            **{name: result.measures.get(name) for name in MEASURES},
        }
        for result in results
    ]


def comparison_rows(
    results: Sequence[RunResult], references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row a variant and measure: mean over seeds, and the paired difference to its reference.

    references: the name of the variant that each is compared with; for a reference its own.
    """
    return [row for measure in MEASURES for row in _compared(results, references, measure)]


def _compared(
    results: Sequence[RunResult], references: Mapping[str, str], measure: str
) -> Iterator[dict[str, Any]]:
    values = {
        name: {r.seed: r.measures[measure] for r in results if r.variant == name and r.measures}
        for name in references
    }
    others = [name for name, reference in references.items() if name != reference]
    tests = {name: paired(values[name], values[references[name]]) for name in others}
    adjusted = dict(zip(others, holm([tests[name].p_t for name in others]), strict=True))
    for name in references:
        yield {
            "variant": name,
            "measure": measure,
            **_of_interval(interval(list(values[name].values()))),
            **_of_difference(tests.get(name), adjusted.get(name)),
        }


def _of_interval(found: Interval, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{key}": _known(value) for key, value in asdict(found).items()}


def _of_difference(found: Difference | None, p_holm: float | None) -> dict[str, Any]:
    """The columns of a difference; nulls for the reference itself."""
    if found is None:
        found = Difference(interval([]), float("nan"), float("nan"))
    return {
        **_of_interval(found.interval, "difference_"),
        "p_t": _known(found.p_t),
        "p_holm": _known(p_holm),
        "p_sign": _known(found.p_sign),
    }


def _known(value: float | None) -> float | None:
    return None if value is None or isnan(value) else value


def curve_rows(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """One row a variant, axis, measure and place: mean and band over seeds, see `curve`."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(result.variant for result in results):
        runs = [result.history for result in results if result.variant == name]
        for axis in AXES:
            for measure in ("accuracy", *CURVES):
                series = [_series(history, axis, measure) for history in runs]
                points = curve(series, _grid(series, axis))
                where = {"variant": name, "axis": axis, "measure": measure}
                rows += [{**where, "x": point.x, **_of_interval(point.band)} for point in points]
    return rows


def _series(history: History, axis: str, measure: str) -> Series:
    """A run's values over an axis; the first policy's accuracy stands at 0."""
    tokens = np.cumsum([0.0, *(update["rollout/sampled_tokens"] for update in history.updates)])
    if measure == "accuracy":
        reached = {k: v for k, v in history.evaluations.items() if k < len(tokens)}
        found = {k: figures["accuracy"] for k, figures in sorted(reached.items())}
    else:
        key = CURVES[measure]
        found = {k: u[key] for k, u in enumerate(history.updates, 1) if key in u}
    return [(float(k if axis == "iteration" else tokens[k]), v) for k, v in found.items()]


def _grid(series: Sequence[Series], axis: str) -> list[float]:
    places = sorted({x for run in series for x, _ in run})
    if axis == "iteration" or not places:
        return places
    return np.linspace(places[0], places[-1], PLACES).tolist()
