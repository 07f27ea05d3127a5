"""The clipped objective on packed trees (DESIGN section 7).

A token of a shared node has one ratio r in all trajectories through it, and the flat loss
min(r A, clip(r) A) is piecewise linear in A with a slope fixed by A's sign. So the sums P of
positive and Q of negative advantages through the token carry the whole flat loss, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from treepo.params import UpdateParams


@dataclass(frozen=True)
class Targets:
    """Per target token of a micro-batch, all [M].

    old: logprob under the behaviour policy; positive, negative: P and Q, per trajectory token
    counted once; copies: trajectories through the token, its weight in a flat batch.
    """

    old: Tensor
    positive: Tensor
    negative: Tensor
    copies: Tensor


def clipped_loss(logprobs: Tensor, targets: Targets, params: UpdateParams) -> Tensor:
    """Sum over targets of -(P min(r, 1 + high) + Q min(max(r, 1 - low), dual)), a scalar.

    Divide by the flat token count for DAPO's token mean.
    """
    ratio = torch.exp(logprobs - targets.old)
    gain = targets.positive * ratio.clamp(max=1 + params.clip_high)
    loss = targets.negative * ratio.clamp(min=1 - params.clip_low, max=params.dual_clip)
    return -(gain + loss).sum()


def statistics(logprobs: Tensor, targets: Targets, params: UpdateParams) -> dict[str, Tensor]:
    """Sums over a flat batch's tokens (divide by its count), and the largest |log ratio|."""
    difference = logprobs.detach() - targets.old
    ratio = difference.exp()
    copies = targets.copies
    low = (ratio < 1 - params.clip_low) & (targets.negative < 0)
    high = (ratio > 1 + params.clip_high) & (targets.positive > 0)
    return {
        "ratio_mean": (ratio * copies).sum(),
        "clip_low": (low * copies).sum(),
        "clip_high": (high * copies).sum(),
        # k3, non-negative and unbiased: E[r - 1 - log r] under the behaviour policy.
        "approx_kl": ((ratio - 1 - difference) * copies).sum(),
        "log_ratio_max": difference.abs().amax(),
    }
