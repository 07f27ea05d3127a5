"""What training on real problems came to: curves of several runs, and trees that the first sampled.

What is shown lies in docs/results/training/NAME.json, taken from the runs' own artifacts; a test
compares page and pictures with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, cycle
from math import isnan
from pathlib import Path
from typing import Any

from docs.pictures.ablations import COLOURS, PAGE, legend, placed
from docs.pictures.drawing import (
    BOLD,
    LINE,
    MARGIN,
    NEW,
    RESTART,
    SMALL,
    Layout,
    arrow,
    box,
    dot,
    grid,
    group,
    label,
    path,
    stroke,
    svg,
    verdict,
)
from tasks.report_page import ShownTree, TreeNodes
from tasks.report_trees import shown_trees, tree_artifacts
from tasks.responses import read_answers
from tasks.workspace import PARAMS, TRAIN, of_iteration
from treepo.loading import load_experiment
from treepo.models import load_tokenizer
from treepo.tree import Node, Segment, Tree

FOLDER = PAGE.parent / "results" / "training"
TREES = 3
MEASURES = {
    "reward/mean": "Training reward",
    "rollout/response_length": "Response length [tokens]",
    "update/entropy": "Entropy [nats]",
}
SAMPLED = "rollout/sampled_tokens"
WIDTH, HEIGHT, PLOT_WIDTH, PLOT_HEIGHT = 300, 220, 240, 150
STEP, ROW, TEXT, LAST = 2.4, 15, 390, 46

Row = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """curves: of each run, one row an iteration; trees: of the first run."""

    curves: dict[str, list[Row]]
    trees: list[Row]

    @classmethod
    def of(cls, runs: Sequence[Path]) -> Training:
        """That of finished runs."""
        return cls({run.name: _course(run) for run in runs}, _trees(runs[0]))

    @classmethod
    def read(cls, name: str) -> Training:
        """The committed one of this name."""
        return cls(**json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))

    def write(self, name: str) -> None:
        """Commit it under this name: the rows, the pictures, and both on the page."""
        page = placed(PAGE.read_text(encoding="utf-8"), f"{name} training", account(name))
        FOLDER.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(self), indent=1) + "\n"
        (FOLDER / f"{name}.json").write_text(content, encoding="utf-8")
        for file, picture in self.pictures(name).items():
            (FOLDER / file).write_text(picture, encoding="utf-8")
        PAGE.write_text(page, encoding="utf-8")

    def pictures(self, name: str) -> dict[str, str]:
        """By their files."""
        return {f"{name}.svg": curves(self.curves), f"{name}-trees.svg": trees(self.trees)}


def account(name: str) -> str:
    """What stands on the page."""
    return (
        f"![Learning curves of {name}](results/training/{name}.svg)\n\n"
        f"![Three trees of {name}](results/training/{name}-trees.svg)"
    )


def _course(run: Path) -> list[Row]:
    """The shown metrics of each iteration, with the tokens sampled up to its end.

    None where nothing was measured: without an informative tree there is no update.
    """
    files = sorted(run.glob(of_iteration(0, "update.json").replace("000000", "*")))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    tokens = accumulate(row[SAMPLED] for row in found)
    return [
        {SAMPLED: total, **{name: _rounded(row.get(name)) for name in MEASURES}}
        for total, row in zip(tokens, found, strict=True)
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _trees(run: Path) -> list[Row]:
    """Three trees of all iterations, those with the most even outcomes."""
    iterations = list(range(1, len(_course(run)) + 1))
    inputs = {name: run / name for k in iterations for name in tree_artifacts(k)}
    tokenizer = load_tokenizer(load_experiment(run / PARAMS).model)
    found = shown_trees(inputs, iterations, tokenizer, read_answers(run / TRAIN))
    every = [(tree, shown.iteration) for shown in found for tree in shown.trees]
    chosen = sorted(every, key=lambda one: _evenness(one[0]), reverse=True)[:TREES]
    return [
        {"iteration": iteration, **asdict(replace(tree, nodes=_shown(tree.nodes)))}
        for tree, iteration in chosen
    ]


def _shown(nodes: TreeNodes) -> TreeNodes:
    """Of a tree what is drawn: no number but rewards, which of an inner node is none."""
    unseen: list[float | None] = [None] * len(nodes.parent)
    reward = [None if value is None or isnan(value) else value for value in nodes.reward]
    return replace(nodes, advantage=unseen, logprob=unseen, reward=reward)


def _evenness(tree: ShownTree) -> float:
    rewards = [value for value in tree.nodes.reward if value is not None and not isnan(value)]
    mean = sum(rewards) / len(rewards)
    return mean * (1 - mean)


def curves(runs: dict[str, list[Row]]) -> str:
    """One panel a measure, one line a run, over the tokens that were sampled."""
    panels = [_panel(runs, measure) for measure in MEASURES]
    width, height = 2 * MARGIN + WIDTH * len(panels), 2 * MARGIN + HEIGHT + 24
    return svg(width, height, [*grid(panels, len(panels), WIDTH, HEIGHT), *legend(runs, HEIGHT)])


def _panel(runs: dict[str, list[Row]], measure: str) -> Iterator[str]:
    courses = [[row for row in course if row[measure] is not None] for course in runs.values()]
    right = max(row[SAMPLED] for course in runs.values() for row in course)
    top = max(row[measure] for course in courses for row in course) * 1.05 or 1.0
    yield label(34, 0, MEASURES[measure], BOLD)
    for tick in (0.0, 0.5, 1.0):
        height, place = 14 + PLOT_HEIGHT * (1 - tick), 34 + PLOT_WIDTH * tick
        yield path(f"M34 {height}h{PLOT_WIDTH}", stroke(LINE, 0.5))
        yield label(30, height + 3, f"{tick * top:.3g}", f'{SMALL} text-anchor="end"')
        said = f"{tick * right / 1000:,.0f}k"
        yield label(place, PLOT_HEIGHT + 28, said, f'{SMALL} text-anchor="middle"')
    middle = f'{SMALL} text-anchor="middle"'
    yield label(34 + PLOT_WIDTH / 2, PLOT_HEIGHT + 44, "sampled tokens", middle)
    for course, colour in zip(courses, cycle(COLOURS), strict=False):
        points = (
            f"{34 + PLOT_WIDTH * row[SAMPLED] / right:.1f} "
            f"{14 + PLOT_HEIGHT * (1 - row[measure] / top):.1f}"
            for row in course
        )
        yield path(f"M{'L'.join(points)}", stroke(colour, 1.6))
    yield box(34, 14, PLOT_WIDTH, PLOT_HEIGHT, stroke(LINE))


def trees(rows: list[Row]) -> str:
    """The trees one below the other: a line a segment, a text at the end of each trajectory."""
    parts: list[str] = []
    y, right = float(MARGIN), 0.0
    for row in rows:
        tree, of_node = _grown(row)
        layout = Layout(tree, left=0.0, top=34.0, step=STEP, row=ROW)
        parts += group(MARGIN, y, _tree(layout, of_node, row))
        y += 34 + ROW * len(tree.leaves()) + 18
        right = max(right, *(layout.x(leaf.end) for leaf in tree.leaves()))
    return svg(right + TEXT + MARGIN, y, parts)


def _grown(row: Row) -> tuple[Tree, dict[Node, int]]:
    """The row as a tree that has places, and which entry of its columns a node is."""
    columns = row["nodes"]
    tree = Tree(row["prompt_id"], [0] * columns["end"][0], seed=0)
    nodes = [tree.root]
    for entry in range(1, len(columns["parent"])):
        tokens = columns["end"][entry] - columns["start"][entry]
        blank = Segment([0] * tokens, [0.0] * tokens)
        node = tree.grow(nodes[columns["parent"][entry]], blank, key=entry)
        node.finish = columns["finish"][entry]
        nodes.append(node)
    return tree, {node: entry for entry, node in enumerate(nodes)}


def _tree(layout: Layout, of_node: dict[Node, int], row: Row) -> Iterator[str]:
    columns = row["nodes"]
    title = f"{row['prompt_id']}, iteration {row['iteration']}, gold answer: {row['gold']}"
    yield label(0, 8, title, BOLD)
    for node, entry in of_node.items():
        if node.parent is None:
            continue
        y, above = layout.y(node), layout.y(node.parent)
        left, right = layout.x(node.start), layout.x(node.end)
        yield path(f"M{left:.1f} {above:.1f}V{y:.1f}", stroke(LINE, 1))
        colour = _outcome(node, of_node, columns["reward"])
        yield path(f"M{left + 0.8:.1f} {y:.1f}H{right - 0.8:.1f}", stroke(colour, 4))
        if columns["restarted"][entry]:
            yield arrow(round(left - 1, 1), round(y - 5, 1), 6, 5, RESTART)
        if not node.children:
            yield dot(round(right + 5, 1), round(y, 1), 3.2, verdict(columns["reward"][entry]))
            ending = " ".join(columns["text"][entry].split())[-LAST:]
            yield label(right + 13, y + 3.5, f"{columns['finish'][entry]}: … {ending}", SMALL)


def _outcome(node: Node, of_node: dict[Node, int], rewards: list[float]) -> str:
    """Green where all trajectories through the node are right, red where none is, else blue."""
    if not node.children:
        return verdict(rewards[of_node[node]])
    colours = {_outcome(child, of_node, rewards) for child in node.children}
    return colours.pop() if len(colours) == 1 else NEW
