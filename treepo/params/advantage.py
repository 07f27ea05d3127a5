"""Parameters of the credit assignment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from treepo.params.base import Params


class AdvantageParams(Params):
    """From rewards to segment advantages (paper section 2.3)."""

    estimator: str = Field(
        default="treepo", description="how trajectories are compared (paper: Eq. 5 to 7)"
    )
    eta: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="treepo_segment only: the parent's value counts eta^(n + 1 - i) in the i-th of "
        "n segments; null: 1",
    )
    normalization: Literal["tokens", "trajectories", "none"] = Field(
        default="tokens",
        description="whitening over the batch, weighted by tokens or by trajectories",
    )
    query_filter: bool = Field(
        default=True, description="leave out trees whose answers are all right or all wrong (DAPO)"
    )
