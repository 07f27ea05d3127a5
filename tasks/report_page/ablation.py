"""The page of an ablation: what the variants reached, how sure that is, how they learned.

Knows the rows of the ablation's tables (`treepo.schemas.ablation`). Must not know files or runs.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import plotly.graph_objects as go

from tasks.report_page.assembly import assemble
from tasks.report_page.figures import SMALL, TALL, Plot
from tasks.report_page.theme import CYCLE, GRID, PERCENT, THEME
from treepo.ablation.comparison import FAILED, MEASURES
from treepo.ablation.plan import Plan

Rows = Sequence[Mapping[str, Any]]

CURVES = (
    ("accuracy", "iteration", "Held-out accuracy"),
    ("accuracy", "sampled_tokens", "Held-out accuracy over sampled tokens"),
    ("reward", "iteration", "Training reward"),
    ("reward", "sampled_tokens", "Training reward over sampled tokens"),
    ("entropy", "iteration", "Entropy [nats]"),
    ("response_length", "iteration", "Response length [tokens]"),
)
SHARES = ("accuracy", "reward")
COMPARED = ("accuracy", "maj@k")  # the measures that have a table of tests


@dataclass(frozen=True)
class AblationPage:
    """All that the page shows: the plan, and the rows of the three tables."""

    plan: Plan
    runs: Rows
    comparison: Rows
    curves: Rows


def render_ablation(data: AblationPage) -> str:
    """The page as one self-contained HTML file."""
    colors = dict(zip(_names(data), cycle(CYCLE), strict=False))
    learned = learning(data, colors)
    reached = outcomes(data, colors)
    settings = {variant.name: json.dumps(dict(variant.settings)) for variant in data.plan.variants}
    params = data.plan.params.model_dump(mode="json")
    shown = {key: json.dumps(value) for key, value in params.items() if key != "description"}
    return assemble(
        "ablation.html.j2",
        title=data.plan.name,
        drawn=[*reached, *learned],
        plan=data.plan,
        runs=data.runs,
        tables={name: _of_measure(data.comparison, name) for name in COMPARED},
        measures=_others(),
        others={name: _means(data.comparison, name) for name in _names(data)},
        meaning=MEASURES,
        settings=settings,
        params=shown,
        failed=[row for row in data.runs if row["status"] == FAILED],
        reached=reached,
        learned=learned,
    )


def _names(data: AblationPage) -> list[str]:
    return [variant.name for variant in data.plan.variants]


def _others() -> list[str]:
    return [name for name in MEASURES if name not in COMPARED]


def _means(comparison: Rows, variant: str) -> dict[str, float | None]:
    """Mean of each measure that has no table of its own, in their order."""
    found = {row["measure"]: row["mean"] for row in comparison if row["variant"] == variant}
    return {name: found[name] for name in _others()}


def _of_measure(comparison: Rows, measure: str) -> Rows:
    return [row for row in comparison if row["measure"] == measure]


def outcomes(data: AblationPage, colors: Mapping[str, str]) -> list[Plot]:
    """Accuracy of every run with the variants' intervals, and the paired differences."""
    rows = [row for row in _of_measure(data.comparison, "accuracy") if row["n"]]
    compared = [row for row in rows if row["difference_n"]]
    height = max(SMALL, 70 + 34 * len(rows))
    plots: list[Plot] = []
    if rows:
        figure = _categories()
        dots = [row for row in data.runs if row["accuracy"] is not None]
        _dots(figure, dots, colors)
        _intervals(figure, rows, "", colors)
        plots.append(Plot("accuracy", "Held-out accuracy, last policy", figure, height))
    if compared:
        figure = _categories()
        figure.add_vline(x=0, line={"color": GRID, "width": 1.5})
        _intervals(figure, compared, "difference_", colors)
        title = "Difference to the reference, paired by seed"
        plots.append(Plot("difference", title, figure, height))
    return plots


def _categories() -> go.Figure:
    """A figure with the variants down the side and shares along the bottom."""
    return go.Figure(
        layout={
            "template": THEME,
            "showlegend": False,
            "hovermode": "closest",
            "margin": {"l": 8, "t": 8},
            "xaxis": {"title": {"text": ""}, "tickformat": PERCENT},
            "yaxis": {"automargin": True, "autorange": "reversed", "showgrid": False},
        }
    )


def _dots(figure: go.Figure, rows: Rows, colors: Mapping[str, str]) -> None:
    """One faint dot a run."""
    figure.add_scatter(
        x=[row["accuracy"] for row in rows],
        y=[html.escape(row["variant"]) for row in rows],
        text=[f"seed {row['seed']}" for row in rows],
        mode="markers",
        marker={"size": 6, "opacity": 0.45, "color": [colors[row["variant"]] for row in rows]},
        hovertemplate="%{text}: %{x:.1%}<extra></extra>",
    )


def _intervals(figure: go.Figure, rows: Rows, prefix: str, colors: Mapping[str, str]) -> None:
    """One mean with its interval a variant."""
    for row in rows:
        mean, low, high = (row[f"{prefix}{key}"] for key in ("mean", "low", "high"))
        known = low is not None and high is not None
        figure.add_scatter(
            x=[mean],
            y=[html.escape(row["variant"])],
            mode="markers",
            marker={"size": 9, "symbol": "diamond", "color": colors[row["variant"]]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - mean if known else 0.0],
                "arrayminus": [mean - low if known else 0.0],
                "color": colors[row["variant"]],
            },
            hovertemplate="mean %{x:.1%}<extra></extra>",
        )


def learning(data: AblationPage, colors: Mapping[str, str]) -> list[Plot]:
    """Learning curves: the mean over seeds, and its 95 % interval as a band."""
    plots: list[Plot] = []
    for measure, axis, title in CURVES:
        rows = [r for r in data.curves if (r["measure"], r["axis"]) == (measure, axis)]
        if not rows:
            continue
        unit = "sampled tokens" if axis == "sampled_tokens" else "iteration"
        share = measure in SHARES
        figure = go.Figure(layout={"template": THEME})
        figure.update_xaxes(title={"text": unit}, unifiedhovertitle={"text": f"{unit} %{{x}}"})
        figure.update_xaxes(tickformat="~s" if axis == "sampled_tokens" else ",d")
        figure.update_yaxes(tickformat=PERCENT if share else "~g")
        for name, color in colors.items():
            _banded(figure, [row for row in rows if row["variant"] == name], color, share)
        plots.append(Plot(f"curve-{measure}-{axis}", title, figure, TALL))
    return plots


def _banded(figure: go.Figure, rows: Rows, color: str, share: bool) -> None:
    """One variant's line and band; points of a single seed have no band."""
    if not rows:
        return
    name = html.escape(rows[0]["variant"])
    band = [row for row in rows if row["low"] is not None]
    edge = {"mode": "lines", "line": {"width": 0}, "legendgroup": name, "hoverinfo": "skip"}
    x = [row["x"] for row in band]
    if band:
        figure.add_scatter(x=x, y=[row["high"] for row in band], showlegend=False, **edge)
        lower = [row["low"] for row in band]
        fill = {"fill": "tonexty", "fillcolor": _faint(color)}
        figure.add_scatter(x=x, y=lower, showlegend=False, **edge, **fill)
    figure.add_scatter(
        x=[row["x"] for row in rows],
        y=[row["mean"] for row in rows],
        name=name,
        legendgroup=name,
        mode="lines+markers" if len(rows) <= 12 else "lines",
        line={"color": color, "width": 2},
        marker={"size": 5, "color": color},
        hovertemplate="%{y:.1%}" if share else "%{y:.4~g}",
    )


def _faint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.14)"
