"""How a page of figures becomes one self-contained HTML file: template, style, scripts, policy.

Knows templates and Plotly's script; the same values make the same bytes. Must not know what a page
shows. Texts are hostile: the templates escape them all, and no script but the project's own runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tasks.report_page.figures import Plot
from tasks.report_page.text import duration, finite, number, percent, signed, snippet, visible
from tasks.report_page.theme import DARK
from tasks.report_page.trees import embedded


def assemble(template: str, title: str, drawn: Sequence[Plot], **values: Any) -> str:
    """The page that `template` makes of `values`; `drawn`: all figures that it places."""
    plotly = Markup(get_plotlyjs()) if drawn else Markup()
    page = _source("report.js") + _source("viewer.js")
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            figures=_figures_json(drawn),
            style=_source("report.css"),
            plotly=plotly,
            page=page,
            policy=" ".join(f"'sha256-{_digest(script)}'" for script in (plotly, page) if script),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tasks.report_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    filters: dict[str, Callable[..., Any]] = {
        "finite": finite,
        "snippet": snippet,
        "percent": percent,
        "signed": signed,
        "number": number,
        "duration": duration,
    }
    environment.filters.update(filters)
    return environment


def _finalize(value: Any) -> Any:
    """What every text goes through before it is escaped; markup of the templates is left alone."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _source(name: str) -> Markup:
    """One of the project's own files, to stand in the page unescaped."""
    environment = _environment()
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _digest(script: str) -> str:
    """For the page's content security policy: no script but the report's own may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _figures_json(plots: Sequence[Plot]) -> Markup:
    """All figures and the dark colours as JSON that can stand inside a script element."""
    # The engine is named because orjson, where it is installed, writes other bytes.
    figures = {
        plot.name: json.loads(str(plotly.io.to_json(plot.figure, engine="json"))) for plot in plots
    }
    return embedded({"dark": DARK, "figures": figures})
