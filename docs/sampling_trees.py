"""The pictures of docs/sampling.md: one prompt's tree under each policy, from a real policy.

    python docs/sampling_trees.py runs/quickstart

It samples with the warm-started policy of an experiment and writes docs/sampling/FAMILY.svg.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from tasks.responses import read_answers, read_prompts
from treepo.engines.torch_tree import TorchEngine
from treepo.models import Policy, load_policy
from treepo.params import EngineParams, SamplingParams
from treepo.registry import REGISTRIES
from treepo.sampling import Grower, Prompt, grow_tree
from treepo.scoring import boxed_answer
from treepo.tree import Node, Tree

OUT = Path(__file__).parent / "sampling"
SHAPE: dict[str, Any] = {
    "width": 12,
    "depth": 13,
    "segment_length": 4,
    "initial_branching": 3,
    "max_tokens": 50,
}
PROMPTS, SEED = 30, 0
STEP, ROW, MARGIN, HEAD, PANEL, BOTTOM = 7.5, 11, 14, 58, 460, 40
INK, PUT_IN, RESTART = "#333c47", "#e8995a", "#c4611a"
FINISHES = {
    "eos": "#2f6db5",
    "answer": "#2b8a6e",
    "max_tokens": "#b38b1d",
    "max_depth": "#b38b1d",
    "repetition": "#b5433f",
}
FAMILIES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "allocation": [
        ("sampling.allocation.policy", name, {"allocation": {"policy": name, "temperature": 0.3}})
        for name in (
            "even",
            "low_probability",
            "high_probability",
            "entropy",
            "high_value",
            "low_value",
        )
    ],
    "budget": [
        ("sampling.budget.control", "factor", {}),
        ("sampling.budget.control", "random_range", {"budget": {"control": "random_range"}}),
        (
            "sampling.budget.control",
            "step_tokens",
            {"budget": {"control": "step_tokens", "step_tokens": 20}},
        ),
        ("", "total_tokens 200, min_width 3", {"budget": {"total_tokens": 200, "min_width": 3}}),
    ],
    "stops": [
        ("", "eos, answer, repetition, limits", {}),
        (
            "",
            "answer_with_eos, eos, limits",
            {"stops": ["answer_with_eos", "eos", "limits"]},
        ),
        ("", "answer, min_tokens 24", {"min_tokens": 24}),
        ("", "repetition: a character twice", {"repetition": {"length": 1, "count": 2}}),
        (
            "",
            "forced_answer.remaining 12",
            {"max_tokens": 22, "forced_answer": {"remaining": 12, "text": "so \\boxed{"}},
        ),
        ("", "sequential: depth 1", {"depth": 1, "segment_length": 50, "initial_branching": 12}),
    ],
    "candidates": [
        (
            "sampling.fallback.candidates",
            name,
            {
                "initial_branching": 4,
                "branching": 2,
                "depth": 8,
                "fallback": {"candidates": name, "longer_than": 16, "temperature": 0.2},
            },
        )
        for name in (
            "answer_or_eos",
            "finished_first",
            "finished_first_strict",
            "random",
            "longer_first",
            "answered_longer_than",
            "high_value",
            "low_value",
        )
    ],
    "positions": [
        (
            "sampling.fallback.position",
            name,
            {"fallback": {"position": name, "block": 4, "temperature": 0.2}},
        )
        for name in (
            "random_segment",
            "low_probability_block",
            "high_probability_block",
            "min_probability_token",
            "misaligned",
            "high_value",
            "low_value",
            "from_root",
            "none",
        )
    ],
}
# Fallback shows where paths end before they fork: no growth but at the root.
FEW = {"budget": {"control": "random_range", "growth_range": [1, 1]}, "initial_branching": 3}
WINDOW = ("", "random_segment, window 1", {"fallback": {"window": 1}})


@dataclass
class Grown:
    """A tree, and the keys of the segments with which a fallback began."""

    tree: Tree | None = None
    restarts: set[int] = field(default_factory=set)

    def watch(self, grower: Grower) -> Grower:
        """The same grower; notes what a fallback starts."""
        requests, first = next(grower), True
        while True:
            self.restarts |= {
                request.seed
                for request in requests
                if not first and (request.node.children or request.node.parent is None)
            }
            first = False
            segments = yield requests
            try:
                requests = grower.send(segments)
            except StopIteration as stop:
                self.tree = stop.value
                return stop.value


def sampled(policy: Policy, prompt: Prompt, gold: str, params: SamplingParams) -> Grown:
    """The prompt's tree; a response is rewarded where its box holds `gold`."""

    def judge(texts: list[str]) -> list[float]:
        return [float(boxed_answer(text) == gold) for text in texts]

    grown = Grown()
    grower = grow_tree(prompt, params, SEED, policy.decode, policy.encode, judge)
    engine = TorchEngine(policy.model, policy.eos, params, EngineParams(rows=1))
    list(engine.run([grown.watch(grower)]))
    return grown


def richest(policy: Policy, prompts: list[Prompt]) -> Prompt:
    """The prompt whose trajectories end at the most different places under the paper's policies."""
    params = SamplingParams(**SHAPE)
    engine = TorchEngine(policy.model, policy.eos, params, EngineParams())
    growers = (grow_tree(prompt, params, SEED, policy.decode) for prompt in prompts)
    trees = dict(engine.run(growers))
    return prompts[max(trees, key=lambda index: len({leaf.end for leaf in trees[index].leaves()}))]


def shade(node: Node) -> str:
    """Pale where the segment was probable, dark where it was not."""
    if node.forced:
        return PUT_IN
    mean = -sum(node.logprobs) / len(node.logprobs)
    light = max(0.0, 1 - mean / 1.5)
    return f"rgb({int(40 + 160 * light)},{int(70 + 145 * light)},{int(120 + 115 * light)})"


def rows_of(tree: Tree) -> dict[Node, float]:
    """Vertical place of each node: leaves in order, inner nodes in the middle of their children."""
    places: dict[Node, float] = {leaf: float(row) for row, leaf in enumerate(tree.leaves())}
    for node in reversed(list(tree.nodes())):
        if node not in places:
            below = [places[child] for child in node.children]
            places[node] = (below[0] + below[-1]) / 2
    return places


def drawing(grown: Grown) -> Iterator[str]:
    """The tree as SVG, its root at (0, 0); one row a leaf, STEP a token."""
    tree = grown.tree
    assert tree is not None
    places = rows_of(tree)

    def x(position: int) -> float:
        return STEP * (position - tree.root.end)

    for node in tree.nodes():
        if node.parent is None:
            continue
        y, above = ROW * places[node], ROW * places[node.parent]
        left, right = x(node.start), x(node.end)
        yield f'<path d="M{left} {above}V{y}" stroke="#b9c0c9" stroke-width="1"/>'
        yield (
            f'<path d="M{left + 0.8} {y}H{right - 0.8}" stroke="{shade(node)}" stroke-width="5"/>'
        )
        if node.key in grown.restarts:
            yield f'<path d="M{left - 1} {y - 5}l6 5l-6 5z" fill="{RESTART}"/>'
        if node.finish is not None:
            yield f'<circle cx="{right + 4}" cy="{y}" r="3.4" fill="{FINISHES[node.finish]}"/>'


def panel(key: str, name: str, grown: Grown) -> str:
    """One tree under its policy's name and meaning."""
    tree = grown.tree
    assert tree is not None
    lines = dict(REGISTRIES[key].describe()) if key else {}
    tokens = sum(len(node.logprobs) for node in tree.nodes())
    note = f"{len(tree.leaves())} trajectories, {tokens} tokens sampled"
    head = (
        f'<text font-weight="600" fill="{INK}">{escape(name)}</text>'
        + "".join(
            f'<text y="{14 + 13 * row}" font-size="10.5" fill="#5b6470">{escape(line)}</text>'
            for row, line in enumerate(wrap(lines.get(name, ""), 72))
        )
        + f'<text x="{PANEL - 30}" font-size="10" fill="#5b6470" text-anchor="end">{note}</text>'
    )
    return f'{head}<g transform="translate(4 40)">{"".join(drawing(grown))}</g>'


def legend(y: float) -> str:
    """What colours and marks mean."""
    parts = [f'<g transform="translate({MARGIN} {y})" font-size="10.5" fill="#5b6470">']
    parts.append('<path d="M0 -4H24" stroke="rgb(200,215,235)" stroke-width="5"/>')
    parts.append('<path d="M26 -4H50" stroke="rgb(40,70,120)" stroke-width="5"/>')
    parts.append('<text x="56">segment, probable to improbable</text>')
    parts.append(f'<path d="M238 -9l6 5l-6 5z" fill="{RESTART}"/><text x="250">fallback</text>')
    parts.append(f'<path d="M304 -4H324" stroke="{PUT_IN}" stroke-width="5"/>')
    parts.append('<text x="330">put in</text>')
    for place, (label, finish) in enumerate(
        [("eos", "eos"), ("answer", "answer"), ("limit", "max_tokens"), ("loop", "repetition")]
    ):
        at = 386 + 66 * place
        parts.append(f'<circle cx="{at}" cy="-4" r="3.4" fill="{FINISHES[finish]}"/>')
        parts.append(f'<text x="{at + 8}">{label}</text>')
    return "".join(parts) + "</g>"


def picture(panels: list[tuple[str, str, Grown]]) -> str:
    """Panels in two columns, each row as high as its widest tree needs."""
    y, parts = 0.0, []
    for first in range(0, len(panels), 2):
        pair = panels[first : first + 2]
        for column, entry in enumerate(pair):
            left, top = MARGIN + column * PANEL, y + 24
            parts.append(f'<g transform="translate({left} {top})">{panel(*entry)}</g>')
        most = max(len(grown.tree.leaves()) for _, _, grown in pair)
        y += HEAD + ROW * most + 18
    width, height = 2 * PANEL + MARGIN, y + BOTTOM
    font = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" font-family="{font}" font-size="12.5" fill="none">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}{legend(y + 22)}</svg>\n'
    )


def main() -> None:
    """Sample and draw every family."""
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    policy = load_policy(root / "policy" / "000000")
    prompt = richest(policy, read_prompts(root / "data" / "heldout.parquet")[:PROMPTS])
    gold = read_answers(root / "data" / "heldout.parquet")[prompt.prompt_id]
    OUT.mkdir(exist_ok=True)
    for family, entries in FAMILIES.items():
        extra = FEW if family in ("candidates", "positions") else {}
        shown = [*entries, WINDOW] if family == "positions" else entries
        panels: list[tuple[str, str, Grown]] = []
        for key, name, changes in shown:
            params = SamplingParams(**{**SHAPE, **extra, **changes})
            panels.append((key, name, sampled(policy, prompt, gold, params)))
        (OUT / f"{family}.svg").write_text(picture(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
