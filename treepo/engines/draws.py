"""Drawing tokens: one uniform number a path and step, and the inverse of the distribution.

The numbers are a counter-based stream (splitmix64) of (segment seed, index of the token), so
that a token does not depend on what else is in the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from treepo.params import SamplingParams

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WIDTH = 128  # tokens a block of the cumulative distribution; divides most vocabularies


def uniforms(seeds: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [paths]; seeds uint64, index: token of the segment."""
    with np.errstate(over="ignore"):
        state = seeds + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53


def draw(
    logits: Tensor, rows: Tensor, numbers: np.ndarray, params: SamplingParams
) -> tuple[Tensor, Tensor]:
    """Sample one token a path: ids int64 [P] and their logprobs float32 [P].

    logits: [U, V], overwritten; rows: int64 [P], each path's row of `logits`, so that
    paths which fork share one; numbers: uniform, [P]. The logprobs are those of the full support at
    the temperature, whatever top_k, top_p and min_p leave; they are NaN where a logit is NaN or
    +inf. Temperature 0 takes the most probable token (of several the first), which then is certain.
    """
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)[rows]
        return tokens, torch.where(logits.amax(-1).isfinite()[rows], 0.0, torch.nan)
    # In place: new memory for a matrix of this size costs more than the arithmetic.
    scaled = logits.float()
    if params.temperature != 1:
        scaled.div_(params.temperature)
    weights = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()
    total = _in_blocks(weights).sum(-1).sum(-1)
    tokens = _inverse(_in_blocks(_restricted(weights, params)), rows, numbers)
    tokens = tokens.clamp_(max=logits.shape[1] - 1)  # NaN would lead anywhere
    return tokens, weights[rows, tokens].log() - total.log()[rows]


def _in_blocks(weights: Tensor) -> Tensor:
    """[U, V] as [U, blocks, tokens a block]; the last block is filled up with zeros."""
    missing = -weights.shape[1] % _WIDTH
    return (pad(weights, (0, missing)) if missing else weights).unflatten(1, (-1, _WIDTH))


def _inverse(weights: Tensor, rows: Tensor, numbers: np.ndarray) -> Tensor:
    """The token at which the cumulative weight passes its number: int64 [P].

    weights: [U, blocks, tokens a block]; first the block is found, then the token in it.
    """
    ends = weights.sum(-1).cumsum(-1)[rows]
    target = torch.from_numpy(numbers).to(ends) * ends[:, -1]
    block = _passing(ends, target)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inner = weights[rows, block[:, 0]].cumsum_(-1)
    token = _passing(inner, target - before[:, 0])
    return block[:, 0] * weights.shape[2] + token[:, 0]


def _passing(cumulative: Tensor, target: Tensor) -> Tensor:
    """First index at which each row exceeds its target: int64 [P, 1]."""
    total = cumulative[:, -1]
    # Rounded up to the total it would hit the last entry, even one without any weight.
    target = target.minimum(total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target[:, None], right=True)
    return index.clamp_(max=cumulative.shape[1] - 1)


def _restricted(weights: Tensor, params: SamplingParams) -> Tensor:
    """The weights [U, V] with those outside of top_k, then top_p, then min_p set to zero."""
    if params.top_k is not None and params.top_k < weights.shape[1]:
        least = weights.topk(params.top_k, dim=-1).values[:, -1:]
        weights = weights.where(weights >= least, 0.0)
    if params.top_p < 1:
        ordered = weights.sort(dim=-1, descending=True).values
        before = ordered.cumsum(-1) - ordered
        kept = before < params.top_p * before[:, -1:].add(ordered[:, -1:])
        least = ordered.where(kept, float("inf")).amin(-1, keepdim=True)
        weights = weights.where(weights >= least, 0.0)
    if params.min_p > 0:
        weights = weights.where(weights >= params.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights
