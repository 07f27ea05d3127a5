"""Parameters of the evaluation."""

from __future__ import annotations

from pydantic import Field

from treepo.params.base import Params, Positive


class EvaluationParams(Params):
    """Held-out accuracy (paper section 3)."""

    samples: Positive = Field(
        default=8, description="k: trajectories a problem, for mean@k and maj@k"
    )
    temperature: float = Field(default=1.0, gt=0, description="of sampling")
    max_tokens: Positive = Field(default=512, description="longest response [tokens]")
