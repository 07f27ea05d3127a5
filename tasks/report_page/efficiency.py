"""The page of an efficiency experiment: speed, tokens, accuracy and scaling of its arms.

Knows the rows of the summary (`treepo.efficiency.Row`). Must not know files or steps; the same
data make the same bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import plotly.graph_objects as go

from tasks.report_page.assembly import assemble
from tasks.report_page.bars import Figures, add_bars, category_figure
from tasks.report_page.figures import TALL, Plot
from tasks.report_page.page import Tile, sections
from tasks.report_page.text import number, percent
from tasks.report_page.theme import BLUE, CYCLE, GREEN, GREY, INK, ORANGE, PERCENT, THEME
from treepo.efficiency import MEASURES, Row
from treepo.params import EfficiencyParams

SPEED = "trajectories_per_second"


@dataclass(frozen=True)
class EfficiencyPage:
    """All that the page shows. problems: prompts a round; filtered: those left out, by reason."""

    name: str
    params: EfficiencyParams
    problems: int
    rows: Sequence[Row]
    filtered: Mapping[str, int]
    settings: list[tuple[str, str, str]]
    lineage: list[tuple[str, str]]


def render_efficiency(data: EfficiencyPage) -> str:
    """The page as one self-contained HTML file."""
    plots = {name: _plots(data, name) for name in data.params.comparisons}
    by_arm = {
        arm: {r.measure: r for r in data.rows if (r.arm, r.k) == (arm, None)}
        for arm in data.params.arms
    }
    return assemble(
        "efficiency.html.j2",
        title=data.name,
        drawn=[plot for section in plots.values() for plot in section],
        data=data,
        plots=plots,
        tiles=_tiles(data),
        arms=by_arm,
        sets=_differences(data.params),
        meaning=MEASURES,
        settings=sections(data.settings),
    )


def _tiles(data: EfficiencyPage) -> list[Tile]:
    compared = [r for r in data.rows if r.measure == SPEED and r.ratio is not None]
    tiles: list[Tile] = []
    if compared:
        best = max(compared, key=lambda row: row.ratio or 0.0)
        reach = f"{number(best.ratio_low)} to {number(best.ratio_high)} over the rounds"
        notes = (f"{best.arm} against {best.against}", reach)
        tiles.append(Tile("Largest speed-up", f"{number(best.ratio)} ×", notes))
    for label, measure in (("Most tokens saved", "tokens_saved"), ("Cache hits", "cache_hit_rate")):
        top = max((r for r in data.rows if r.measure == measure), key=lambda row: row.median)
        tiles.append(Tile(label, percent(top.median), (top.arm,)))
    of_round = f"{data.problems:,} problems, {len(data.params.arms)} arms each"
    return [*tiles, Tile("Rounds", number(data.params.rounds), (of_round,))]


def _differences(params: EfficiencyParams) -> dict[str, str]:
    """What each arm sets, as the other arms may not."""
    dumped = {name: arm.sampling.model_dump(mode="json") for name, arm in params.arms.items()}
    first = next(iter(dumped.values()))
    varied = [key for key in first if any(other[key] != first[key] for other in dumped.values())]
    return {
        name: ", ".join(f"{key} {json.dumps(values[key])}" for key in varied)
        for name, values in dumped.items()
    }


def _plots(data: EfficiencyPage, name: str) -> list[Plot]:
    """The figures of one comparison."""
    comparison = data.params.comparisons[name]
    figures = _figures(data.rows, comparison.arms)
    made = {
        "speed": lambda: [
            Plot(f"{name}-trajps", "Trajectories a second (TrajPS)", _one(figures, SPEED), TALL),
            Plot(
                f"{name}-tokenps",
                "Tokens a second (TokenPS)",
                _one(figures, "tokens_per_second"),
                TALL,
            ),
        ],
        "tokens": lambda: [
            Plot(f"{name}-tokens", "Tokens a round", tokens(figures), TALL),
            Plot(f"{name}-shares", "Saved by sharing", shares(figures), TALL),
        ],
        "accuracy": lambda: [Plot(f"{name}-accuracy", "Accuracy", accuracy(figures), TALL)],
        "scaling": lambda: [
            Plot(
                f"{name}-scaling",
                "maj@k over sampled tokens a problem",
                scaling(data, comparison.arms),
                TALL,
            )
        ],
    }
    return [plot for view in comparison.shows for plot in made[view]()]


def _figures(rows: Sequence[Row], arms: Sequence[str]) -> Figures:
    """Median, least and largest value by arm and measure, as bars with intervals want them."""
    figures: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for row in rows:
        if row.arm in figures and row.k is None:
            ends = {f"{row.measure}/low": row.low, f"{row.measure}/high": row.high}
            figures[row.arm] |= {row.measure: row.median, **ends}
    return figures


def _one(figures: Figures, measure: str) -> go.Figure:
    """One measure of every arm."""
    figure = category_figure(",~g")
    add_bars(figure, figures, "median", BLUE, key=measure, ends=f"{measure}/")
    return figure.update_layout(showlegend=False, margin={"t": 8})


def tokens(figures: Figures) -> go.Figure:
    """Flat tokens, unique ones, and prefix tokens that were computed."""
    figure = category_figure("~s")
    add_bars(figure, figures, "as if sampled flat", GREY, key="trajectory_tokens")
    add_bars(figure, figures, "sampled", BLUE, key="sampled_tokens")
    add_bars(figure, figures, "prompts and prefixes computed", ORANGE, key="prefill_tokens")
    return figure


def shares(figures: Figures) -> go.Figure:
    """Sampled tokens saved; prompt and prefix tokens found in the cache."""
    figure = category_figure(PERCENT)
    for name, key, color in (
        ("tokens saved", "tokens_saved", BLUE),
        ("cache hits", "cache_hit_rate", GREEN),
    ):
        add_bars(figure, figures, name, color, key=key, ends=f"{key}/")
    return figure


def accuracy(figures: Figures) -> go.Figure:
    """Mean accuracy and the accuracy of the vote."""
    figure = category_figure(PERCENT)
    for name, key, color in (("mean", "accuracy", ORANGE), ("maj@k", "maj@k", GREEN)):
        add_bars(figure, figures, name, color, key=key, ends=f"{key}/")
    return figure


def scaling(data: EfficiencyPage, arms: Sequence[str]) -> go.Figure:
    """A curve an arm: the accuracy of the vote of k over what k trajectories cost."""
    figure = go.Figure(layout={"template": THEME, "yaxis": {"tickformat": PERCENT}})
    figure.update_layout(hovermode="closest")
    title = {"text": "sampled tokens a problem", "standoff": 8}
    figure.update_xaxes(title=title, tickformat="~s", rangemode="tozero")
    for arm, color in zip(arms, cycle(CYCLE), strict=False):
        own = [row for row in data.rows if row.arm == arm and row.k is not None]
        x = [r.median / data.problems for r in own if r.measure == "scaling_tokens"]
        points = [row for row in own if row.measure == "scaling_accuracy"]
        figure.add_scatter(
            x=x,
            y=[row.median for row in points],
            customdata=[row.k for row in points],
            name=html.escape(arm),
            mode="lines+markers",
            line={"color": color, "width": 1.75},
            marker={"size": 5, "color": color},
            hovertemplate="k = %{customdata}: %{y:.1%} for %{x:,.0f} tokens",
            hoverlabel={"font": {"color": INK}},
        )
    return figure
