"""A small worked tree under every estimator of advantages."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil

import numpy as np

from docs.pictures.drawing import (
    BOLD,
    DARK,
    HUES,
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
    verdict,
)
from docs.pictures.example import Example
from treepo.advantages import ESTIMATORS
from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.tree import Segment, Tree

REWARDS = (0.0, 1.0, 0.0)
COLUMNS, WIDTH, HEIGHT = 3, 282, 134


def worked_tree() -> Tree:
    """The tree of the estimators' docstrings: a leaf a, and a node m with the leaves b and c."""
    tree = Tree("worked", [1], seed=0)
    tree.grow(tree.root, Segment([2, 3], [-1.0, -1.0]), 0).finish = "eos"
    inner = tree.grow(tree.root, Segment([4], [-1.0]), 1)
    for key in range(2):
        tree.grow(inner, Segment([5], [-1.0]), key).finish = "eos"
    return tree


def worked(name: str) -> list[float]:
    """An estimator's advantages on the worked tree: of a; of m and b; of m and c."""
    forest = Forest.from_trees([worked_tree()])
    params = AdvantageParams(estimator=name, normalization="none")
    return ESTIMATORS.get(name)(forest, np.array(REWARDS), params).tolist()


def estimators_picture(_: Example) -> str:
    """The worked tree under every estimator: what each segment of each trajectory gets."""
    names = list(ESTIMATORS)
    return svg(
        2 * MARGIN + WIDTH * COLUMNS,
        2 * MARGIN + HEIGHT * ceil(len(names) / COLUMNS) - 20,
        grid(map(_panel, names), COLUMNS, WIDTH, HEIGHT),
    )


def _panel(name: str) -> Iterator[str]:
    a, m_b, b, m_c, c = worked(name)
    yield label(0, 0, name, BOLD)
    yield dot(8, 52, 6, HUES[0])
    for y in (26, 58, 88):
        yield path(f"M14 52L34 {y}", stroke(LINE))
    yield from _bar(34, 26, a)
    for y, inner, leaf in ((58, m_b, b), (88, m_c, c)):
        yield from _bar(34, y, inner)
        yield from _bar(116, y, leaf)
    ends = ((26, 116), (58, 198), (88, 198))
    for (y, x), leaf_name, reward in zip(ends, "abc", REWARDS, strict=True):
        yield dot(x + 8, y, 4, verdict(reward))
        yield label(x + 18, y + 4, f"{leaf_name}: {reward:.0f}", SMALL)


def _bar(x: float, y: float, value: float) -> Iterator[str]:
    yield box(x, y - 10, 76, 20, f'rx="3" fill="{_tint(value)}"')
    shown = _number(value).replace("-", "−")
    yield label(x + 38, y + 4, shown, f'{DARK} text-anchor="middle"')


def _tint(value: float) -> str:
    """Green above zero, red below, the stronger the further away."""
    strength = min(1.0, abs(value) / 1.2)
    low = int(235 - 110 * strength)
    if value > 0:
        return f"rgb({low},{int(240 - 40 * strength)},{low})"
    if value < 0:
        return f"rgb({int(245 - 15 * strength)},{low},{low})"
    return "#eceff2"


def _number(value: float) -> str:
    """A fraction where it is a short one, else three decimals."""
    close = Fraction(value).limit_denominator(24)
    return str(close) if abs(close - Fraction(value)) < 1e-12 else f"{value:.3f}"
