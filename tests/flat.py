"""The policy loss of a flat batch, as one would write it first: one trajectory, one token a time.

Written separately from `treepo.objective`, from the objectives' papers; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from treepo.params import UpdateParams


@dataclass(frozen=True)
class Response:
    """One sampled response, [tokens] each: logprobs and entropies of the policy that learns,
    logprobs of the others, and the advantage of each token."""

    new: Tensor
    entropy: Tensor
    old: Tensor
    engine: Tensor
    reference: Tensor
    advantage: list[float]


def ppo(ratio: Tensor, advantage: float, params: UpdateParams) -> Tensor:
    """min(r A, clip(r) A), and not below dual A where A < 0."""
    clipped = ratio.clamp(1 - params.clip_low, 1 + params.clip_high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    if advantage < 0 and params.dual_clip is not None:
        gain = gain.clamp(min=params.dual_clip * advantage)
    return gain


def token_gain(name: str, response: Response, t: int, params: UpdateParams) -> Tensor:
    """What token t adds to the objective, before its trajectory is weighted."""
    advantage, new, old = response.advantage[t], response.new[t], response.old[t]
    if name == "reinforce":
        return advantage * new
    if name == "cispo":
        weight = min(math.exp(float(new.detach() - old)), 1 + params.clip_high)
        return weight * advantage * new
    if name == "gspo":
        mean = sum(response.new[k] - response.old[k] for k in range(len(response.new)))
        assert isinstance(mean, Tensor)
        return ppo(torch.exp(mean / len(response.new)), advantage, params)
    return ppo(torch.exp(new - old), advantage, params)


def divergence(name: str, d: Tensor) -> Tensor:
    return {"k1": d, "k2": 0.5 * d * d, "k3": torch.exp(-d) - 1 + d}[name]


def token_loss(response: Response, t: int, params: UpdateParams) -> Tensor:
    gain = token_gain(params.objective, response, t, params)
    if params.importance_cap is not None:
        ratio = math.exp(float(response.old[t] - response.engine[t]))
        gain = min(ratio, params.importance_cap) * gain
    kl = divergence(params.kl_estimator, response.new[t] - response.reference[t])
    bonus = params.entropy_coefficient * response.entropy[t]
    return -gain + params.kl_coefficient * kl - bonus


def flat_loss(responses: Sequence[Response], params: UpdateParams, limit: int) -> Tensor:
    """The loss of the batch; `limit` is Dr. GRPO's constant [tokens]."""
    sums = [
        torch.stack([token_loss(response, t, params) for t in range(len(response.new))]).sum()
        for response in responses
    ]
    lengths = [len(response.new) for response in responses]
    if params.objective in ("grpo", "gspo"):
        means = [total / length for total, length in zip(sums, lengths, strict=True)]
        return torch.stack(means).mean()
    if params.objective == "dr_grpo":
        return torch.stack(sums).sum() / (limit * len(sums))
    return torch.stack(sums).sum() / sum(lengths)
