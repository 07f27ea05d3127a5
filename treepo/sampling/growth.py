"""One tree while it grows: what every policy may look at.

Counts, texts and rewards are kept as far as policies ask for them: a path's text is decoded
segment by segment, and a reward is asked of the judge only where a policy wants values.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence

from treepo.errors import UserError
from treepo.params import SamplingParams
from treepo.scoring.answers import boxed_answer
from treepo.tree import Node, Segment, Tree

Decode = Callable[[Sequence[int]], str]
Encode = Callable[[str], list[int]]
Judge = Callable[[list[str]], list[float]]
"""Rewards of responses."""

_BOX = "\\boxed"


class Growth:
    """A tree, its parameters, its random decisions, and what is known of its paths.

    finished: trajectories so far; target: paths, ended and living, that the last step was to
    make; spent: tokens sampled so far.
    """

    def __init__(
        self,
        tree: Tree,
        params: SamplingParams,
        rng: random.Random,
        decode: Decode,
        judge: Judge | None = None,
    ) -> None:
        self.tree = tree
        self.params = params
        self.rng = rng
        self.finished = 0
        self.target = 0
        self.spent = 0
        self._prompt = tree.root.end
        self._decode = decode
        self._judge = judge
        self._newest: tuple[list[int], str] = ([], "")
        self._tails: dict[Node, str] = {tree.root: ""}
        self._rewards: dict[Node, float] = {}

    def add(self, parent: Node, segment: Segment, key: int) -> Node:
        """Put a sampled segment into the tree."""
        self.spent += len(segment.tokens)
        return self.tree.grow(parent, segment, key)

    def sampled(self, node: Node) -> int:
        """Length of the response up to the end of `node` [tokens]."""
        return node.end - self._prompt

    def text(self, node: Node) -> str:
        """Text of the node's own tokens."""
        if self._newest[0] is not node.tokens:
            self._newest = (node.tokens, self._decode(node.tokens))
        return self._newest[1]

    def response_text(self, node: Node) -> str:
        """Text of the response up to the end of `node`."""
        return self._decode(self.tree.response(node))

    def answered(self, node: Node) -> bool:
        """Whether the response up to the end of `node` holds a complete boxed answer."""
        tail = self._tail(node)
        # Pieces that were decoded one by one may differ from the whole: it has the last word.
        return (
            "}" in tail
            and boxed_answer(tail) is not None
            and boxed_answer(self.response_text(node)) is not None
        )

    def _tail(self, node: Node) -> str:
        """The response's text from its first box on, or as much as may be a box's beginning."""
        if node not in self._tails:
            above = node.parent
            if above is not None and above in self._tails:
                text = self._tails[above] + self.text(node)
            else:
                text = self.response_text(node)
            box = text.find(_BOX)
            start = box if box >= 0 else max(0, len(text) - len(_BOX))
            # With the backslashes before it: an escaped one begins no box.
            self._tails[node] = text[len(text[:start].rstrip("\\")) :]
        return self._tails[node]

    def answer_end(self, leaf: Node) -> int | None:
        """Tokens of the response up to its first complete answer; None where there is none."""
        for node in leaf.path()[1:]:
            if self.answered(node):
                return self.sampled(node) - len(node.tokens) + self._closing(node)
        return None

    def _closing(self, node: Node) -> int:
        """Tokens of `node` that the first complete answer needs."""
        assert node.parent is not None
        above, tokens = self._tail(node.parent), node.tokens
        return 1 + bisect_left(
            range(1, len(tokens)),
            True,
            key=lambda count: boxed_answer(above + self._decode(tokens[:count])) is not None,
        )

    def value(self, node: Node) -> float:
        """Mean reward of the trajectories that ended below `node`.

        Where none did, of those below its nearest ancestor that has any; 0 in a tree without.
        Raises UserError where the sampler was given no judge.
        """
        if self._judge is None:
            raise UserError(
                "sampling: a policy by value needs the rewards of finished paths, which only "
                "rollouts have; choose other sampling.allocation and sampling.fallback policies"
            )
        top: Node | None = node
        while top is not None:
            below = [leaf for leaf in self.tree.nodes(top) if leaf.finish is not None]
            if below:
                rewards = self._rewards_of(below, self._judge)
                return sum(rewards) / len(rewards)
            top = top.parent
        return 0.0

    def _rewards_of(self, leaves: list[Node], judge: Judge) -> list[float]:
        new = [leaf for leaf in leaves if leaf not in self._rewards]
        if new:
            rewards = judge([self.response_text(leaf) for leaf in new])
            self._rewards.update(zip(new, rewards, strict=True))
        return [self._rewards[leaf] for leaf in leaves]
