"""What all pictures share: SVG elements, colours, and where the nodes of a tree lie.

Elements write their numbers as they get them, but for `label` and `box`, which keep one decimal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape

from treepo.tree import Node, Tree

INK, SOFT, LINE, NEW = "#333c47", "#5b6470", "#b9c0c9", "#2f6db5"
RIGHT, WRONG, RESTART = "#2b8a6e", "#b5433f", "#c4611a"
# One colour a node; the prompt is grey.
HUES = [
    *("#dfe3e8", "#8db8e8", "#f2b880", "#9fd3b5", "#e7a3a0"),
    *("#c5b3e6", "#f0dc82", "#8fd0d6", "#e3a8cf", "#c9cf8a"),
]
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
DARK, SMALL, TINY = f'fill="{INK}"', 'font-size="10.5"', 'font-size="9.5"'
BOLD = f'{DARK} font-weight="600"'
MARGIN = 14


def svg(
    width: float, height: float, parts: Iterable[str], font_size: float = 12, between: str = "\n"
) -> str:
    """A whole picture; `between` stands between its elements."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}" font-size="{font_size}" '
        'fill="none">'
    )
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return between.join([head, ground, *parts, "</svg>"]) + "\n"


def group(x: float, y: float, parts: Iterable[str], more: str = "") -> Iterator[str]:
    """Elements in a frame of their own, whose origin lies at (x, y)."""
    yield f'<g transform="translate({x} {y})" {more}'.rstrip() + ">"
    yield from parts
    yield "</g>"


def grid(
    panels: Iterable[Iterable[str]], columns: int, width: float, height: float
) -> Iterator[str]:
    """Panels of one size, row by row."""
    for place, panel in enumerate(panels):
        x, y = MARGIN + width * (place % columns), MARGIN + 12 + height * (place // columns)
        yield from group(x, y, panel)


def text(content: str, more: str) -> str:
    """A text with the attributes `more`."""
    return f"<text {more}>{escape(content)}</text>"


def label(x: float, y: float, content: str, more: str = "") -> str:
    """A text at its place, dark grey unless `more` says else."""
    fill = "" if "fill=" in more else f' fill="{SOFT}"'
    return text(content, f'x="{x:.1f}" y="{y:.1f}"{fill} {more}')


def box(x: float, y: float, width: float, height: float, more: str) -> str:
    """A rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {more}/>'


def path(course: str, more: str) -> str:
    """A line along `course`."""
    return f'<path d="{course}" {more}/>'


def stroke(colour: str, width: float | None = None) -> str:
    """The attributes of a line; one pixel wide where nothing is said."""
    return f'stroke="{colour}"' + ("" if width is None else f' stroke-width="{width}"')


def dot(x: float, y: float, radius: float, colour: str) -> str:
    """A filled circle."""
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>'


def arrow(x: float, y: float, width: int, half: int, colour: str) -> str:
    """A filled head that points to the right, down from its upper corner (x, y)."""
    return path(f"M{x} {y}l{width} {half}l-{width} {half}z", f'fill="{colour}"')


def hue(row: int) -> str:
    """The colour of a node."""
    return HUES[0] if row == 0 else HUES[1 + (row - 1) % (len(HUES) - 1)]


def verdict(reward: float) -> str:
    """The colour of a trajectory."""
    return RIGHT if reward > 0 else WRONG


@dataclass(frozen=True)
class Layout:
    """Where a tree's nodes lie: time runs to the right, `step` a token; `row` a trajectory.

    The prompt ends at `left`, the first trajectory lies at `top`.
    """

    tree: Tree
    left: float
    top: float
    step: float
    row: float

    def x(self, position: int) -> float:
        """Of a token, by its position with the prompt's tokens."""
        return self.left + self.step * (position - self.tree.root.end)

    def y(self, node: Node) -> float:
        """Of a node."""
        return self.top + self.row * self._rows[node]

    @cached_property
    def _rows(self) -> dict[Node, float]:
        """Leaves in their order, an inner node amid its children."""
        rows = {leaf: float(row) for row, leaf in enumerate(self.tree.leaves())}
        for node in reversed(list(self.tree.nodes())):
            if node not in rows:
                rows[node] = (rows[node.children[0]] + rows[node.children[-1]]) / 2
        return rows
