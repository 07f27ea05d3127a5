"""Drawing tokens: one uniform number a path and step, and the inverse of the distribution.

The numbers are a counter-based stream (splitmix64) of (segment seed, index of the token), so
that a token does not depend on what else is in the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [paths]; seeds uint64, index: token of the segment."""
    with np.errstate(over="ignore"):
        state = seeds + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53


def draw(logits: Tensor, numbers: np.ndarray, temperature: float) -> tuple[Tensor, Tensor]:
    """Sample one token a row: ids int64 [P] and their logprobs float32 [P] at `temperature`.

    logits: [P, V]. The full support is sampled, so that the ratio of the update is unbiased.
    Temperature 0 takes the most probable token (of several the first), which then is certain.
    """
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
        return tokens, torch.zeros_like(tokens, dtype=torch.float32)
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    cumulative = logprobs.exp().cumsum_(dim=-1)
    total = cumulative[:, -1]
    target = torch.from_numpy(numbers).to(cumulative) * total
    # Rounded up to the total it would hit the last token, even one without any probability.
    target = target.minimum(total.nextafter(torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target[:, None], right=True)
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
