"""Weights laid out for oneDNN's matrix products: CPU, float32.

A BLAS lays a part of the weights out for its kernel in every product; here it is done once for each
policy, so that a product takes two thirds to four fifths of the time.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
import transformers
from torch import Tensor, nn

# Smaller ones gain nothing: a call of oneDNN costs some 20 microseconds.
LARGE = 100_000
mkldnn = torch.ops.mkldnn


class LaidOut(nn.Module):
    """A linear layer that can only be applied. rows: that the layout is best for."""

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._bias = linear.bias
        self._weight: Tensor = mkldnn._reorder_linear_weight(linear.weight.detach(), rows)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")


def laid_out(model: transformers.PreTrainedModel, rows: int) -> transformers.PreTrainedModel:
    """A model that shares all weights with `model`, its large products with weights laid out.

    `model` itself where nothing is to be gained.
    """
    gains = [name for name, module in model.named_modules() if _gains(module)]
    if not gains:
        return model
    shared = {id(held): held for held in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, shared)
    for name in gains:
        linear = twin.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        twin.set_submodule(name, LaidOut(linear, rows))
    return twin


def _gains(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or not torch.backends.mkldnn.is_available():
        return False
    weight = module.weight
    kind = (weight.device.type, weight.dtype)
    return kind == ("cpu", torch.float32) and weight.numel() >= LARGE
