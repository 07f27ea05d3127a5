"""The example tree as the update sees it: packed, masked, cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from docs.pictures.drawing import (
    DARK,
    LINE,
    MARGIN,
    RESTART,
    SMALL,
    TINY,
    box,
    hue,
    label,
    path,
    stroke,
    svg,
)
from docs.pictures.example import Example
from treepo.cutting import Cut, cut
from treepo.forest import Forest
from treepo.packing import pack

WIDTH, SIDE, CORNER = 860, 480, MARGIN + 34


def packing_picture(example: Example) -> str:
    """The same tree as flat rows, and as one packed row."""
    forest = example.forest
    flat = [np.repeat([0, *path], forest.lengths[[0, *path]]) for path in forest.paths]
    packed = _owners(forest)
    size = WIDTH / max(len(packed), *(len(rows) for rows in flat))

    def parts() -> Iterator[str]:
        y = MARGIN + 10
        total = sum(map(len, flat))
        yield label(MARGIN, y, f"flat: one row a trajectory, {total} tokens", DARK)
        for rows in flat:
            y += 20
            yield from _cells(y - 10, rows, size)
        y += 34
        yield label(MARGIN, y, f"packed: one row a tree, {len(packed)} tokens", DARK)
        yield from _cells(y + 10, packed, size)
        yield label(MARGIN, y + 46, "numbers and colours: nodes; 0 is the prompt", SMALL)

    return svg(2 * MARGIN + WIDTH, MARGIN + 20 * len(flat) + 110, parts())


def _owners(forest: Forest) -> np.ndarray:
    """The row of each packed token's node, from `pack`: int64 [tokens]."""
    packed = pack(forest, [0])
    row = np.zeros(len(packed.tokens), dtype=np.int64)
    # A prompt's tokens are no targets; all others know their node.
    sampled = np.flatnonzero(np.arange(len(row)) >= forest.lengths[0])
    row[sampled] = packed.target_row
    return row


def _borders(rows: np.ndarray) -> np.ndarray:
    """Where another node begins."""
    return np.flatnonzero(np.diff(rows)) + 1


def _cells(
    y: float, rows: np.ndarray, size: float, outlined: frozenset[int] = frozenset()
) -> Iterator[str]:
    """Tokens side by side, runs of one node as one box."""
    for part in np.split(np.arange(len(rows)), _borders(rows)):
        x, row, width = MARGIN + size * int(part[0]), int(rows[part[0]]), size * len(part)
        edge = f" {stroke(RESTART, 1.5)}" if row in outlined else ""
        yield box(x + 0.5, y, width - 1, 16, f'rx="2" fill="{hue(row)}"{edge}')
        if width > 14:
            yield label(x + width / 2, y + 12, str(row), f'{DARK} {TINY} text-anchor="middle"')


def mask_picture(example: Example) -> str:
    """Which packed token sees which: k <= q < end[k]."""
    end = pack(example.forest, [0]).end.numpy()
    parts = chain(_axes(), _columns(_owners(example.forest), end), _account(end))
    return svg(CORNER + SIDE + 280, CORNER + SIDE + MARGIN, parts)


def _axes() -> Iterator[str]:
    yield label(CORNER, MARGIN + 6, "k: the token that is seen", SMALL)
    x, y = MARGIN + 6, CORNER + SIDE // 2
    turned = f'{SMALL} text-anchor="middle" transform="rotate(-90 {x} {y})"'
    yield label(x, y, "q: the token that sees", turned)


def _columns(rows: np.ndarray, end: np.ndarray) -> Iterator[str]:
    size = SIDE / len(end)
    for k, row in enumerate(rows.tolist()):
        x, colour = CORNER + size * k, f'fill="{hue(row)}"'
        # In column k, the tokens from k up to the end of its subtree.
        yield box(x, x, size, size * (end[k] - k), colour)
        yield box(x, CORNER - 12, size, 8, colour)
        yield box(CORNER - 12, x, 8, size, colour)
    for at in _borders(rows).tolist():
        place = CORNER + size * at
        lines = f"M{CORNER} {place:.1f}h{SIDE}M{place:.1f} {CORNER}v{SIDE}"
        yield path(lines, stroke("#eceff2", 0.6))
    yield box(CORNER, CORNER, SIDE, SIDE, stroke(LINE))


def _account(end: np.ndarray) -> Iterator[str]:
    count = len(end)
    seen = int((end - np.arange(count)).sum())
    lines = (
        f"{count} tokens",
        f"{seen:,} pairs (q, k) are attended to,",
        f"{count * (count + 1) // 2:,} under a causal mask",
        "over the same row",
        "",
        "white above the diagonal: the future",
        "white below it: other branches",
    )
    for line, said in enumerate(lines):
        yield label(CORNER + SIDE + 20, CORNER + 12 + 18 * line, said)


def cutting_picture(example: Example) -> str:
    """The tree cut for a budget: parts that repeat what they share."""
    forest = example.forest
    whole = int(forest.lengths.sum())
    budget = int(whole * 0.66)
    made = cut(forest, budget, range(forest.trees))
    count, repeated = made.forest.trees, made.repeated_tokens
    said = f"cut for a budget of {budget} tokens: {count} parts, "

    def parts() -> Iterator[str]:
        y = MARGIN + 10
        yield label(MARGIN, y, f"whole: {whole} tokens", DARK)
        yield from _cells(y + 8, _owners(forest), WIDTH / whole)
        y += 50
        yield label(MARGIN, y, f"{said}{repeated} tokens repeated (outlined)", DARK)
        yield from _pieces(forest, made, y + 8, WIDTH / whole)

    return svg(2 * MARGIN + WIDTH, MARGIN + 86 + 26 * count, parts())


def _pieces(forest: Forest, made: Cut, y: float, size: float) -> Iterator[str]:
    """One row a part; what an earlier part holds too is outlined."""
    before: frozenset[int] = frozenset()
    starts = made.forest.tree_start
    for part in range(made.forest.trees):
        rows = made.row[starts[part] : starts[part + 1]]
        yield from _cells(y + 26 * part, np.repeat(rows, forest.lengths[rows]), size, before)
        before |= frozenset(rows.tolist())
