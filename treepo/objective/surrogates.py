"""What is made of ratio and advantage: the loss of a micro-batch, a sum over units.

Each returns "loss", with gradient, and beside it how many units of the flat batch it clipped.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from treepo.objective.units import Units
from treepo.params import UpdateParams

Surrogate = Callable[[Units, UpdateParams], dict[str, Tensor]]


def clipped(units: Units, params: UpdateParams) -> dict[str, Tensor]:
    """PPO's loss -min(r A, clip(r) A), clipped higher above than below; dual clip where A < 0.

    In P and Q: -(P min(r, 1 + high) + Q min(max(r, 1 - low), dual)).
    """
    ratio = units.log_ratio.exp()
    low, high, dual = 1 - params.clip_low, 1 + params.clip_high, params.dual_clip
    gain = units.positive * ratio.clamp(max=high)
    loss = units.negative * ratio.clamp(min=low, max=dual)
    counts = {
        "clip_low": units.falling[ratio < low].sum(),
        "clip_high": units.rising[ratio > high].sum(),
    }
    if dual is not None:
        counts["clip_dual"] = units.falling[ratio > dual].sum()
    return {"loss": -(gain + loss).sum(), **counts}


def clipped_weight(units: Units, params: UpdateParams) -> dict[str, Tensor]:
    """CISPO's loss -sg(min(r, 1 + high)) A log pi: clipping takes no token's gradient away."""
    ratio = units.log_ratio.detach().exp()
    high = 1 + params.clip_high
    loss = -((units.positive + units.negative) * ratio.clamp(max=high) * units.logprob).sum()
    return {"loss": loss, "clip_high": units.copies[ratio > high].sum()}


def score_function(units: Units, _: UpdateParams) -> dict[str, Tensor]:
    """REINFORCE's loss -A log pi, without a ratio."""
    return {"loss": -((units.positive + units.negative) * units.logprob).sum()}
