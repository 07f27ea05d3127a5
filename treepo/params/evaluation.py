"""Parameters of evaluation: how responses are sampled, and on which benchmarks."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from treepo.params.base import Params, Positive
from treepo.params.sampling import SamplingParams

# Fields of a tree that the evaluation itself sets.
_SHARED = {"width": "samples", "temperature": "temperature", "max_tokens": "max_tokens"}


class EvaluationParams(Params):
    """Sampling of graded responses, and the figures made of them (paper section 3)."""

    samples: Positive = Field(default=8, description="n: trajectories a problem")
    k: Positive | None = Field(default=None, description="of maj@k and pass@k, at most n; null: n")
    temperature: float = Field(
        default=1.0, ge=0, description="of sampling; 0: greedy, which wants samples = 1"
    )
    max_tokens: Positive = Field(default=512, description="longest response [tokens]")
    tree: SamplingParams | None = Field(
        default=None,
        description="null: independent trajectories; else how a tree of n trajectories grows "
        "(its width, temperature and max_tokens are those given here)",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_tree(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("tree"), dict):
            return values
        given = {
            inner: values.get(outer, cls.model_fields[outer].default)
            for inner, outer in _SHARED.items()
        }
        return {**values, "tree": {**given, **values["tree"]}}

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationParams:
        if self.k is not None and self.k > self.samples:
            raise ValueError(f"k = {self.k} needs as many samples, but samples = {self.samples}")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("greedy responses (temperature 0) are all the same: set samples = 1")
        for inner, outer in _SHARED.items():
            if self.tree and getattr(self.tree, inner) != getattr(self, outer):
                raise ValueError(f"tree.{inner} must be {outer}: leave it out")
        return self

    @property
    def sampling(self) -> SamplingParams:
        """The trees that give the responses."""
        return self.tree or SamplingParams.sequential(
            self.samples, self.max_tokens, self.temperature
        )
