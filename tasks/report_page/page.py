"""The experiment report: one HTML page that opens offline.

Knows how numbers, settings and sampled trees are laid out; the same data make the same bytes.
Must not know files, steps or trackers. Responses are hostile text: the template escapes it all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.report_page import figures
from tasks.report_page.assembly import assemble
from tasks.report_page.text import duration, finite, number, percent, signed
from tasks.report_page.trees import ShownIteration, ShownTree, TreeNodes, viewer_data

__all__ = ["ReportData", "ShownIteration", "ShownTree", "TreeNodes", "render"]


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    metrics: the content of metrics.json. history: one mapping an iteration.
    evaluations: iteration, accuracy, maj@k, pass@k, and low and high of the accuracy's interval.
    settings: key, value, description. lineage: label and value.
    """

    experiment: str
    description: str
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    settings: list[tuple[str, str, str]]
    trees: list[ShownIteration]
    lineage: list[tuple[str, str]]


@dataclass(frozen=True)
class Tile:
    """One of the big numbers; `notes` explain it, `before` is the value that it started from."""

    label: str
    value: str
    notes: tuple[str, ...] = ()
    before: str = ""


def render(data: ReportData) -> str:
    """The report as one self-contained HTML page."""
    plots = figures.plots(data.history, data.evaluations)
    return assemble(
        "report.html.j2",
        title=data.experiment,
        drawn=[plot for section in plots.values() for plot in section],
        data=data,
        tiles=_tiles(data),
        plots=plots,
        numbers=_flat(data.metrics),
        constants=figures.constants(data.history),
        times=_times(data.history),
        settings=sections(data.settings),
        trees=viewer_data(data.trees),
    )


def _tiles(data: ReportData) -> list[Tile]:
    metrics = data.metrics
    sampled, flat = _value(metrics, "sampled_tokens"), _value(metrics, "trajectory_tokens")
    saved = 1 - sampled / flat if sampled is not None and flat else None
    rate = _value(metrics, "trajectories_per_second")
    iterations = _value(metrics, "iterations")
    return [
        _accuracy_tile(metrics, data.evaluations),
        Tile(
            "Tokens saved",
            percent(saved),
            (f"{number(sampled)} sampled", f"instead of {number(flat)}") if flat else (),
        ),
        Tile(
            "Trajectories",
            number(_value(metrics, "trajectories")),
            () if rate is None else (f"{number(rate)} a second",),
        ),
        Tile("Sampling speed", number(_value(metrics, "tokens_per_second")), ("tokens a second",)),
        Tile(
            "Wall time",
            duration(_value(metrics, "wall_seconds")),
            () if iterations is None else (_count(iterations, "iteration"),),
        ),
    ]


def _count(value: float, noun: str) -> str:
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def _accuracy_tile(metrics: Mapping[str, Any], evaluations: Sequence[Mapping[str, float]]) -> Tile:
    before, after = (_value(metrics, when, "accuracy") for when in ("initial", "final"))
    if before is None or after is None or not metrics.get("iterations"):
        known = before if after is None else after
        return Tile("Held-out accuracy", percent(known), ("no training",))
    gain = f"{signed(100 * (after - before), 1)} points"
    last = evaluations[-1] if evaluations else {}
    low, high = finite(last.get("low")), finite(last.get("high"))
    if low is not None and high is not None:
        gain += f", interval {percent(low)} to {percent(high)}"
    notes = [gain]
    majority = [_value(metrics, when, "maj@k") for when in ("initial", "final")]
    if None not in majority:
        notes.append(f"maj@k {percent(majority[0])} → {percent(majority[1])}")
    return Tile("Held-out accuracy", percent(after), tuple(notes), percent(before))


def _value(metrics: Mapping[str, Any], *path: str) -> float | None:
    value: Any = metrics
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return finite(value) if is_number else None


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every number as it stands in metrics.json, nested keys joined by dots."""
    rows: list[tuple[str, str]] = []
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return rows


def _times(history: Sequence[Mapping[str, float]]) -> list[tuple[str, float, float]]:
    """Step, seconds, share of all."""
    rows = figures.times(history)
    total = sum(seconds for _, seconds in rows)
    return [(step, seconds, seconds / total if total else 0.0) for step, seconds in rows]


def sections(settings: Sequence[tuple[str, str, str]]) -> dict[str, list[tuple[str, str, str]]]:
    """Settings by the first part of their key, in the order given."""
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for key, value, description in settings:
        section, dot, _ = key.partition(".")
        sections.setdefault(section if dot else "", []).append((key, value, description))
    return sections
