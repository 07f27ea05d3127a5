"""The report's Plotly figures, one small function each, in one theme.

Knows the names of the history's and the evaluations' numbers, and how each is best drawn.
Must not know the page that the figures stand in.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import plotly.graph_objects as go

from tasks.report_page.text import finite
from tasks.report_page.theme import (
    BLUE,
    CYCLE,
    FINISH_COLORS,
    GREEN,
    GREY,
    ORANGE,
    PALE_BLUE,
    PERCENT,
    THEME,
)
from treepo.tree import FINISHES

Rows = Sequence[Mapping[str, float]]

TALL, SMALL = 320, 210

HEALTH = {
    "Entropy [nats]": {"update/entropy": "entropy"},
    "Clipped": {
        "update/clip_low": "below",
        "update/clip_high": "above",
        "update/clip_dual": "dual clip",
    },
    "Gradient norm": {"update/grad_norm": "gradient norm"},
    "Ratio": {"update/ratio_min": "smallest", "update/ratio_max": "largest"},
    "Engine against trainer [nats]": {
        "update/mismatch_mean": "mean |log ratio|",
        "update/mismatch_max": "largest",
    },
    "Approximate KL [nats]": {"update/approx_kl": "old to new policy"},
    "Loss": {"update/loss": "loss"},
    "Advantage, standard deviation": {"advantage/std": "standard deviation"},
    "Informative trees": {"reward/informative_trees": "trees"},
}
DEPTH = "advantage/depth_"
BY_DEPTH = {
    "Advantage by depth, standard deviation": "std",
    "Trajectories through a node, by depth": "group_size",
}
# Wholes of which the other times are parts: in the stack they would count twice.
TIME_TOTALS = ("time/total", "time/iteration")


@dataclass(frozen=True)
class Plot:
    """One figure and what the page says around it; `name` is unique in a report."""

    name: str
    title: str
    figure: go.Figure
    height: int


def plots(history: Rows, evaluations: Rows) -> dict[str, list[Plot]]:
    """The figures that have data, by section of the report."""
    # A single evaluation is told better by its row in the page's table than by a lone dot.
    curves = [("learning", "", learning(history, evaluations), TALL)]
    return {
        "learning": _present(curves if history or len(evaluations) > 1 else []),
        "tokens": _present(
            [
                ("tokens", "Response tokens an iteration", tokens(history), TALL),
                ("saving", "Tokens saved by the tree", saving(history), TALL),
            ]
        ),
        "health": health(history),
        "more": more(history),
        "responses": _present(
            [
                ("length", "Mean response length [tokens]", length(history), TALL),
                ("finish", "How trajectories end", finish(history), TALL),
            ]
        ),
        "time": _present([("time", "", time(history), TALL)]),
    }


def learning(history: Rows, evaluations: Rows) -> go.Figure:
    """Training reward an iteration; held-out accuracy with its interval."""
    figure = _figure(yaxis={"tickformat": PERCENT})
    x, rewards = series(history, "reward/mean")
    window = max(1, len(x) // 20)
    if window > 1:
        _line(figure, x, rewards, "training reward", PALE_BLUE)
        _line(figure, x, _trailing(rewards, window), f"its mean over {window} iterations", BLUE)
    else:
        _line(figure, x, rewards, "training reward", BLUE)
    for key, color, dash in (("pass@k", GREY, "dot"), ("maj@k", GREEN, "dash")):
        _line(figure, *series(evaluations, key, first=0), f"held-out {key}", color, dash=dash)
    _accuracy(figure, evaluations)
    return figure


def tokens(history: Rows) -> go.Figure:
    """Sampled tokens against those of a flat batch; the area between them was saved."""
    figure = _figure(yaxis={"tickformat": "~s"})
    x, flat = series(history, "rollout/trajectory_tokens")
    _line(figure, x, flat, "as if sampled flat", GREY)
    _line(figure, *series(history, "rollout/sampled_tokens"), "sampled", BLUE)
    if any(value is not None for value in flat):
        figure.update_traces(fill="tonexty", fillcolor=PALE_BLUE, selector={"name": "sampled"})
    return figure


def saving(history: Rows) -> go.Figure:
    """One less sampled over flat tokens."""
    x, sampled = series(history, "rollout/sampled_tokens")
    _, flat = series(history, "rollout/trajectory_tokens")
    saved = [
        1 - one / all_ if one is not None and all_ else None
        for one, all_ in zip(sampled, flat, strict=True)
    ]
    figure = _figure(yaxis={"tickformat": PERCENT})
    _line(figure, x, saved, "saved", BLUE)
    return figure


def health(history: Rows) -> list[Plot]:
    """Small multiples: the numbers to watch, and those by depth."""
    depths = [
        (f"depth-{statistic}", title, by_depth(history, statistic), SMALL)
        for title, statistic in BY_DEPTH.items()
    ]
    return _present([*_panels(history, HEALTH, "health"), *depths])


def more(history: Rows) -> list[Plot]:
    """Small multiples of whatever else of update and advantages varies."""
    names = {name: {name: name} for name in _others(history) if not is_constant(history, name)}
    return _present(_panels(history, names, "more"))


def constants(history: Rows) -> list[tuple[str, float]]:
    """The other numbers that are the same in all of several iterations."""
    names = [name for name in _others(history) if is_constant(history, name)]
    return [(name, history[-1][name]) for name in names]


def is_constant(history: Rows, key: str) -> bool:
    """Whether a number is there in all of several iterations, and always the same."""
    return len(history) > 1 and len({row.get(key) for row in history}) == 1


def _others(history: Rows) -> list[str]:
    known = {key for keys in HEALTH.values() for key in keys} | {*_keys(history, DEPTH)}
    return [key for key in _keys(history, "update/", "advantage/") if key not in known]


def _panels(
    history: Rows, panels: Mapping[str, Mapping[str, str]], section: str
) -> list[tuple[str, str, go.Figure, int]]:
    small: list[tuple[str, str, go.Figure, int]] = []
    for number, (title, keys) in enumerate(panels.items()):
        figure = _figure(margin={"t": 24 if len(keys) > 1 else 8})
        for (key, label), color in zip(keys.items(), CYCLE, strict=False):
            _line(figure, *series(history, key), label, color)
        small.append((f"{section}-{number}", title, figure, SMALL))
    return small


def by_depth(history: Rows, statistic: str) -> go.Figure:
    """A number of every depth over the iterations, as shades of one colour."""
    keys = [key for key in _keys(history, DEPTH) if key.endswith(f"/{statistic}")]
    figure = _figure()
    if keys:
        x, _ = series(history, keys[0])
        figure.add_heatmap(
            x=x,
            y=[int(key.removeprefix(DEPTH).partition("/")[0]) for key in keys],
            z=[series(history, key)[1] for key in keys],
            colorscale=[PALE_BLUE, BLUE],
            hovertemplate="depth %{y}: %{z:.3~g}<extra></extra>",
        )
        _whole_ticks(figure, x)
        figure.update_yaxes(dtick=max(1, len(keys) // 4))
    return figure


def length(history: Rows) -> go.Figure:
    """Mean length of a response."""
    figure = _figure(yaxis={"tickformat": "~s"})
    _line(figure, *series(history, "rollout/response_length"), "tokens", BLUE)
    return figure


def finish(history: Rows) -> go.Figure:
    """Share of each reason to end; works for counts and for fractions."""
    figure = _figure(barmode="stack", barnorm="fraction", yaxis={"tickformat": PERCENT})
    prefix = "rollout/finish/"
    order = {f"{prefix}{name}": place for place, name in enumerate(FINISHES)}
    keys = sorted(_keys(history, prefix), key=lambda key: (order.get(key, len(order)), key))
    known = {key: FINISH_COLORS[place] for key, place in order.items()}
    _bars(figure, history, {key: known.get(key, GREY) for key in keys}, prefix)
    return figure


def time(history: Rows) -> go.Figure:
    """Seconds of an iteration by step, the costliest step at the bottom."""
    figure = _figure(barmode="stack", yaxis={"ticksuffix": " s"})
    steps = zip(times(history), cycle(CYCLE), strict=False)
    _bars(figure, history, {f"time/{step}": color for (step, _), color in steps}, "time/")
    return figure


def times(history: Rows) -> list[tuple[str, float]]:
    """Seconds of each step over all iterations, the costliest first."""
    totals = {
        key.removeprefix("time/"): sum(value or 0.0 for value in series(history, key)[1])
        for key in _keys(history, "time/")
        if key not in TIME_TOTALS
    }
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def series(rows: Rows, key: str, first: int = 1) -> tuple[list[float], list[float | None]]:
    """Iterations, and the value of each or None where it is absent or not finite."""
    x = [row.get("iteration", place) for place, row in enumerate(rows, first)]
    return x, [finite(row.get(key)) for row in rows]


def _figure(**layout: object) -> go.Figure:
    return go.Figure(layout={"template": THEME, **layout})


def _present(candidates: Iterable[tuple[str, str, go.Figure, int]]) -> list[Plot]:
    return [Plot(*candidate) for candidate in candidates if candidate[2].data]


def _keys(history: Rows, *prefixes: str) -> list[str]:
    return sorted({key for row in history for key in row if key.startswith(prefixes)})


def _line(
    figure: go.Figure,
    x: list[float],
    y: list[float | None],
    name: str,
    color: str,
    dash: str = "solid",
) -> None:
    """Add a line, unless it is empty; few points are marked, for a single one has no line."""
    if all(value is None for value in y):
        return
    figure.add_scatter(
        x=x,
        y=y,
        name=html.escape(name),
        mode="lines+markers" if len(x) <= 30 else "lines",
        line={"color": color, "width": 1.75, "dash": dash},
        marker={"size": 4, "color": color},
        hovertemplate="%{y:.1%}" if _percent(figure) else "%{y:.4~g}",
    )
    _whole_ticks(figure, x)


def _accuracy(figure: go.Figure, evaluations: Rows) -> None:
    x, y = series(evaluations, "accuracy", first=0)
    if all(value is None for value in y):
        return
    low, high = series(evaluations, "low")[1], series(evaluations, "high")[1]
    figure.add_scatter(
        x=x,
        y=y,
        name="held-out accuracy",
        mode="lines+markers",
        line={"color": ORANGE, "width": 2},
        marker={"size": 7, "color": ORANGE},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": _gaps(high, y),
            "arrayminus": _gaps(y, low),
            "thickness": 1.25,
            "width": 4,
        },
        hovertemplate="%{y:.1%}",
    )
    _whole_ticks(figure, x)


def _gaps(upper: list[float | None], lower: list[float | None]) -> list[float]:
    return [
        max(0.0, top - bottom) if top is not None and bottom is not None else 0.0
        for top, bottom in zip(upper, lower, strict=True)
    ]


def _bars(figure: go.Figure, history: Rows, colors: Mapping[str, str], prefix: str) -> None:
    if len(history) > 40:
        figure.update_layout(bargap=0)
    for key, color in colors.items():
        x, y = series(history, key)
        figure.add_bar(
            x=x,
            y=y,
            name=html.escape(key.removeprefix(prefix)),
            marker={"color": color, "line": {"width": 0}, "opacity": 0.85},
            hovertemplate="%{y:.1%}" if _percent(figure) else "%{y:.3~g} s",
        )
        _whole_ticks(figure, x)


def _percent(figure: go.Figure) -> bool:
    return str(figure.layout.yaxis.tickformat or "").endswith("%")


def _whole_ticks(figure: go.Figure, x: Sequence[float]) -> None:
    """A short axis would get ticks between the iterations."""
    if x and max(x) - min(x) < 8:
        figure.update_xaxes(dtick=1)


def _trailing(values: list[float | None], window: int) -> list[float | None]:
    result: list[float | None] = []
    for end in range(1, len(values) + 1):
        known = [value for value in values[max(0, end - window) : end] if value is not None]
        result.append(sum(known) / len(known) if known else None)
    return result
