"""The tree of one prompt's rollouts while it grows.

A node is a segment: tokens sampled contiguously under one parent. The root holds the prompt.
A trajectory is a path from the root to a leaf. Every sampled token lies in exactly one node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from treepo.seeds import derive

Finish = Literal["eos", "answer", "max_tokens", "max_depth", "repetition"]
FINISHES: tuple[str, ...] = get_args(Finish)


@dataclass(frozen=True, slots=True)
class Segment:
    """What an engine returns for one request.

    tokens: sampled token ids, in order; logprobs: of those tokens under the behaviour policy
    (nats, the same length); ended: whether the last token is an end-of-sequence token.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool = False


@dataclass(eq=False, slots=True)
class Node:
    """One segment. `key` names the node's random stream; `start` counts the prompt's tokens too.

    forced: its tokens were put in, not sampled; then, as for the prompt, `logprobs` is empty.
    restarted: a fallback began a path here, after every path of the tree had ended.
    """

    parent: Node | None
    depth: int
    start: int
    tokens: list[int]
    logprobs: list[float]
    key: int
    finish: Finish | None = None
    forced: bool = False
    restarted: bool = False
    children: list[Node] = field(default_factory=list["Node"])

    @property
    def end(self) -> int:
        """Position just after the node's last token."""
        return self.start + len(self.tokens)

    def path(self) -> list[Node]:
        """The nodes from the root to this one, both included."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class Tree:
    """All rollouts of one prompt."""

    def __init__(self, prompt_id: str, prompt: list[int], seed: int) -> None:
        self.prompt_id = prompt_id
        self.root = Node(None, 0, 0, list(prompt), [], derive(seed, "root"))

    def grow(self, parent: Node, segment: Segment, key: int) -> Node:
        """Append a sampled segment below `parent`.

        Raises ValueError where the segment is empty, its logprobs do not match its tokens, or the
        parent already ends a trajectory.
        """
        if not segment.tokens or len(segment.tokens) != len(segment.logprobs):
            raise ValueError("a segment needs at least one token and one logprob for each")
        if parent.finish is not None:
            raise ValueError("a finished node cannot be extended")
        child = Node(parent, parent.depth + 1, parent.end, segment.tokens, segment.logprobs, key)
        parent.children.append(child)
        return child

    def force(self, parent: Node, tokens: list[int]) -> Node:
        """The child of `parent` that holds `tokens` which were put in, not sampled.

        It is made once: paths that are forced at the same place share it. Raises ValueError where
        there are no tokens, or the parent already ends a trajectory.
        """
        if not tokens or parent.finish is not None:
            raise ValueError("nothing to put in, or a finished node")
        for child in parent.children:
            if child.forced and child.tokens == tokens:
                return child
        key = derive(parent.key, "forced")
        child = Node(parent, parent.depth + 1, parent.end, list(tokens), [], key, forced=True)
        parent.children.append(child)
        return child

    def split(self, node: Node, at: int) -> Node:
        """Cut `node` before its token `at` and return the new upper part.

        `node` itself stays the lower part, with its key, finish and children, one level deeper, so
        that whoever holds a reference to a leaf still holds that leaf.
        """
        if node.parent is None or not 0 < at < len(node.tokens):
            raise ValueError(f"cannot split a node of {len(node.tokens)} tokens at {at}")
        upper = Node(
            parent=node.parent,
            depth=node.depth,
            start=node.start,
            tokens=node.tokens[:at],
            logprobs=node.logprobs[:at],
            key=derive(node.key, "upper", node.start + at),
            forced=node.forced,
            restarted=node.restarted,
            children=[node],
        )
        node.restarted = False
        siblings = node.parent.children
        siblings[siblings.index(node)] = upper
        node.parent, node.start = upper, node.start + at
        node.tokens, node.logprobs = node.tokens[at:], node.logprobs[at:]
        for below in self.nodes(node):
            below.depth += 1
        return upper

    def nodes(self, top: Node | None = None) -> Iterator[Node]:
        """Every node from `top` (the root by default) down, parents before their children."""
        stack = [top or self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def leaves(self) -> list[Node]:
        """The nodes that end a trajectory, in depth-first order."""
        return [node for node in self.nodes() if node.finish is not None]

    def response(self, node: Node) -> list[int]:
        """The response's tokens: from the root (excluded) to the end of `node`."""
        return [token for step in node.path()[1:] for token in step.tokens]
