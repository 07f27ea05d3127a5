"""Parameters of an ablation: variants of one experiment, each run with the same seeds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from treepo.params.base import Natural, Params, Positive, WholeParams

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Values = dict[str, Any]


class VariantParams(Params):
    """One variant, spelled out."""

    name: Name = Field(description="label of the variant and of its folders")
    set: Values = Field(default={}, description="parameter (dotted key) -> value")


class AxesParams(Params):
    """What varies. Where several kinds are given, every combination of theirs is a variant."""

    grid: dict[str, tuple[Any, ...]] = Field(
        default={}, description="parameter -> values: every combination is a variant"
    )
    zip: dict[str, tuple[Any, ...]] = Field(
        default={}, description="parameter -> values: the n-th values together are a variant"
    )
    list: tuple[VariantParams, ...] = Field(
        default=(), description="variants with a name and their own parameters"
    )


class StopParams(Params):
    """When a run that cannot tell more ends early; its last policy is evaluated all the same."""

    rule: str = Field(
        description="'no_informative_trees', 'accuracy_below', 'reward_below', 'tokens_sampled'"
    )
    iterations: Natural = Field(
        default=0, description="how long the rule waits, or must hold [iterations]"
    )
    value: float = Field(
        default=0.0, ge=0, description="limit of the rule: accuracy or reward [share], or [tokens]"
    )


class CostParams(Params):
    """What the estimate of a dry run assumes about the machine and the responses."""

    device: str = Field(default="CPU core", description="what a device is, for the tables")
    devices: Positive = Field(default=1, description="devices that one run uses (paper: 64)")
    memory: float = Field(default=8.0, gt=0, description="memory of a device [GiB]")
    decode_rate: float = Field(
        default=4000.0, gt=0, description="sampled tokens a second and device [tokens/s]"
    )
    train_rate: float = Field(
        default=4000.0, gt=0, description="packed tokens trained on a second and device [tokens/s]"
    )
    response_tokens: Positive | None = Field(
        default=None, description="mean response length; null: the longest possible [tokens]"
    )
    sampling_rounds: float = Field(
        default=1.0, ge=1, description="trees sampled for each tree that is trained on"
    )
    vocabulary: Positive = Field(default=256, description="size of the vocabulary [tokens]")


class AblationParams(WholeParams):
    """An experiment, what is varied of it, and the seeds that every variant runs with."""

    kind: ClassVar = "ablation"
    folder: ClassVar = "ablations"

    base: str = Field(description="the experiment that is varied: params/BASE.yaml")
    set: Values = Field(
        default={}, description="parameters (dotted keys) that all variants have unlike the base"
    )
    axes: AxesParams = Field(description="what varies")
    seeds: tuple[Natural, ...] = Field(
        min_length=1, description="every variant runs once with each; comparisons pair them"
    )
    reference: str | None = Field(
        default=None,
        description="what the others are compared with: a variant, or a place on one axis, which "
        "is then held against the others of that axis; null: the first variant",
    )
    stop: tuple[StopParams, ...] = Field(
        default=(), description="rules that end a run early; the first that holds does"
    )
    cost: CostParams = Field(default=CostParams(), description="assumptions of the dry run")
