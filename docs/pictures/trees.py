"""The example tree with its texts, and as it grew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import ceil

from docs.pictures.drawing import (
    BOLD,
    DARK,
    LINE,
    MARGIN,
    MONO,
    NEW,
    RESTART,
    SMALL,
    TINY,
    Layout,
    arrow,
    box,
    dot,
    grid,
    hue,
    label,
    path,
    stroke,
    svg,
    verdict,
)
from docs.pictures.example import Example
from treepo.tree import Node

PROMPT_WIDTH, COLUMNS = 190.0, 4


def forest_picture(example: Example) -> str:
    """The tree: one box a node with its text, one line a trajectory."""
    # A token is as wide as the widest text needs.
    step = max(
        (6.4 * len(text) + 10) / len(node.tokens)
        for node, text in example.text.items()
        if node.parent is not None
    )
    layout = Layout(example.tree, MARGIN + PROMPT_WIDTH + 26, MARGIN + 34.0, step, 44)
    bottom = layout.top + layout.row * len(example.reward)
    parts = chain(
        *(_node(example, layout, row, node) for row, node in enumerate(example.text)),
        *(_ending(layout, leaf, reward) for leaf, reward in example.reward.items()),
        _legend(example.gold, bottom - 8),
    )
    longest = max(leaf.end for leaf in example.reward)
    return svg(layout.x(longest) + 150, bottom + MARGIN, parts)


def _node(example: Example, layout: Layout, row: int, node: Node) -> Iterator[str]:
    y = layout.y(node)
    start, width = float(MARGIN), PROMPT_WIDTH
    if node.parent is not None:
        start, width = layout.x(node.start), layout.step * len(node.tokens) - 3
        course = f"M{start - 3:.1f} {layout.y(node.parent):.1f}V{y:.1f}H{start:.1f}"
        yield path(course, stroke(LINE, 1.5))
    yield box(start, y - 11, width, 22, f'rx="3" fill="{hue(row)}"')
    shown = example.text[node].replace("\n", "⏎")
    yield label(
        start + 4, y + 4, shown, f'{DARK} font-family="{MONO}" {SMALL} xml:space="preserve"'
    )
    yield label(start, y - 14, f"node {row}", TINY)
    if node.restarted:
        yield arrow(round(start - 9, 1), y - 6, 7, 6, RESTART)


def _ending(layout: Layout, leaf: Node, reward: float) -> Iterator[str]:
    y, right = layout.y(leaf), layout.x(leaf.end) + 8
    yield dot(right, round(y, 1), 4, verdict(reward))
    yield label(right + 9, y + 4, f"{leaf.finish}, reward {reward:.0f}", SMALL)


def _legend(gold: str, y: float) -> Iterator[str]:
    yield label(MARGIN, MARGIN + 8, f"gold answer: {gold}")
    yield arrow(MARGIN, y - 9, 7, 6, RESTART)
    yield label(MARGIN + 12, y + 1, "a fallback started here", SMALL)


def growth_picture(example: Example) -> str:
    """The tree after each inference step; what the step sampled is blue."""
    layout = Layout(example.tree, 10, 32, 7.0, 13)
    longest = max(leaf.end for leaf in example.reward) - example.tree.root.end
    width = max(layout.step * longest + 52, 190.0)
    height = layout.row * len(example.reward) + 48.0
    steps = max(example.step.values())
    panels = (_after(example, layout, step) for step in range(1, steps + 1))
    return svg(
        2 * MARGIN + width * min(COLUMNS, steps),
        2 * MARGIN + height * ceil(steps / COLUMNS),
        grid(panels, COLUMNS, width, height),
    )


def _after(example: Example, layout: Layout, last: int) -> Iterator[str]:
    """The tree as it was after the step `last`."""
    shown = [node for node, step in example.step.items() if 0 < step <= last]
    fresh = [node for node in shown if example.step[node] == last]
    back = any(node.restarted for node in fresh)
    living = sum(
        node.finish is None and all(example.step[child] > last for child in node.children)
        for node in fresh
    )
    done = sum(node.finish is not None for node in shown)
    tokens = sum(len(node.tokens) for node in fresh)
    yield label(0, 0, f"step {last}" + (", a fallback" if back else ""), BOLD)
    yield label(0, 15, f"{tokens} tokens, {living} living, {done} finished", SMALL)
    for node in shown:
        yield from _segment(example, layout, node, NEW if node in fresh else LINE)


def _segment(example: Example, layout: Layout, node: Node, colour: str) -> Iterator[str]:
    assert node.parent is not None
    y, above = layout.y(node), layout.y(node.parent)
    start, end = layout.x(node.start), layout.x(node.end)
    yield path(f"M{start:.1f} {above:.1f}V{y:.1f}", stroke(LINE))
    yield path(f"M{start + 1:.1f} {y:.1f}H{end - 1:.1f}", stroke(colour, 5))
    if node.restarted:
        yield arrow(round(start - 6, 1), round(y - 5, 1), 6, 5, RESTART)
    if node.finish is not None:
        yield dot(round(end + 5, 1), round(y, 1), 3.2, verdict(example.reward[node]))
