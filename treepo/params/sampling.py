"""Parameters of the trees: how one grows (the paper's section 2) and how many are sampled."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from treepo.params.base import Natural, Params, Positive, Several

Temperature = Annotated[float, Field(gt=0)]


class RepetitionParams(Params):
    """When new text counts as a loop (paper section 2.1)."""

    length: Positive = Field(
        default=32, description="length of the repeated substring [characters]"
    )
    count: Several = Field(default=8, description="occurrences that stop the path")


class ForcedAnswerParams(Params):
    """A text put in where a path runs out of tokens without an answer; it is never trained on."""

    remaining: Natural = Field(
        default=0,
        description="put it in when a path has so many tokens left; 0: never [tokens]",
    )
    text: str = Field(default="\n\nThe answer is \\boxed{", description="what is put in")


class BudgetParams(Params):
    """How many paths a tree may have (paper section 2.2, budget transfer)."""

    control: str = Field(
        default="factor", description="how many paths, ended and living, the next step makes"
    )
    growth_range: tuple[Positive, Positive] = Field(
        default=(1, 4), description="'random_range' only: [m, n], growth a step"
    )
    step_tokens: Positive | None = Field(
        default=None,
        description="most tokens that one step of a tree may sample; null: no limit [tokens]",
    )
    total_tokens: Positive | None = Field(
        default=None,
        description="most tokens that a tree may sample, so that it may get fewer than w "
        "trajectories; null: the total is w trajectories [tokens]",
    )
    min_width: Positive = Field(
        default=1, description="trajectories that total_tokens must be enough for"
    )

    @model_validator(mode="after")
    def _consistent(self) -> BudgetParams:
        low, high = self.growth_range
        if low > high:
            raise ValueError("sampling.budget.growth_range must be [m, n] with m <= n")
        if self.min_width > 1 and self.total_tokens is None:
            raise ValueError("sampling.budget.min_width needs sampling.budget.total_tokens")
        return self


class AllocationParams(Params):
    """Which living paths get a step's branches (paper section 2.2, probability-guided)."""

    policy: str = Field(default="even", description="who gets more; every living path gets one")
    statistic: str = Field(
        default="last_segment", description="probability of a path, for policies that ask for it"
    )
    temperature: Temperature | tuple[Temperature, Temperature] = Field(
        default=2.0,
        description="of the softmax over paths; [first, last]: linear over the iterations "
        "(paper: 2, or 5 to 1)",
    )
    anneal_iterations: Positive | None = Field(
        default=None, description="iterations from the first to the last temperature"
    )

    @model_validator(mode="after")
    def _consistent(self) -> AllocationParams:
        if isinstance(self.temperature, tuple) != (self.anneal_iterations is not None):
            raise ValueError(
                "sampling.allocation.anneal_iterations and a temperature of [first, last] "
                "need each other"
            )
        return self

    def temperature_at(self, iteration: int) -> float:
        """The temperature at an iteration, counted from 1."""
        if not isinstance(self.temperature, tuple) or self.anneal_iterations is None:
            return float(self.temperature)  # pyright: ignore[reportArgumentType]
        first, last = self.temperature
        progress = min(1.0, (iteration - 1) / max(1, self.anneal_iterations - 1))
        return first + (last - first) * progress


class FallbackParams(Params):
    """Where a tree without living paths and with fewer than w leaves starts again (Algorithm 1)."""

    candidates: str = Field(
        default="answer_or_eos",
        description="finished paths to fall back from (paper: answered paths)",
    )
    position: str = Field(
        default="random_segment", description="where on the candidate; 'none': no fallback"
    )
    window: Positive | None = Field(
        default=None, description="furthest way back from a path's end; null: the root [segments]"
    )
    block: Positive = Field(
        default=128, description="size of the blocks that the two block positions compare [tokens]"
    )
    longer_than: Positive | None = Field(
        default=None, description="'answered_longer_than' only: shorter responses wait [tokens]"
    )
    temperature: Temperature = Field(
        default=1.0, description="of a softmax over blocks' mean logprobs, or over rewards"
    )

    @model_validator(mode="after")
    def _consistent(self) -> FallbackParams:
        if self.window is not None and self.position in ("from_root", "none"):
            raise ValueError(
                f"sampling.fallback.window contradicts sampling.fallback.position {self.position}"
            )
        return self


class SamplingParams(Params):
    """The tree of one prompt (paper section 2, Algorithm 1)."""

    width: Positive = Field(default=16, description="w: trajectories a tree (paper: 16)")
    depth: Positive = Field(
        default=14, description="d: segments a trajectory at most (paper: 7 to 56)"
    )
    segment_length: Positive = Field(
        default=512, description="l: tokens a segment (paper: 128 to 1,024)"
    )
    branching: Several = Field(default=2, description="b: growth a step (paper: 2)")
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
    stops: tuple[str, ...] = Field(
        default=("eos", "answer", "repetition", "limits"),
        description="what ends a path; where several do, the first one is its finish",
    )
    min_tokens: Natural = Field(
        default=0,
        description="an answer or a repetition before so many tokens ends no path [tokens]",
    )
    top_k: Positive | None = Field(
        default=None, description="draw from the k likeliest tokens only; biases the ratio"
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="draw from the likeliest tokens that hold this probability; biases the ratio",
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="draw from tokens at least this likely, relative to the likeliest; biases "
        "the ratio",
    )
    repetition: RepetitionParams | None = Field(
        default=RepetitionParams(), description="end a path that repeats itself; null: never"
    )
    forced_answer: ForcedAnswerParams = Field(
        default=ForcedAnswerParams(), description="an answer's beginning where tokens run out"
    )
    budget: BudgetParams = Field(default=BudgetParams(), description="paths a step and a tree")
    allocation: AllocationParams = Field(
        default=AllocationParams(), description="branches of each living path"
    )
    fallback: FallbackParams = Field(
        default=FallbackParams(), description="restart of missing paths"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SamplingParams:
        low, high = self.initial_range
        if low > high:
            raise ValueError("sampling.initial_branching must be [low, high] with low <= high")
        for problem in (*self._contradictions(), *_bad_stops(self.stops)):
            raise ValueError(problem)
        return self

    def _contradictions(self) -> list[str]:
        """What cannot be had together."""
        limit, length, budget = self.token_limit, self.segment_length, self.budget
        total, step = budget.total_tokens, budget.step_tokens
        least = budget.min_width * limit
        fewest = self.initial_range[0]
        found = {
            f"sampling.initial_branching {fewest} exceeds sampling.width {self.width}": (
                # The default is no wish of the user's.
                fewest > self.width
                and self.initial_branching != type(self).model_fields["initial_branching"].default
            ),
            f"sampling.segment_length {length} is longer than sampling.max_tokens {limit}": (
                length > limit
            ),
            f"sampling.segment_length {length} is longer than sampling.budget.step_tokens {step}": (
                step is not None and length > step
            ),
            f"sampling.budget.min_width {budget.min_width} exceeds sampling.width {self.width}": (
                budget.min_width > self.width
            ),
            f"sampling.budget.total_tokens {total} is not enough for sampling.budget.min_width "
            f"{budget.min_width} responses of {limit} tokens; it must be at least {least}": (
                total is not None and total < least
            ),
            "sampling.forced_answer.remaining must be less than the longest response, "
            f"{limit} tokens": self.forced_answer.remaining >= limit,
            f"sampling.min_tokens must be less than the longest response, {limit} tokens": (
                self.min_tokens >= limit
            ),
            "sampling.fallback.longer_than must be less than the longest response, "
            f"{limit} tokens": (self.fallback.longer_than or 0) >= limit,
        }
        return [problem for problem, holds in found.items() if holds]

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

    def at(self, iteration: int) -> SamplingParams:
        """The same, with what changes over training as it is at an iteration, counted from 1."""
        fixed = {
            "temperature": self.allocation.temperature_at(iteration),
            "anneal_iterations": None,
        }
        return self.model_copy(update={"allocation": self.allocation.model_copy(update=fixed)})

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


def _bad_stops(stops: tuple[str, ...]) -> list[str]:
    """What is wrong with a list of stops."""
    missing = [name for name in ("eos", "limits") if name not in stops]
    problems = [f"sampling.stops must hold '{name}'" for name in missing]
    if len(set(stops)) < len(stops):
        problems.append("sampling.stops names a stop twice")
    if {"answer", "answer_with_eos"} <= set(stops):
        problems.append(
            "sampling.stops: 'answer' ends a path before 'answer_with_eos' can; name one of them"
        )
    if "answer_with_eos" in stops and not missing and _after_eos(stops):
        problems.append("sampling.stops: 'answer_with_eos' must stand before 'eos'")
    return problems


def _after_eos(stops: tuple[str, ...]) -> bool:
    return stops.index("answer_with_eos") > stops.index("eos")


class RolloutParams(Params):
    """How many trees an iteration samples."""

    prompts: Positive = Field(default=16, description="informative trees wanted an iteration")
    refill_rounds: Natural = Field(
        default=0, description="further sampling rounds where the query filter leaves too few trees"
    )
    staleness: Natural = Field(
        default=0,
        description="updates that the sampling policy lacks: iteration k is sampled by policy "
        "k - 1 - staleness while earlier updates are under way; needs update.importance_cap and "
        "update.mismatch_limit null [updates]",
    )
