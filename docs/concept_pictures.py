"""The pictures of docs/concepts, drawn from one sampled tree and from the library's own results.

    python docs/concept_pictures.py                    # draws docs/concepts/*.svg from example.json
    python docs/concept_pictures.py runs/quickstart    # samples example.json anew before

The second form samples with the warm-started policy of an experiment, and keeps of a few prompts
the tree that shows most: right and wrong answers, a fallback below the root, much that is shared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from treepo.advantages import ESTIMATORS
from treepo.advantages.groups import differing
from treepo.cutting import cut
from treepo.forest import Forest
from treepo.packing import pack
from treepo.params import AdvantageParams, SamplingParams
from treepo.tree import Node, Segment, Tree

OUT = Path(__file__).parent / "concepts"
EXAMPLE = OUT / "example.json"
SHAPE: dict[str, Any] = {
    "width": 10,
    "depth": 10,
    "segment_length": 4,
    "initial_branching": 2,
    "max_tokens": 40,
}
PROMPTS = 48
INK, SOFT, LINE, NEW = "#333c47", "#5b6470", "#b9c0c9", "#2f6db5"
RIGHT, WRONG, RESTART = "#2b8a6e", "#b5433f", "#c4611a"
# One colour a node; the prompt is grey.
HUES = [
    *("#dfe3e8", "#8db8e8", "#f2b880", "#9fd3b5", "#e7a3a0"),
    *("#c5b3e6", "#f0dc82", "#8fd0d6", "#e3a8cf", "#c9cf8a"),
]
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
MARGIN = 14


# The example: one sampled tree.


@dataclass(frozen=True)
class Example:
    """A tree with its texts. text, step, restart: by node, in the forest's order.

    step: the inference step that sampled the node; restart: whether a fallback began with it.
    """

    tree: Tree
    forest: Forest
    rewards: np.ndarray
    gold: str
    text: list[str]
    step: list[int]
    restart: list[bool]


def read_example(file: Path = EXAMPLE) -> Example:
    """The committed example."""
    content = json.loads(file.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = content["nodes"]
    tree = Tree(content["prompt_id"], rows[0]["tokens"], seed=0)
    nodes = [tree.root]
    for key, row in enumerate(rows[1:]):
        segment = Segment(row["tokens"], row["logprobs"])
        node = tree.grow(nodes[row["parent"]], segment, key)
        node.finish = row["finish"]
        nodes.append(node)
    return Example(
        tree,
        Forest.from_trees([tree]),
        np.array(content["rewards"], dtype=np.float64),
        content["gold"],
        *([row[name] for row in rows] for name in ("text", "step", "restart")),
    )


def sample_example(root: Path) -> dict[str, Any]:
    """The best of many trees, as `read_example` reads it."""
    import torch

    from tasks.responses import read_answers, read_prompts
    from treepo.engines.torch_tree import TorchEngine
    from treepo.models import load_policy
    from treepo.params import EngineParams
    from treepo.sampling import grow_tree
    from treepo.scoring import boxed_answer

    torch.set_num_threads(1)
    policy = load_policy(root / "policy" / "000000")
    answers = read_answers(root / "data" / "heldout.parquet")
    params = SamplingParams(**SHAPE)
    prompts = read_prompts(root / "data" / "heldout.parquet")[:PROMPTS]
    steps: list[dict[int, tuple[int, bool]]] = [{} for _ in prompts]
    growers = [
        watched(grow_tree(prompt, params, 0, policy.decode), log)
        for prompt, log in zip(prompts, steps, strict=True)
    ]
    found: list[tuple[Any, dict[str, Any]]] = []
    for index, tree in TorchEngine(policy.model, policy.eos, params, EngineParams()).run(growers):
        gold = answers[tree.prompt_id]
        rewards = [
            float(boxed_answer(policy.decode(tree.response(leaf))) == gold)
            for leaf in tree.leaves()
        ]
        content = written(tree, rewards, gold, steps[index], policy)
        found.append((shows(tree, rewards, steps[index]), content))
    return max(found, key=lambda pair: pair[0])[1]


def watched(grower: Any, steps: dict[int, tuple[int, bool]]) -> Iterator[Any]:
    """The same grower; notes by node key the step, and whether a fallback began there."""
    requests, step = next(grower), 1
    while True:
        for request in requests:
            node = request.node
            again = step > 1 and (bool(node.children) or node.parent is None)
            steps[request.seed] = (step, again)
        segments = yield requests
        try:
            requests = grower.send(segments)
        except StopIteration as stop:
            return stop.value
        step += 1


def shows(
    tree: Tree, rewards: list[float], steps: dict[int, tuple[int, bool]]
) -> tuple[float, ...]:
    """How much there is to see; the largest is taken."""
    nodes = list(tree.nodes())
    again = [node for node in nodes[1:] if steps.get(node.key, (0, False))[1]]
    forest = Forest.from_trees([tree])
    mixed = differing(forest, np.array(rewards)) & (forest.depth > 0)
    return (
        0 < sum(rewards) < len(rewards),
        12 <= len(nodes) <= 22 and max(step for step, _ in steps.values()) <= 7,
        any(node.depth > 1 for node in again),
        bool(mixed.any()),
        len({leaf.depth for leaf in tree.leaves()}) > 1,
        forest.trajectory_tokens / forest.sampled_tokens,
    )


def written(
    tree: Tree, rewards: list[float], gold: str, steps: dict[int, tuple[int, bool]], policy: Any
) -> dict[str, Any]:
    """The tree as JSON."""
    nodes = list(tree.nodes())
    number = {node: index for index, node in enumerate(nodes)}

    def sampled_in(node: Node) -> tuple[int, bool]:
        # The upper part of a split was sampled with the part that kept the key.
        return steps[node.key] if node.key in steps else (sampled_in(node.children[0])[0], False)

    rows = [
        {
            "parent": -1 if node.parent is None else number[node.parent],
            "step": 0 if node.parent is None else sampled_in(node)[0],
            "restart": node.parent is not None and sampled_in(node)[1],
            "finish": node.finish,
            "text": policy.decode(node.tokens),
            "tokens": node.tokens,
            "logprobs": [round(value, 4) for value in node.logprobs],
        }
        for node in nodes
    ]
    return {"prompt_id": tree.prompt_id, "gold": gold, "rewards": rewards, "nodes": rows}


# Drawing.


def svg(width: float, height: float, parts: Iterator[str]) -> str:
    """A whole picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}" font-size="12" fill="none">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def label(x: float, y: float, text: str, more: str = "") -> str:
    """A text at its place, dark grey unless `more` says else."""
    fill = "" if "fill=" in more else f' fill="{SOFT}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{fill} {more}>{escape(text)}</text>'


def box(x: float, y: float, width: float, height: float, more: str) -> str:
    """A rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {more}/>'


def hue(row: int) -> str:
    """The colour of a node."""
    return HUES[0] if row == 0 else HUES[1 + (row - 1) % (len(HUES) - 1)]


def rows_of(tree: Tree) -> dict[Node, float]:
    """Vertical place of each node: leaves in order, an inner node amid its children."""
    places: dict[Node, float] = {leaf: float(row) for row, leaf in enumerate(tree.leaves())}
    for node in reversed(list(tree.nodes())):
        if node not in places:
            below = [places[child] for child in node.children]
            places[node] = (below[0] + below[-1]) / 2
    return places


def forest_picture(example: Example) -> str:
    """The tree: one box a node with its text, one line a trajectory."""
    tree, places = example.tree, rows_of(example.tree)
    prompt_width, height = 190.0, 44
    # A token is as wide as the widest text needs.
    step = max(
        (6.4 * len(text) + 10) / len(node.tokens)
        for text, node in list(zip(example.text, tree.nodes(), strict=True))[1:]
    )
    longest = max(leaf.end for leaf in tree.leaves()) - tree.root.end
    left = MARGIN + prompt_width

    def x(position: int) -> float:
        return left + 26 + step * (position - tree.root.end)

    def parts() -> Iterator[str]:
        for row, node in enumerate(tree.nodes()):
            y = MARGIN + 34 + height * places[node]
            if node.parent is None:
                start, width = float(MARGIN), prompt_width
            else:
                start, width = x(node.start), step * len(node.tokens) - 3
                above = MARGIN + 34 + height * places[node.parent]
                yield (
                    f'<path d="M{start - 3:.1f} {above:.1f}V{y:.1f}H{start:.1f}" stroke="{LINE}" '
                    'stroke-width="1.5"/>'
                )
            yield box(start, y - 11, width, 22, f'rx="3" fill="{hue(row)}"')
            shown = example.text[row].replace("\n", "⏎")
            yield label(
                start + 4,
                y + 4,
                shown,
                f'fill="{INK}" font-family="{MONO}" font-size="10.5" xml:space="preserve"',
            )
            yield label(start, y - 14, f"node {row}", 'font-size="9.5"')
            if example.restart[row]:
                yield f'<path d="M{start - 9:.1f} {y - 6}l7 6l-7 6z" fill="{RESTART}"/>'
        for place, leaf in enumerate(tree.leaves()):
            y, right = MARGIN + 34 + height * place, x(leaf.end) + 8
            good = example.rewards[place] > 0
            yield f'<circle cx="{right}" cy="{y:.1f}" r="4" fill="{RIGHT if good else WRONG}"/>'
            said = f"{leaf.finish}, reward {example.rewards[place]:.0f}"
            yield label(right + 9, y + 4, said, 'font-size="10.5"')
        yield label(MARGIN, MARGIN + 8, f"gold answer: {example.gold}")
        bottom = MARGIN + 34 + height * len(tree.leaves()) - 8
        yield f'<path d="M{MARGIN} {bottom - 9:.1f}l7 6l-7 6z" fill="{RESTART}"/>'
        yield label(MARGIN + 12, bottom + 1, "a fallback started here", 'font-size="10.5"')

    return svg(
        x(tree.root.end + longest) + 150, 2 * MARGIN + 34 + height * len(tree.leaves()), parts()
    )


def growth_picture(example: Example) -> str:
    """The tree after each inference step; what the step sampled is blue."""
    tree, places = example.tree, rows_of(example.tree)
    nodes = list(tree.nodes())
    longest = max(leaf.end for leaf in tree.leaves()) - tree.root.end
    columns, pitch = 4, 13
    panel_width = max(7.0 * longest + 52, 190.0)
    panel_height = pitch * len(tree.leaves()) + 48
    steps = max(example.step)

    def panel(last: int) -> Iterator[str]:
        shown = [row for row in range(1, len(nodes)) if example.step[row] <= last]
        fresh = [row for row in shown if example.step[row] == last]
        living = [row for row in fresh if nodes[row].finish is None]
        back = any(example.restart[row] for row in fresh)
        open_paths = sum(
            1
            for row in living
            if not any(example.step[nodes.index(c)] <= last for c in nodes[row].children)
        )
        done = sum(nodes[row].finish is not None for row in shown)
        tokens = sum(len(nodes[row].tokens) for row in fresh)
        yield label(
            0,
            0,
            f"step {last}" + (", a fallback" if back else ""),
            f'fill="{INK}" font-weight="600"',
        )
        yield label(
            0, 15, f"{tokens} tokens, {open_paths} living, {done} finished", 'font-size="10.5"'
        )
        for row in shown:
            node = nodes[row]
            assert node.parent is not None
            y, above = 32 + pitch * places[node], 32 + pitch * places[node.parent]
            start, end = (10 + 7.0 * (at - tree.root.end) for at in (node.start, node.end))
            colour = NEW if row in fresh else LINE
            yield f'<path d="M{start:.1f} {above:.1f}V{y:.1f}" stroke="{LINE}"/>'
            yield (
                f'<path d="M{start + 1:.1f} {y:.1f}H{end - 1:.1f}" stroke="{colour}" '
                'stroke-width="5"/>'
            )
            if example.restart[row]:
                yield f'<path d="M{start - 6:.1f} {y - 5:.1f}l6 5l-6 5z" fill="{RESTART}"/>'
            if node.finish is not None:
                good = example.rewards[tree.leaves().index(node)] > 0
                colour = RIGHT if good else WRONG
                yield f'<circle cx="{end + 5:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>'

    def parts() -> Iterator[str]:
        for last in range(1, steps + 1):
            x = MARGIN + panel_width * ((last - 1) % columns)
            y = MARGIN + 12 + panel_height * ((last - 1) // columns)
            yield f'<g transform="translate({x:.1f} {y:.1f})">'
            yield from panel(last)
            yield "</g>"

    lines = (steps + columns - 1) // columns
    return svg(
        2 * MARGIN + panel_width * min(columns, steps), 2 * MARGIN + panel_height * lines, parts()
    )


def worked_tree() -> Tree:
    """The tree of the estimators' docstrings: a leaf a, and a node m with the leaves b and c."""
    tree = Tree("worked", [1], seed=0)
    tree.grow(tree.root, Segment([2, 3], [-1.0, -1.0]), 0).finish = "eos"
    inner = tree.grow(tree.root, Segment([4], [-1.0]), 1)
    for key in range(2):
        tree.grow(inner, Segment([5], [-1.0]), key).finish = "eos"
    return tree


WORKED_REWARDS = (0.0, 1.0, 0.0)
SEGMENTS = ("a", "m of b", "b", "m of c", "c")


def worked(name: str) -> list[float]:
    """An estimator's advantages on the worked tree: of a; of m and b; of m and c."""
    forest = Forest.from_trees([worked_tree()])
    params = AdvantageParams(estimator=name, normalization="none")
    return ESTIMATORS.get(name)(forest, np.array(WORKED_REWARDS), params).tolist()


def number(value: float) -> str:
    """A fraction where it is a short one, else three decimals."""
    close = Fraction(value).limit_denominator(24)
    return str(close) if abs(close - Fraction(value)) < 1e-12 else f"{value:.3f}"


def estimators_picture(_: Example) -> str:
    """The worked tree under every estimator: what each segment of each trajectory gets."""
    columns, width, height = 3, 282, 134

    def tint(value: float) -> str:
        strength = min(1.0, abs(value) / 1.2)
        low = int(235 - 110 * strength)
        return (
            f"rgb({low},{int(240 - 40 * strength)},{low})"
            if value > 0
            else (f"rgb({int(245 - 15 * strength)},{low},{low})" if value < 0 else "#eceff2")
        )

    def bar(x: float, y: float, value: float) -> Iterator[str]:
        yield box(x, y - 10, 76, 20, f'rx="3" fill="{tint(value)}"')
        yield label(
            x + 38, y + 4, number(value).replace("-", "−"), f'fill="{INK}" text-anchor="middle"'
        )

    def panel(name: str) -> Iterator[str]:
        a, m_b, b, m_c, c = worked(name)
        yield label(0, 0, name, f'fill="{INK}" font-weight="600"')
        yield f'<circle cx="8" cy="52" r="6" fill="{HUES[0]}"/>'
        for y in (26, 58, 88):
            yield f'<path d="M14 52L34 {y}" stroke="{LINE}"/>'
        yield from bar(34, 26, a)
        for y, inner, leaf in ((58, m_b, b), (88, m_c, c)):
            yield from bar(34, y, inner)
            yield from bar(116, y, leaf)
        ends = ((26, 116, 0), (58, 198, 1), (88, 198, 2))
        for (y, x, index), name_of in zip(ends, "abc", strict=True):
            good = WORKED_REWARDS[index] > 0
            yield f'<circle cx="{x + 8}" cy="{y}" r="4" fill="{RIGHT if good else WRONG}"/>'
            yield label(
                x + 18, y + 4, f"{name_of}: {WORKED_REWARDS[index]:.0f}", 'font-size="10.5"'
            )

    def parts() -> Iterator[str]:
        for place, name in enumerate(ESTIMATORS):
            x, y = MARGIN + width * (place % columns), MARGIN + 12 + height * (place // columns)
            yield f'<g transform="translate({x} {y})">'
            yield from panel(name)
            yield "</g>"

    lines = (len(list(ESTIMATORS)) + columns - 1) // columns
    return svg(2 * MARGIN + width * columns, 2 * MARGIN + height * lines - 20, parts())


def owners(forest: Forest) -> np.ndarray:
    """The row of each packed token's node, from `pack`: int64 [tokens]."""
    packed = pack(forest, [0])
    row = np.zeros(len(packed.tokens), dtype=np.int64)
    # A prompt's tokens are no targets; all others know their node.
    sampled = np.flatnonzero(np.arange(len(row)) >= forest.lengths[0])
    row[sampled] = packed.target_row
    return row


def cells(
    x: float, y: float, rows: np.ndarray, size: float, outlined: frozenset[int] = frozenset()
) -> Iterator[str]:
    """Tokens side by side, runs of one node as one box."""
    cuts = np.flatnonzero(np.diff(rows)) + 1
    for part in np.split(np.arange(len(rows)), cuts):
        at, row = int(part[0]), int(rows[part[0]])
        width = size * len(part)
        edge = f' stroke="{RESTART}" stroke-width="1.5"' if row in outlined else ""
        yield box(x + size * at + 0.5, y, width - 1, 16, f'rx="2" fill="{hue(row)}"{edge}')
        if width > 14:
            yield label(
                x + size * at + width / 2,
                y + 12,
                str(row),
                f'fill="{INK}" font-size="9.5" text-anchor="middle"',
            )


def packing_picture(example: Example) -> str:
    """The same tree as flat rows, and as one packed row."""
    forest = example.forest
    flat = [np.repeat([0, *path], forest.lengths[[0, *path]]) for path in forest.paths]
    packed = owners(forest)
    size = 860 / max(len(packed), *(len(rows) for rows in flat))

    def parts() -> Iterator[str]:
        y = MARGIN + 10
        total = sum(map(len, flat))
        yield label(MARGIN, y, f"flat: one row a trajectory, {total} tokens", f'fill="{INK}"')
        for rows in flat:
            y += 20
            yield from cells(MARGIN, y - 10, rows, size)
        y += 34
        yield label(MARGIN, y, f"packed: one row a tree, {len(packed)} tokens", f'fill="{INK}"')
        yield from cells(MARGIN, y + 10, packed, size)
        yield label(
            MARGIN, y + 46, "numbers and colours: nodes; 0 is the prompt", 'font-size="10.5"'
        )

    return svg(2 * MARGIN + 860, MARGIN + 20 * len(flat) + 110, parts())


def mask_picture(example: Example) -> str:
    """Which packed token sees which: k <= q < end[k]."""
    packed, rows = pack(example.forest, [0]), owners(example.forest)
    end = packed.end.numpy()
    count = len(end)
    size = 480 / count
    corner = MARGIN + 34

    def parts() -> Iterator[str]:
        yield label(corner, MARGIN + 6, "k: the token that is seen", 'font-size="10.5"')
        middle = corner + 240
        yield label(
            MARGIN + 6,
            middle,
            "q: the token that sees",
            f'font-size="10.5" text-anchor="middle" transform="rotate(-90 {MARGIN + 6} {middle})"',
        )
        for k in range(count):
            x, colour = corner + size * k, hue(int(rows[k]))
            # In column k, the tokens from k up to the end of its subtree.
            yield box(x, corner + size * k, size, size * (end[k] - k), f'fill="{colour}"')
            yield box(x, corner - 12, size, 8, f'fill="{colour}"')
            yield box(corner - 12, x, 8, size, f'fill="{colour}"')
        for at in (np.flatnonzero(np.diff(rows)) + 1).tolist():
            place = corner + size * at
            lines = f"M{corner} {place:.1f}h480M{place:.1f} {corner}v480"
            yield f'<path d="{lines}" stroke="#eceff2" stroke-width="0.6"/>'
        yield box(corner, corner, 480, 480, f'stroke="{LINE}"')
        seen = int((end - np.arange(count)).sum())
        side = corner + 500
        causal = count * (count + 1) // 2
        for line, said in enumerate(
            (
                f"{count} tokens",
                f"{seen:,} pairs (q, k) are attended to,",
                f"{causal:,} under a causal mask",
                "over the same row",
                "",
                "white above the diagonal: the future",
                "white below it: other branches",
            )
        ):
            yield label(side, corner + 12 + 18 * line, said)

    return svg(corner + 480 + 280, corner + 480 + MARGIN, parts())


def cutting_picture(example: Example) -> str:
    """The tree cut for a budget: parts that repeat what they share."""
    forest = example.forest
    whole = int(forest.lengths.sum())
    budget = int(whole * 0.66)
    made = cut(forest, budget)
    size = 860 / whole

    def parts() -> Iterator[str]:
        y = MARGIN + 10
        yield label(MARGIN, y, f"whole: {whole} tokens", f'fill="{INK}"')
        yield from cells(MARGIN, y + 8, owners(forest), size)
        y += 50
        repeated = made.repeated_tokens
        yield label(
            MARGIN,
            y,
            f"cut for a budget of {budget} tokens: {made.forest.trees} parts, "
            f"{repeated} tokens repeated (outlined)",
            f'fill="{INK}"',
        )
        before: set[int] = set()
        start = made.forest.tree_start
        for part in range(made.forest.trees):
            rows = made.row[start[part] : start[part + 1]]
            tokens = np.repeat(rows, forest.lengths[rows])
            yield from cells(MARGIN, y + 8, tokens, size, frozenset(before))
            before |= set(rows.tolist())
            y += 26

    return svg(2 * MARGIN + 860, MARGIN + 86 + 26 * made.forest.trees, parts())


def pipeline_picture(_: Example) -> str:
    """The steps in their order, with what each writes, from the steps themselves."""
    from tasks.run import ITERATION, STEPS

    loop = [step.name for step in ITERATION]
    before, after = ["prepare", "warm_up"], ["evaluate", "report"]
    order = [*before, *loop, *after]
    width, gap, height = 128, 14, 74

    def parts() -> Iterator[str]:
        first, last = len(before), len(before) + len(loop) - 1
        left, right = (MARGIN + place * (width + gap) for place in (first, last))
        edge = f'rx="6" stroke="{LINE}" stroke-dasharray="4 3"'
        yield box(left - 7, MARGIN + 4, right - left + width + 14, height + 44, edge)
        yield label(left, MARGIN + 18, "N iterations", 'font-size="10.5"')
        for place, name in enumerate(order):
            x, y = MARGIN + place * (width + gap), MARGIN + 34
            yield box(x, y, width, height, f'rx="4" fill="{HUES[0 if name not in loop else 1]}"')
            yield label(x + 8, y + 18, name.replace("_", "-"), f'fill="{INK}" font-weight="600"')
            for line, artifact in enumerate(STEPS[name].outputs(1)):
                shown = artifact.replace("000001", "K").replace("iterations/K/", "")
                yield label(
                    x + 8,
                    y + 36 + 13 * line,
                    shown,
                    f'fill="{INK}" font-family="{MONO}" font-size="9"',
                )
            if place:
                yield f'<path d="M{x - gap + 2} {y + 37}h{gap - 5}" stroke="{SOFT}"/>'
                yield f'<path d="M{x - 5} {y + 33}l5 4l-5 4z" fill="{SOFT}"/>'
        y = MARGIN + 34 + height + 26
        x, end = left + width / 2, right + width / 2
        yield f'<path d="M{end} {y - 24}v12H{x}v-6" stroke="{SOFT}"/>'
        yield f'<path d="M{x - 4} {y - 17}l4 -6l4 6z" fill="{SOFT}"/>'
        yield label((x + end) / 2, y + 2, "the next policy samples", 'text-anchor="middle"')

    return svg(2 * MARGIN + len(order) * (width + gap) - gap, 2 * MARGIN + height + 76, parts())


PICTURES: dict[str, Callable[[Example], str]] = {
    "pipeline": pipeline_picture,
    "forest": forest_picture,
    "growth": growth_picture,
    "estimators": estimators_picture,
    "packing": packing_picture,
    "mask": mask_picture,
    "cutting": cutting_picture,
}


def main() -> None:
    """Draw every picture; sample the example first where an experiment is named."""
    if len(sys.argv) > 1:
        content = sample_example(Path(sys.argv[1]))
        rows = ",\n  ".join(json.dumps(row) for row in content.pop("nodes"))
        head = json.dumps(content)[:-1]
        EXAMPLE.write_text(f'{head},\n "nodes": [\n  {rows}\n ]}}\n', encoding="utf-8")
    example = read_example()
    for name, draw in PICTURES.items():
        (OUT / f"{name}.svg").write_text(draw(example), encoding="utf-8")


if __name__ == "__main__":
    main()
