"""Parameters of `treepo efficiency`: ways of sampling side by side (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from treepo.params.base import Params, Positive, merge
from treepo.params.benchmarks import PolicyRunParams
from treepo.params.sampling import SamplingParams

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
View = Literal["speed", "tokens", "accuracy", "scaling"]


class ArmParams(Params):
    """One way of sampling."""

    against: Name | None = Field(
        default=None, description="the arm that this one is compared with, round by round"
    )
    sampling: SamplingParams = Field(
        default=SamplingParams(), description="its tree, on top of what all arms share"
    )


class ComparisonParams(Params):
    """Arms that are shown together."""

    title: str = Field(default="", description="heading on the page")
    arms: tuple[Name, ...] = Field(min_length=1, description="which, in their order")
    shows: tuple[View, ...] = Field(
        default=("speed", "tokens"),
        min_length=1,
        description="speed (Fig. 4 and 5), tokens sampled and saved, accuracy and maj@k (Table 2), "
        "scaling: maj@k over sampled tokens (Fig. 9)",
    )


class EfficiencyParams(PolicyRunParams):
    """One efficiency experiment: params/efficiency/NAME.yaml."""

    kind: ClassVar = "efficiency experiment"
    folder: ClassVar = "efficiency"

    rounds: Positive = Field(
        default=3, description="every arm is measured once in each; medians count. More can follow"
    )
    k: Positive | None = Field(
        default=None, description="of maj@k and pass@k; null: all trajectories of a problem"
    )
    sampling: dict[str, Any] = Field(
        default={}, description="what all arms share: parameters of `sampling`"
    )
    arms: dict[Name, ArmParams] = Field(
        default={}, min_length=1, description="ways of sampling, by name"
    )
    comparisons: dict[Name, ComparisonParams] = Field(
        default={}, min_length=1, description="which arms are shown together, by name"
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_arms(cls, values: Any) -> Any:
        """Each arm's sampling on top of what all share; what is no mapping is left to pydantic."""
        if not isinstance(values, dict):
            return values
        shared, arms = values.get("sampling", {}), values.get("arms")
        if not isinstance(shared, dict) or not isinstance(arms, dict):
            return values
        return {**values, "arms": {name: _completed(arm, shared) for name, arm in arms.items()}}

    @model_validator(mode="after")
    def _consistent(self) -> EfficiencyParams:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """What is wrong with the arms and how they refer to each other."""
        known = ", ".join(self.arms)
        for name, arm in self.arms.items():
            if arm.against is not None and arm.against not in self.arms:
                yield f"arms.{name}.against: there is no arm '{arm.against}'; there are: {known}"
            if arm.against == name:
                yield f"arms.{name}.against: an arm cannot be compared with itself"
            if arm.sampling.temperature == 0:
                yield f"arms.{name}.sampling.temperature must be above 0: a tree needs diversity"
            if self.k is not None and self.k > arm.sampling.width:
                width = arm.sampling.width
                yield f"k = {self.k} needs as many trajectories, but arm '{name}' has width {width}"
        for name, comparison in self.comparisons.items():
            for arm in comparison.arms:
                if arm not in self.arms:
                    yield f"comparisons.{name}.arms: there is no arm '{arm}'; there are: {known}"


def _completed(arm: Any, shared: dict[str, Any]) -> Any:
    given = {} if arm is None else arm
    own = given.get("sampling", {}) if isinstance(given, dict) else None
    return {**given, "sampling": merge(shared, own)} if isinstance(own, dict) else given
