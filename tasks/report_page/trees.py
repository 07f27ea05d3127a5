"""Sampled trees as the page's viewer reads them: columns of numbers and texts, as JSON.

Knows the shape of a tree and what may stand in a page. Must not know tokens, models or how the
viewer draws.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from markupsafe import Markup

from tasks.report_page.text import finite, visible


@dataclass(frozen=True)
class TreeNodes:
    """The segments of a tree, parents before children; one entry a node, the prompt first.

    parent: index, -1 for the prompt. start, end: positions in the trajectory [tokens].
    advantage: mean over the trajectories through the node, None for the prompt; logprob: mean of
    its tokens [nats]; finish and reward: of a leaf, else None; restarted: a fallback began here.
    """

    parent: list[int]
    start: list[int]
    end: list[int]
    text: list[str]
    advantage: list[float | None]
    logprob: list[float | None]
    reward: list[float | None]
    finish: list[str | None]
    restarted: list[bool]


@dataclass(frozen=True)
class ShownTree:
    """One prompt's rollouts and the answer that was wanted."""

    prompt_id: str
    gold: str
    nodes: TreeNodes


@dataclass(frozen=True)
class ShownIteration:
    """The trees of one iteration that the page holds, of `sampled` ones."""

    iteration: int
    sampled: int
    trees: list[ShownTree]


def viewer_data(iterations: Sequence[ShownIteration]) -> list[tuple[int, Markup]]:
    """Each iteration's number and its JSON, fit to stand inside a script element."""
    return [(shown.iteration, embedded(_plain(asdict(shown)))) for shown in iterations]


def embedded(value: object) -> Markup:
    """JSON that no text in it can break out of."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def _plain(value: object) -> object:
    """Texts that a page can show, numbers that JSON can hold, no more digits than are read."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        number = finite(value)
        return None if number is None else round(number, 4)
    return value
