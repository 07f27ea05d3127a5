"""Forced answer: an answer's beginning is put in where a path runs out of tokens without one.

What is put in was not sampled: it is a node of its own, marked as forced, that the update must
not learn from.
"""

from __future__ import annotations

from treepo.errors import UserError
from treepo.params import SamplingParams
from treepo.sampling.growth import Encode, Growth
from treepo.tree import Node


class ForcedAnswer:
    """The text to put in, as tokens, and when."""

    def __init__(self, params: SamplingParams, encode: Encode | None) -> None:
        """Raises UserError where the text leaves no token for the answer itself."""
        self._remaining = params.forced_answer.remaining
        self._limit = params.token_limit
        self._tokens: list[int] = []
        if self._remaining:
            if encode is None:
                raise ValueError("a forced answer needs a tokenizer")
            self._tokens = encode(params.forced_answer.text)
            if not 0 < len(self._tokens) < self._remaining:
                raise UserError(
                    f"sampling.forced_answer.text has {len(self._tokens)} tokens; it must have at "
                    f"least 1 and fewer than sampling.forced_answer.remaining {self._remaining}"
                )

    def apply(self, growth: Growth, node: Node) -> Node:
        """Where to sample from instead of `node`: below the text, if its time has come."""
        left = self._limit - growth.sampled(node)
        if not len(self._tokens) < left <= self._remaining:
            return node
        if growth.answered(node) or any(part.forced for part in node.path()):
            return node
        return growth.tree.force(node, self._tokens)

    def room(self, sampled: int) -> int:
        """Tokens that a response of `sampled` tokens has left before the text, or its limit."""
        before = self._limit - self._remaining - sampled
        return before if before > 0 else self._limit - sampled
