"""The page of an evaluation: scores with intervals, responses, and a comparison with another.

Knows how an evaluation's numbers are laid out; the same data make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.report_page.assembly import assemble
from tasks.report_page.bars import Figures, evaluation_plots
from tasks.report_page.page import Tile, sections
from tasks.report_page.text import duration, number, percent
from treepo.evaluation import OVERALL, Comparison, Flip

SHOWN_FLIPS = 200


@dataclass(frozen=True)
class Against:
    """The evaluation that this one is compared with.

    figures: its own; compared: the paired comparison by benchmark and overall; flips: the
    problems that one solves and the other does not; problems: the text of each prompt_id.
    """

    name: str
    figures: Figures
    compared: Mapping[str, Comparison]
    flips: list[Flip]
    problems: Mapping[str, str]


@dataclass(frozen=True)
class EvaluationData:
    """All that the page shows.

    figures: by benchmark and overall (`treepo.evaluation.by_benchmark`); wall and device: time
    [s]; filtered: problems left out, by reason.
    """

    name: str
    description: str
    policy: str
    figures: Figures
    wall: float
    device: float
    filtered: Mapping[str, int]
    against: Against | None
    settings: list[tuple[str, str, str]]
    lineage: list[tuple[str, str]]


def render_evaluation(data: EvaluationData) -> str:
    """The page as one self-contained HTML file."""
    against = data.against
    plots = evaluation_plots(data.figures, against.figures if against else None)
    return assemble(
        "evaluation.html.j2",
        title=data.name,
        drawn=[plot for section in plots.values() for plot in section],
        data=data,
        plots=plots,
        tiles=_tiles(data),
        flips=against.flips[:SHOWN_FLIPS] if against else [],
        settings=sections(data.settings),
    )


def _tiles(data: EvaluationData) -> list[Tile]:
    whole = data.figures[OVERALL]
    k, samples = number(whole["k"]), number(whole["samples"])

    def interval(prefix: str) -> str:
        ends = (whole[f"{prefix}low"], whole[f"{prefix}high"])
        return f"interval {percent(ends[0])} to {percent(ends[1])}"

    size = f"{number(whole['problems'])} problems, {samples} responses each"
    sampled, flat = whole["sampled_tokens"], whole["trajectory_tokens"]
    return [
        Tile(f"Accuracy (mean@{samples})", percent(whole["accuracy"]), (interval(""), size)),
        Tile(f"maj@{k}", percent(whole["maj@k"]), (interval("maj@k/"),)),
        Tile(f"pass@{k}", percent(whole["pass@k"]), (interval("pass@k/"),)),
        Tile("Tokens sampled", number(sampled), (f"in responses of {number(flat)}",)),
        Tile("Wall time", duration(data.wall), (f"{duration(data.device)} of device time",)),
    ]
