"""The steps of an experiment, from the steps themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from docs.pictures.drawing import (
    BOLD,
    DARK,
    HUES,
    LINE,
    MARGIN,
    MONO,
    SMALL,
    SOFT,
    arrow,
    box,
    label,
    path,
    stroke,
    svg,
)
from docs.pictures.example import Example
from tasks.run import ITERATION, STEPS

BEFORE, LOOP, AFTER = (
    ["prepare", "warm_up"],
    [step.name for step in ITERATION],
    ["evaluate", "report"],
)
WIDTH, GAP, HEIGHT, TOP = 128, 14, 74, MARGIN + 34


def pipeline_picture(_: Example) -> str:
    """The steps in their order, with what each writes."""
    order = [*BEFORE, *LOOP, *AFTER]
    left, right = _x(len(BEFORE)), _x(len(BEFORE) + len(LOOP) - 1)
    parts = chain(
        _frame(left, right),
        *(_step(place, name) for place, name in enumerate(order)),
        _way_back(left + WIDTH / 2, right + WIDTH / 2, TOP + HEIGHT + 26),
    )
    return svg(_x(len(order)) - GAP + MARGIN, 2 * MARGIN + HEIGHT + 76, parts)


def _x(place: int) -> int:
    return MARGIN + place * (WIDTH + GAP)


def _frame(left: float, right: float) -> Iterator[str]:
    """Around what is done in each iteration."""
    edge = f'rx="6" {stroke(LINE)} stroke-dasharray="4 3"'
    yield box(left - 7, MARGIN + 4, right - left + WIDTH + 14, HEIGHT + 44, edge)
    yield label(left, MARGIN + 18, "N iterations", SMALL)


def _step(place: int, name: str) -> Iterator[str]:
    """A box with what the step writes, and the way to it."""
    x, y = _x(place), TOP
    yield box(x, y, WIDTH, HEIGHT, f'rx="4" fill="{HUES[1 if name in LOOP else 0]}"')
    yield label(x + 8, y + 18, name.replace("_", "-"), BOLD)
    for line, artifact in enumerate(STEPS[name].outputs(1)):
        shown = artifact.replace("000001", "K").replace("iterations/K/", "")
        yield label(x + 8, y + 36 + 13 * line, shown, f'{DARK} font-family="{MONO}" font-size="9"')
    if place:
        yield path(f"M{x - GAP + 2} {y + 37}h{GAP - 5}", stroke(SOFT))
        yield arrow(x - 5, y + 33, 5, 4, SOFT)


def _way_back(start: float, end: float, y: float) -> Iterator[str]:
    """From an iteration's end, where `end` is, to the next one's start."""
    yield path(f"M{end} {y - 24}v12H{start}v-6", stroke(SOFT))
    yield path(f"M{start - 4} {y - 17}l4 -6l4 6z", f'fill="{SOFT}"')
    yield label((start + end) / 2, y + 2, "the next policy samples", 'text-anchor="middle"')
