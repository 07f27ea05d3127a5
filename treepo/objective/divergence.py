"""Estimators of KL(policy || reference) from one sample (Schulman, "Approximating KL divergence").

Functions of d = log pi - log pi_reference of the sampled tokens [M], which carry its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from treepo.registry import Registry

Divergence = Callable[[Tensor], Tensor]
DIVERGENCES: Registry[Divergence] = Registry("update.kl_estimator")


@DIVERGENCES.register("k1")
def k1(difference: Tensor) -> Tensor:
    """d: unbiased, of either sign; as a loss its gradient is 0 on average."""
    return difference


@DIVERGENCES.register("k2")
def k2(difference: Tensor) -> Tensor:
    """d^2 / 2: biased as a value, while its gradient is that of the KL on average."""
    return difference**2 / 2


@DIVERGENCES.register("k3")
def k3(difference: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased, never negative (GRPO)."""
    return torch.expm1(-difference) + difference
