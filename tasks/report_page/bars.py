"""The figures of an evaluation's page: bars a benchmark, with intervals.

Knows the names of an evaluation's numbers. Must not know the page that the figures stand in.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

import plotly.graph_objects as go

from tasks.report_page.figures import TALL, Plot
from tasks.report_page.theme import BLUE, FINISH_COLORS, GREEN, GREY, INK, ORANGE, PERCENT, THEME
from treepo.tree import FINISHES

Figures = Mapping[str, Mapping[str, float]]  # by place (a benchmark), then by name of the number

# What is drawn, the prefix of its interval's ends, its colour.
SCORES = {
    "accuracy": ("mean@{samples:.0f}", "", ORANGE),
    "maj@k": ("maj@{k:.0f}", "maj@k/", GREEN),
    "pass@k": ("pass@{k:.0f}", "pass@k/", GREY),
}


def evaluation_plots(figures: Figures, before: Figures | None = None) -> dict[str, list[Plot]]:
    """The figures by section; `before`: those of the evaluation that it is compared with."""
    sections = {
        "scores": [Plot("scores", "", scores(figures), TALL)],
        "responses": [
            Plot("length", "Mean response length [tokens]", lengths(figures), TALL),
            Plot("finish", "How responses end", endings(figures), TALL),
        ],
    }
    if before is not None:
        sections["comparison"] = [Plot("comparison", "", both(before, figures), TALL)]
    return sections


def scores(figures: Figures) -> go.Figure:
    """mean@k, maj@k and pass@k of each benchmark and overall, with their 95 % intervals."""
    figure = category_figure(PERCENT)
    first = next(iter(figures.values()))
    for key, (label, prefix, color) in SCORES.items():
        add_bars(figure, figures, label.format(**first), color, key=key, ends=prefix)
    return figure


def both(before: Figures, after: Figures) -> go.Figure:
    """Accuracy in two evaluations, side by side."""
    figure = category_figure(PERCENT)
    shown = {name: before[name] for name in after if name in before}
    add_bars(figure, shown, "before", GREY, key="accuracy", ends="")
    add_bars(figure, {name: after[name] for name in shown}, "after", BLUE, "accuracy", "")
    return figure


def lengths(figures: Figures) -> go.Figure:
    """Mean length of a response."""
    figure = category_figure("~s")
    add_bars(figure, figures, "tokens", BLUE, key="tokens")
    return figure


def endings(figures: Figures) -> go.Figure:
    """Share of each reason to end."""
    figure = category_figure(PERCENT)
    figure.update_layout(barmode="stack")
    for name, color in zip(FINISHES, FINISH_COLORS, strict=False):
        key = f"finish/{name}"
        if any(key in row for row in figures.values()):
            add_bars(figure, figures, name, color, key=key)
    return figure


def category_figure(tickformat: str) -> go.Figure:
    """An empty figure with a place on its axis for each name; tickformat: of the other axis."""
    axis = {"title": {"text": ""}, "type": "category", "unifiedhovertitle": {"text": "%{x}"}}
    layout = {"xaxis": axis, "barmode": "group", "bargap": 0.3, "bargroupgap": 0.08}
    return go.Figure(layout={"template": THEME, **layout, "yaxis": {"tickformat": tickformat}})


def add_bars(
    figure: go.Figure, rows: Figures, name: str, color: str, key: str, ends: str | None = None
) -> None:
    """One bar a name; `ends`: the prefix of `low` and `high` where there is an interval."""
    heights = [row.get(key, 0.0) for row in rows.values()]
    bar = go.Bar(
        x=[html.escape(place) for place in rows],
        y=heights,
        name=html.escape(name),
        marker={"color": color, "line": {"width": 0}, "opacity": 0.85},
        hovertemplate="%{y:.1%}" if figure.layout.yaxis.tickformat == PERCENT else "%{y:,.3~f}",
    )
    if ends is not None:
        reach = list(zip(heights, rows.values(), strict=True))
        bar.error_y = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, row[f"{ends}high"] - height) for height, row in reach],
            "arrayminus": [max(0.0, height - row[f"{ends}low"]) for height, row in reach],
            "color": INK,
            "thickness": 1.25,
            "width": 4,
        }
    figure.add_trace(bar)
