"""From a verdict to a reward: a weighted sum of small named components.

It knows the response's text and length, and the verdict on its answer; it verifies nothing. What
is correct stays what the verifier found: shaping never changes that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from treepo.params import ScoringParams
from treepo.registry import Registry
from treepo.scoring.pool import Verdict


@dataclass(frozen=True, slots=True)
class Response:
    """A response as text, and its length [tokens]."""

    text: str
    tokens: int


Component = Callable[[Verdict, Response, ScoringParams], float]
COMPONENTS: Registry[Component] = Registry("scoring.weights")


def compose(
    verdicts: Sequence[Verdict], responses: Sequence[Response], params: ScoringParams
) -> list[Verdict]:
    """The verdicts with all components of `params.weights` and the reward that they make.

    Raises UserError for a component that does not exist.
    """
    chosen = {name: COMPONENTS.get(name) for name in params.weights}
    rewarded: list[Verdict] = []
    for verdict, response in zip(verdicts, responses, strict=True):
        values = {name: value(verdict, response, params) for name, value in chosen.items()}
        reward = sum(params.weights[name] * value for name, value in values.items())
        rewarded.append(replace(verdict, reward=float(reward), components=values))
    return rewarded


@COMPONENTS.register("verifier")
def verifier(verdict: Verdict, response: Response, params: ScoringParams) -> float:
    """The verifier's score, in [0, 1]."""
    return verdict.score


@COMPONENTS.register("format")
def form(verdict: Verdict, response: Response, params: ScoringParams) -> float:
    """1 where an answer was found and the response has the demanded form, otherwise 0."""
    if verdict.answer is None:
        return 0.0
    pattern = params.format_pattern
    return float(pattern is None or _compiled(pattern).search(response.text) is not None)


@lru_cache(maxsize=16)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


@COMPONENTS.register("length")
def length(verdict: Verdict, response: Response, params: ScoringParams) -> float:
    """Minus the share of `max_tokens` that the response takes: 0 to -1."""
    return -min(1.0, response.tokens / _limit(params))


@COMPONENTS.register("overlong")
def overlong(verdict: Verdict, response: Response, params: ScoringParams) -> float:
    """The soft overlong punishment of DAPO (arXiv 2503.14476, Eq. 13).

    0 up to `max_tokens` - `overlong_buffer`, then falling linearly to -1 at `max_tokens`.
    """
    excess = response.tokens - (_limit(params) - params.overlong_buffer)
    return -min(1.0, max(0.0, excess / params.overlong_buffer))


@COMPONENTS.register("repetition")
def repetition(verdict: Verdict, response: Response, params: ScoringParams) -> float:
    """Minus the share of the response's word n-grams that came before: 0 to -1."""
    words = response.text.split()
    count = len(words) - params.repetition_ngram + 1
    if count < 1:
        return 0.0
    distinct = {tuple(words[start : start + params.repetition_ngram]) for start in range(count)}
    return len(distinct) / count - 1


def _limit(params: ScoringParams) -> int:
    assert params.max_tokens is not None  # held by ScoringParams
    return params.max_tokens
