"""Parameters of the objective and its optimizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from treepo.params.base import Natural, Params, Positive


class LoraParams(Params):
    """A low-rank adapter: what is trained in the place of the model's weights."""

    rank: Positive = Field(
        default=16, description="r: columns of B and rows of A in the weights' change B A"
    )
    alpha: Positive = Field(default=32, description="the change is scaled by alpha / rank")
    targets: Literal["all-linear"] | list[str] = Field(
        default="all-linear",
        description="layers that are adapted, by their names within a block, such as [q_proj, "
        "v_proj]; 'all-linear': all projections of attention and MLP",
    )


class UpdateParams(Params):
    """The objective and its optimizer."""

    objective: str = Field(default="dapo", description="the policy loss (paper: DAPO's)")
    clip_low: float = Field(
        default=0.2, ge=0, lt=1, description="lower clip of the ratio (paper: 0.2)"
    )
    clip_high: float = Field(
        default=0.28, ge=0, description="upper clip of the ratio, 'clip higher' (paper: 0.28)"
    )
    dual_clip: float | None = Field(
        default=10.0, gt=1, description="bound on the ratio where A < 0; null: none (paper: 10)"
    )
    kl_coefficient: float = Field(
        default=0.0, ge=0, description="weight of the KL to the reference policy; 0: none"
    )
    kl_estimator: str = Field(default="k3", description="how the KL is estimated from a sample")
    reference: str | None = Field(
        default=None,
        description="the KL's reference policy, a folder or a name on the hub, kept as "
        "policy/reference; null: policy/000000",
    )
    entropy_coefficient: float = Field(
        default=0.0, description="weight of the entropy bonus; 0: none"
    )
    importance_cap: float | None = Field(
        default=None,
        gt=0,
        description="truncated importance sampling: bound on the weight trainer / engine, with the "
        "ratio taken to the trainer's own logprobs; null: the engine's logprobs are the old ones",
    )
    mismatch_limit: float | None = Field(
        default=1e-3,
        gt=0,
        description="largest |log ratio| of trainer to engine before the first step; null: any "
        "[nats]",
    )
    mismatch_kl_limit: float | None = Field(
        default=None,
        gt=0,
        description="largest KL of engine to trainer before the first step; null: any [nats]",
    )
    learning_rate: float = Field(default=1e-6, gt=0, description="AdamW, its peak (paper: 1e-6)")
    warm_up_steps: Natural = Field(
        default=10, description="optimizer steps of linear increase (paper: 10)"
    )
    schedule: str = Field(
        default="constant", description="course of the learning rate after the warm-up"
    )
    schedule_steps: Positive | None = Field(
        default=None,
        description="optimizer steps after which the final learning rate is reached",
    )
    final_learning_rate: float = Field(
        default=0.0, ge=0, description="where a schedule other than 'constant' ends"
    )
    lora: LoraParams | None = Field(
        default=None,
        description="train a low-rank adapter on policy/000000; null: train all weights",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    gradient_clip: float = Field(
        default=1.0, gt=0, description="largest gradient norm (paper: 1.0)"
    )
    skip_limit: Positive = Field(
        default=3,
        description="steps in a row with a loss or gradient that is not finite, each skipped, "
        "that stop the run",
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
    ranks: Positive = Field(
        default=1, description="processes of an update, each with a share of the trees"
    )
    sharding: Literal["fsdp"] | None = Field(
        default=None,
        description="'fsdp': each rank holds a part of the weights, gradients and moments (FSDP2), "
        "for models too large for one device; null: all of them",
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

    @model_validator(mode="after")
    def _has_ranks_to_shard_over(self) -> UpdateParams:
        if self.sharding and self.ranks == 1:
            raise ValueError("sharding needs ranks of 2 or more, among which to share the weights")
        return self
