"""Parameters of the objective and its optimizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from treepo.params.base import Natural, Params, Positive


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
        default=8192,
        description="packed tokens of one forward pass; bounds the memory, and a larger tree is "
        "cut into parts that repeat what they share [tokens]",
    )
    logit_chunk: Positive = Field(
        default=256,
        description="predictors whose logits are held at a time; with the vocabulary it bounds "
        "their memory [tokens]",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass, to save memory"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the update's matrix products; weights stay in float32"
    )
    probe_tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="largest |log ratio| before the first step, engine against trainer [nats]",
    )
