"""Colours and layout that all of the report's figures share.

Knows the light page's colours and, in `DARK`, the dark page's counterpart of each.
Must not know what any figure shows.
"""

from __future__ import annotations

import plotly.graph_objects as go

INK, GRID, SURFACE = "#5b6470", "#e7e9ec", "#fffffe"
BLUE, PALE_BLUE, ORANGE, GREEN = "#2f6db5", "#bcd2eb", "#c4611a", "#2b8a6e"
PURPLE, GOLD, RED, GREY = "#7a5ab0", "#b38b1d", "#b5433f", "#a3aab3"
DARK = {
    INK: "#9aa4b1",
    GRID: "#2a2f37",
    SURFACE: "#20242b",
    BLUE: "#6ea8e8",
    PALE_BLUE: "#2c435d",
    ORANGE: "#e8995a",
    GREEN: "#5cc0a0",
    PURPLE: "#ab90dd",
    GOLD: "#d8b655",
    RED: "#e58078",
    GREY: "#6d7682",
}
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, GOLD, RED, GREY)
# In the order of FINISHES: what ends a response well is cool, what cuts it off is warm.
FINISH_COLORS = (BLUE, GREEN, GOLD, ORANGE, RED, GREY)
# Of shares on an axis: as many digits as tell its ticks apart.
PERCENT = "~%"

THEME = go.layout.Template(
    layout={
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif",
            "size": 12,
            "color": INK,
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": CYCLE,
        "margin": {"l": 52, "r": 12, "t": 30, "b": 40},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": SURFACE, "bordercolor": GRID},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "bargap": 0.08,
        "xaxis": {
            "title": {"text": "iteration", "standoff": 8},
            "unifiedhovertitle": {"text": "iteration %{x}"},
            "showgrid": False,
            "zeroline": False,
            "showline": True,
            "linecolor": GRID,
            "ticks": "outside",
            "tickcolor": GRID,
            "tickformat": ",d",
            "spikecolor": GREY,
            "spikethickness": 1,
            "spikedash": "solid",
        },
        "yaxis": {
            "gridcolor": GRID,
            "zeroline": False,
            "rangemode": "tozero",
            "nticks": 6,
            "exponentformat": "e",
        },
    }
)
