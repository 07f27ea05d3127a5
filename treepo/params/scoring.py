"""Parameters of the verifier and of the reward."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from treepo.params.base import Params, Positive

NEED_LIMIT = ("length", "overlong")


class ScoringParams(Params):
    """How a response becomes a reward."""

    verifier: str = Field(
        default="math",
        description="math, numeric, exact, multiple_choice, regex, reasoning_gym, code, or a "
        "function of yours (gold, answer) -> score in [0, 1] as package.module:function",
    )
    boxed: bool = Field(
        default=True, description="the answer must stand in \\boxed{}; code: between fences"
    )
    workers: Positive = Field(default=2, description="verifier processes")
    network: bool = Field(
        default=False,
        description="whether verifiers may open connections, as one that asks a server has to; "
        "programs that the code verifier judges may not in any case",
    )
    deadline: float = Field(default=5.0, gt=0, description="longest CPU time for one response [s]")
    max_characters: Positive = Field(
        default=131072, description="longer responses get reward 0 [characters]"
    )
    weights: dict[str, float] = Field(
        default={"verifier": 1.0},
        description="the reward is the sum of weight times component: verifier (0 to 1), format "
        "(0 or 1), length, overlong and repetition (0 to -1)",
    )
    format_pattern: str | None = Field(
        default=None,
        description="format: regular expression that is found in the response; null: an answer",
    )
    max_tokens: Positive | None = Field(
        default=None, description="length, overlong: the longest response [tokens]"
    )
    overlong_buffer: Positive = Field(
        default=512, description="overlong: punished from so many below max_tokens (DAPO) [tokens]"
    )
    repetition_ngram: Positive = Field(
        default=3, description="repetition: words that count as repeated together [words]"
    )

    @model_validator(mode="after")
    def _weights_have_what_they_need(self) -> ScoringParams:
        for name in NEED_LIMIT:
            if name in self.weights and self.max_tokens is None:
                raise ValueError(f"scoring.weights.{name} needs scoring.max_tokens")
        if "overlong" in self.weights and self.overlong_buffer > (self.max_tokens or 0):
            raise ValueError("scoring.overlong_buffer must not exceed scoring.max_tokens")
        try:
            re.compile(self.format_pattern or "")
        except re.error as error:
            raise ValueError(f"scoring.format_pattern is no regular expression: {error}") from None
        return self
