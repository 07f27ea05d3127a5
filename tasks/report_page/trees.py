"""Sampled trees as the report shows them: the data, and the walk that the template follows.

Knows the shape of a tree and how an advantage becomes a colour.
Must not know tokens, models or HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks.report_page.text import finite


@dataclass(frozen=True)
class SampleNode:
    """One segment of a sampled tree; the root's text is the prompt.

    advantage: of the segment; logprob: mean of its tokens [nats]; leaves: trajectories through it;
    finish and reward: of a leaf, else None.
    """

    text: str
    advantage: float | None
    logprob: float | None
    leaves: int
    finish: str | None
    reward: float | None
    children: tuple[SampleNode, ...]


@dataclass(frozen=True)
class SampleTree:
    """One prompt's rollouts, a heading for them, and the answer that was wanted."""

    title: str
    gold: str
    root: SampleNode


@dataclass(frozen=True)
class Step:
    """One stop of a walk through a tree: a node is entered, then left after its children.

    sign and strength: the class and the custom property that colour it.
    """

    entering: bool
    node: SampleNode
    anchor: str
    sign: str
    strength: str


@dataclass(frozen=True)
class TreeView:
    """A tree and what follows from all of its nodes together.

    scale: largest |advantage|; right: rewarded trajectories; steps: the walk below the root.
    """

    tree: SampleTree
    scale: float
    right: int
    leaves: int
    steps: list[Step]


def view(tree: SampleTree, index: int) -> TreeView:
    """Lay out one tree; `index` makes its anchors unique in the page."""
    nodes = [tree.root]
    for node in nodes:
        nodes.extend(node.children)
    advantages = (finite(node.advantage) for node in nodes)
    scale = max((abs(value) for value in advantages if value is not None), default=0.0)
    ends = [node for node in nodes if node.finish is not None]
    return TreeView(
        tree=tree,
        scale=scale,
        right=sum((finite(node.reward) or 0) > 0 for node in ends),
        leaves=len(ends),
        steps=_walk(tree.root, scale, f"tree-{index}"),
    )


def _walk(root: SampleNode, scale: float, prefix: str) -> list[Step]:
    """Depth first, without recursion: a tree may be deeper than a call stack."""
    steps: list[Step] = []
    entered = 0
    stack: list[SampleNode | Step] = list(reversed(root.children))
    while stack:
        item = stack.pop()
        if isinstance(item, Step):
            steps.append(item)
            continue
        entered += 1
        sign, strength = _tone(item.advantage, scale)
        steps.append(Step(True, item, f"{prefix}-{entered}", sign, strength))
        stack.append(replace(steps[-1], entering=False))
        stack.extend(reversed(item.children))
    return steps


def _tone(advantage: float | None, scale: float) -> tuple[str, str]:
    """Class for the sign of an advantage, and its part of the tree's largest for the style."""
    value = finite(advantage)
    if not value or not scale:
        return "flat", "0"
    return ("up" if value > 0 else "down"), f"{abs(value) / scale:.3f}"
