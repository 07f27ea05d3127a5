"""Parameters of the trees: how one grows (the paper's section 2) and how many are sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from treepo.params.base import Natural, Params, Positive


class RepetitionParams(Params):
    """When new text counts as a loop (paper section 2.1)."""

    length: Positive = Field(
        default=32, description="length of the repeated substring [characters]"
    )
    count: Annotated[int, Field(ge=2)] = Field(
        default=8, description="occurrences that stop the path"
    )


class FallbackParams(Params):
    """Where a tree without living paths and with fewer than w leaves starts again (Algorithm 1)."""

    candidates: Literal["answer_or_eos"] = Field(
        default="answer_or_eos",
        description="finished paths to fall back from (paper: answered paths)",
    )
    position: Literal["random_segment", "min_probability_token", "from_root", "none"] = Field(
        default="random_segment", description="where on the candidate; 'none': no fallback"
    )


class SamplingParams(Params):
    """The tree of one prompt (paper section 2, Algorithm 1)."""

    width: Positive = Field(default=16, description="w: trajectories a tree (paper: 16)")
    depth: Positive = Field(
        default=14, description="d: segments a trajectory at most (paper: 7 to 56)"
    )
    segment_length: Positive = Field(
        default=512, description="l: tokens a segment (paper: 128 to 1,024)"
    )
    branching: Annotated[int, Field(ge=2)] = Field(
        default=2, description="b: growth a step (paper: 2)"
    )
    initial_branching: Positive | tuple[Positive, Positive] = Field(
        default=2,
        description="branches of the root: a number, or [low, high] drawn a tree (paper: [2, 8])",
    )
    max_tokens: Positive | None = Field(
        default=None, description="longest response; null: depth x segment_length [tokens]"
    )
    temperature: float = Field(
        default=1.0, ge=0, description="of sampling; logprobs are stored under it; 0: greedy"
    )
    answer_stop: bool = Field(default=True, description="a complete boxed answer ends the path")
    repetition: RepetitionParams | None = Field(
        default=RepetitionParams(), description="end a path that repeats itself; null: never"
    )
    fallback: FallbackParams = Field(
        default=FallbackParams(), description="restart of missing paths"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SamplingParams:
        low, high = self.initial_range
        if low > high:
            raise ValueError("sampling.initial_branching must be [low, high] with low <= high")
        return self

    @property
    def initial_range(self) -> tuple[int, int]:
        """Fewest and most branches of the root."""
        initial = self.initial_branching
        return (initial, initial) if isinstance(initial, int) else initial

    @property
    def token_limit(self) -> int:
        """Longest response in tokens."""
        limit = self.depth * self.segment_length
        return limit if self.max_tokens is None else min(limit, self.max_tokens)

    @staticmethod
    def sequential(width: int, max_tokens: int, temperature: float = 1.0) -> SamplingParams:
        """Independent trajectories, w of them: the baseline, as one case of the tree."""
        return SamplingParams(
            width=width,
            depth=1,
            segment_length=max_tokens,
            initial_branching=width,
            temperature=temperature,
        )


class RolloutParams(Params):
    """How many trees an iteration samples."""

    prompts: Positive = Field(default=16, description="informative trees wanted an iteration")
    refill_rounds: Natural = Field(
        default=0, description="further sampling rounds where the query filter leaves too few trees"
    )
