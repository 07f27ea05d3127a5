"""The pictures of docs/sampling.md: one prompt's tree under each policy, from a real policy."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from docs.pictures.drawing import (
    DARK,
    LINE,
    MARGIN,
    NEW,
    RESTART,
    RIGHT,
    SMALL,
    SOFT,
    WRONG,
    Layout,
    arrow,
    dot,
    group,
    path,
    stroke,
    svg,
    text,
)
from docs.pictures.families import FAMILIES, SHAPE, Panel
from docs.pictures.source import Source
from treepo.params import SamplingParams
from treepo.registry import REGISTRIES
from treepo.sampling import Prompt
from treepo.tree import Node, Tree

PROMPTS = 30
STEP, ROW, HEAD, WIDTH, BOTTOM = 7.5, 11, 58, 460, 40
PUT_IN, LIMIT = "#e8995a", "#b38b1d"
FINISHES = {
    "eos": NEW,
    "answer": RIGHT,
    "max_tokens": LIMIT,
    "max_depth": LIMIT,
    "repetition": WRONG,
}


def sampling_pictures(source: Source) -> Iterator[tuple[str, str]]:
    """Each family's name and picture."""
    prompt = _richest(source)
    for family, panels in FAMILIES.items():
        yield family, _picture([(panel, _grown(source, prompt, panel)) for panel in panels])


def _richest(source: Source) -> Prompt:
    """The prompt whose trajectories end at the most different places under the paper's policies."""
    prompts, params = source.prompts[:PROMPTS], SamplingParams(**SHAPE)
    trees = source.grow((source.grower(prompt, params) for prompt in prompts), params)
    return prompts[max(trees, key=lambda index: len({leaf.end for leaf in trees[index].leaves()}))]


def _grown(source: Source, prompt: Prompt, panel: Panel) -> Tree:
    return source.grow([source.grower(prompt, panel.params)], panel.params)[0]


def _picture(panels: list[tuple[Panel, Tree]]) -> str:
    """Panels in two columns, each row as high as its widest tree needs."""
    y, parts = 0.0, list[str]()
    for first in range(0, len(panels), 2):
        pair = panels[first : first + 2]
        for column, (panel, tree) in enumerate(pair):
            parts += group(MARGIN + column * WIDTH, y + 24, _panel(panel, tree))
        y += HEAD + ROW * max(len(tree.leaves()) for _, tree in pair) + 18
    legend = group(MARGIN, y + 22, _legend(), f'{SMALL} fill="{SOFT}"')
    return svg(2 * WIDTH + MARGIN, y + BOTTOM, [*parts, *legend], font_size=12.5, between="")


def _panel(panel: Panel, tree: Tree) -> Iterator[str]:
    """One tree under its policy's name and meaning."""
    yield text(panel.title, f'font-weight="600" {DARK}')
    meanings = dict(REGISTRIES[panel.registry].describe()) if panel.registry else {}
    for row, line in enumerate(wrap(meanings.get(panel.title, ""), 72)):
        yield text(line, f'y="{14 + 13 * row}" {SMALL} fill="{SOFT}"')
    tokens = sum(len(node.logprobs) for node in tree.nodes())
    note = f"{len(tree.leaves())} trajectories, {tokens} tokens sampled"
    yield text(note, f'x="{WIDTH - 30}" font-size="10" fill="{SOFT}" text-anchor="end"')
    yield from group(4, 40, _drawn(tree))


def _drawn(tree: Tree) -> Iterator[str]:
    """The tree, the end of its prompt at (0, 0)."""
    layout = Layout(tree, left=0.0, top=0.0, step=STEP, row=ROW)
    for node in tree.nodes():
        if node.parent is not None:
            yield from _segment(layout, node, node.parent)


def _segment(layout: Layout, node: Node, parent: Node) -> Iterator[str]:
    y, above = layout.y(node), layout.y(parent)
    left, right = layout.x(node.start), layout.x(node.end)
    yield path(f"M{left} {above}V{y}", stroke(LINE, 1))
    yield path(f"M{left + 0.8} {y}H{right - 0.8}", stroke(_colour(node), 5))
    if node.restarted:
        yield arrow(left - 1, y - 5, 6, 5, RESTART)
    if node.finish is not None:
        yield dot(right + 4, y, 3.4, FINISHES[node.finish])


def _colour(node: Node) -> str:
    """By the segment's mean probability; a forced one has none."""
    if node.forced:
        return PUT_IN
    mean = -sum(node.logprobs) / len(node.logprobs)
    return _blue(max(0.0, 1 - mean / 1.5))


def _blue(light: float) -> str:
    """Dark at 0, pale at 1."""
    return f"rgb({int(40 + 160 * light)},{int(70 + 145 * light)},{int(120 + 115 * light)})"


def _legend() -> Iterator[str]:
    """What colours and marks mean."""
    yield path("M0 -4H24", stroke(_blue(1), 5))
    yield path("M26 -4H50", stroke(_blue(0), 5))
    yield text("segment, probable to improbable", 'x="56"')
    yield arrow(238, -9, 6, 5, RESTART)
    yield text("fallback", 'x="250"')
    yield path("M304 -4H324", stroke(PUT_IN, 5))
    yield text("put in", 'x="330"')
    ends = {"eos": NEW, "answer": RIGHT, "limit": LIMIT, "loop": WRONG}
    for place, (name, colour) in enumerate(ends.items()):
        x = 386 + 66 * place
        yield dot(x, -4, 3.4, colour)
        yield text(name, f'x="{x + 8}"')
