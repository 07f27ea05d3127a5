"""What an ablation came to, as a table and a picture of its learning curves.

The rows that are shown lie in docs/results/ablations/NAME.json, taken from the ablation's own
tables; a test compares page and picture with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from docs.pictures.drawing import (
    BOLD,
    LINE,
    MARGIN,
    SMALL,
    box,
    dot,
    grid,
    label,
    path,
    stroke,
    svg,
)
from tasks.ablation import COMPARISON, CURVES
from treepo.errors import UserError
from treepo.schemas.ablation import check_comparison, check_curves
from treepo.storage import read_table

PAGE = Path(__file__).parents[1] / "results.md"
FOLDER = PAGE.parent / "results" / "ablations"
COLUMNS = {
    "accuracy": "held-out accuracy",
    "maj@k": "maj@k",
    "response_tokens": "response length",
    "tokens_saved": "tokens saved",
    "iterations": "iterations",
}
PANELS = {"accuracy": "Held-out accuracy", "reward": "Training reward", "entropy": "Entropy [nats]"}
AXIS = "sampled_tokens"
COLOURS = ("#2f6db5", "#c4611a", "#2b8a6e", "#8a5cc2", "#b5433f")
WIDTH, HEIGHT, PLOT_WIDTH, PLOT_HEIGHT = 300, 230, 240, 160
CHARACTER = 6.6  # of a name, about [px]

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """An ablation's rows: comparison of the shown measures, curves over sampled tokens."""

    comparison: list[Row]
    curves: list[Row]

    @classmethod
    def of(cls, study: Path) -> Outcome:
        """That of a finished ablation's folder."""
        comparison = read_table(study / COMPARISON, check_comparison).to_pylist()
        curves = read_table(study / CURVES, check_curves).to_pylist()
        return cls(
            [_short(row) for row in comparison if row["measure"] in COLUMNS],
            [_short(r) for r in curves if r["axis"] == AXIS and r["measure"] in PANELS],
        )

    @classmethod
    def read(cls, name: str) -> Outcome:
        """The committed one of this name."""
        return cls(**json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))

    def write(self, name: str) -> None:
        """Commit it under this name: the rows, the picture, and the table on the page."""
        page = placed(PAGE.read_text(encoding="utf-8"), name, account(self, name))
        rows = {key: ",\n".join(map(json.dumps, value)) for key, value in asdict(self).items()}
        parts = ",\n".join(f'"{key}": [\n{value}\n]' for key, value in rows.items())
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{name}.json").write_text(f"{{\n{parts}\n}}\n", encoding="utf-8")
        (FOLDER / f"{name}.svg").write_text(picture(self), encoding="utf-8")
        PAGE.write_text(page, encoding="utf-8")

    @property
    def variants(self) -> list[str]:
        """In the order of the ablation's file."""
        return list(dict.fromkeys(row["variant"] for row in self.comparison))


def account(outcome: Outcome, name: str) -> str:
    """What stands on the page: the table, and the picture below it."""
    return f"{table(outcome)}\n\n![Learning curves of {name}](results/ablations/{name}.svg)"


def table(outcome: Outcome) -> str:
    """Mean and interval of each measure, and the difference in accuracy to the reference."""
    rows = {(row["variant"], row["measure"]): row for row in outcome.comparison}
    lines = [
        "| variant | " + " | ".join(COLUMNS.values()) + " | difference in accuracy | p (t; Holm) |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for name in outcome.variants:
        cells = [_interval(rows[name, measure]) for measure in COLUMNS]
        cells += _difference(rows[name, "accuracy"])
        lines.append(" | ".join([f"| `{name}`", *cells]) + " |")
    return "\n".join(lines)


def placed(page: str, name: str, content: str) -> str:
    """A page with `content` between the marks of this name."""
    begin, end = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
    pattern = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    changed, count = pattern.subn(lambda _: content, page)
    if count != 1:
        raise UserError(
            f"{PAGE.name}: no place for '{name}' (<!-- {name} --> ... <!-- end of {name} -->)"
        )
    return changed


def picture(outcome: Outcome) -> str:
    """Learning curves over sampled tokens: means, with 95 % bands over seeds."""
    panels = [_panel(outcome, measure) for measure in PANELS]
    width, height = 2 * MARGIN + WIDTH * len(panels), 2 * MARGIN + HEIGHT + 24
    return svg(
        width,
        height,
        [*grid(panels, len(panels), WIDTH, HEIGHT), *legend(outcome.variants, HEIGHT)],
    )


def _panel(outcome: Outcome, measure: str) -> Iterator[str]:
    rows = [row for row in outcome.curves if row["measure"] == measure]
    right = max(row["x"] for row in rows)
    top = max(_high(row) for row in rows) * 1.02

    def x(row: Row) -> float:
        return round(34 + PLOT_WIDTH * row["x"] / right, 1)

    def y(value: float) -> float:
        return round(14 + PLOT_HEIGHT * (1 - max(0.0, value) / top), 1)

    yield label(34, 0, PANELS[measure], BOLD)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        height = y(tick * top)
        yield path(f"M34 {height}h{PLOT_WIDTH}", stroke(LINE, 0.5))
        yield label(30, height + 3, f"{tick * top:.2f}", f'{SMALL} text-anchor="end"')
    for tick in (0.0, 0.5, 1.0):
        place, said = 34 + PLOT_WIDTH * tick, f"{tick * right / 1000:,.0f}k"
        yield label(place, PLOT_HEIGHT + 28, said, f'{SMALL} text-anchor="middle"')
    middle = f'{SMALL} text-anchor="middle"'
    yield label(34 + PLOT_WIDTH / 2, PLOT_HEIGHT + 44, "sampled tokens", middle)
    for name, colour in zip(outcome.variants, cycle(COLOURS), strict=False):
        own = [row for row in rows if row["variant"] == name]
        upper = [f"{x(row)} {y(_high(row))}" for row in own]
        lower = [f"{x(row)} {y(_low(row))}" for row in reversed(own)]
        yield path(f"M{'L'.join([*upper, *lower])}z", f'fill="{colour}" fill-opacity="0.1"')
    for name, colour in zip(outcome.variants, cycle(COLOURS), strict=False):
        course = "L".join(f"{x(row)} {y(row['mean'])}" for row in rows if row["variant"] == name)
        yield path(f"M{course}", stroke(colour, 1.6))
    yield box(34, 14, PLOT_WIDTH, PLOT_HEIGHT, stroke(LINE))


def legend(names: Iterable[str], panel: float) -> Iterator[str]:
    """Names with their colours, below panels of this height."""
    left, height = MARGIN + 34.0, MARGIN + panel + 18
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        yield dot(left, height - 4, 4, colour)
        yield label(left + 10, height, name)
        left += 40 + CHARACTER * len(name)


def _low(row: Row) -> float:
    return row["mean"] if row["low"] is None else row["low"]


def _high(row: Row) -> float:
    return row["mean"] if row["high"] is None else row["high"]


def _short(row: Row) -> Row:
    """Five digits are more than are shown."""
    return {key: float(f"{v:.5g}") if isinstance(v, float) else v for key, v in row.items()}


def _interval(row: Row, prefix: str = "") -> str:
    mean, low, high = (row[f"{prefix}{key}"] for key in ("mean", "low", "high"))
    if mean is None:
        return "–"
    digits = 3 if abs(mean) < 2 else 1
    sign = "+" if prefix else ""
    band = "" if low is None else f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
    return f"{mean:{sign}.{digits}f}{band}"


def _difference(row: Row) -> tuple[str, str]:
    """Of a variant to its reference, and how sure it is; the reference has none."""
    if row["difference_mean"] is None:
        return "reference", ""
    known = [row[key] for key in ("p_t", "p_holm") if row[key] is not None]
    return _interval(row, "difference_"), "; ".join(map(_small, known))


def _small(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"
