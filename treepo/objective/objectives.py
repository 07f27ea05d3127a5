"""The objectives by name: how trajectories are weighted, what carries a ratio, what is clipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from treepo.objective.divergence import DIVERGENCES, k3
from treepo.objective.surrogates import Surrogate, clipped, clipped_weight, score_function
from treepo.objective.units import Entries, Level, Tokens, per_sequence, per_token
from treepo.objective.weighting import Weighting, constant, sequence_mean, token_mean
from treepo.params import UpdateParams
from treepo.registry import Registry
from treepo.tally import Tally


@dataclass(frozen=True)
class Objective:
    """Three choices that make a policy loss; see the modules of their types."""

    weighting: Weighting
    level: Level
    surrogate: Surrogate


OBJECTIVES: Registry[Callable[[], Objective]] = Registry("update.objective")


@OBJECTIVES.register("dapo")
def dapo() -> Objective:
    """DAPO: clipped ratio of each token, mean over all tokens (paper; arXiv 2503.14476)."""
    return Objective(token_mean, per_token, clipped)


@OBJECTIVES.register("grpo")
def grpo() -> Objective:
    """GRPO: clipped ratio of each token, mean over each response first (arXiv 2402.03300)."""
    return Objective(sequence_mean, per_token, clipped)


@OBJECTIVES.register("dr_grpo")
def dr_grpo() -> Objective:
    """Dr. GRPO: clipped ratio of each token, divided by a constant length (arXiv 2503.20783)."""
    return Objective(constant, per_token, clipped)


@OBJECTIVES.register("cispo")
def cispo() -> Objective:
    """CISPO: log pi weighted by the ratio, which is clipped above only (arXiv 2506.13585)."""
    return Objective(token_mean, per_token, clipped_weight)


@OBJECTIVES.register("gspo")
def gspo() -> Objective:
    """GSPO: clipped ratio of each response, its tokens' geometric mean (arXiv 2507.18071)."""
    return Objective(sequence_mean, per_sequence, clipped)


@OBJECTIVES.register("reinforce")
def reinforce() -> Objective:
    """REINFORCE: log pi weighted by the advantage, no ratio, mean over all tokens."""
    return Objective(token_mean, per_token, score_function)


def evaluate(
    objective: Objective, tokens: Tokens, entries: Entries, params: UpdateParams
) -> tuple[Tensor, Tally]:
    """The loss of a micro-batch, a scalar with gradient, and its statistics as of a flat batch.

    The loss adds the KL to the reference, where there is one, and the entropy bonus, both weighted
    as the trajectories' tokens are.
    """
    units = objective.level(tokens, entries)
    terms = objective.surrogate(units, params)
    share = tokens.through(entries, entries.share)
    loss = terms.pop("loss")
    if tokens.reference is not None:
        divergence = DIVERGENCES.get(params.kl_estimator)(tokens.new - tokens.reference)
        loss = loss + params.kl_coefficient * (share * divergence).sum()
    if params.entropy_coefficient:
        loss = loss - params.entropy_coefficient * (share * tokens.entropy).sum()
    tally = statistics(tokens, entries)
    ratio, count = units.log_ratio.detach().exp(), units.copies.sum()
    for name, total in {"ratio_mean": (ratio * units.copies).sum(), **terms}.items():
        tally.add_mean(name, total, count)
    tally.add_lowest("ratio_min", ratio)
    tally.add_highest("ratio_max", ratio)
    return loss, tally


def statistics(tokens: Tokens, entries: Entries) -> Tally:
    """Means over the tokens of the flat batch, in nats."""
    copies = tokens.through(entries, np.ones(len(entries.node)))
    new = tokens.new.detach()
    values = {"entropy": tokens.entropy.detach(), "approx_kl": k3(tokens.old - new)}
    if tokens.reference is not None:
        values["reference_kl"] = k3(new - tokens.reference)
    tally = Tally()
    for name, value in values.items():
        tally.add_mean(name, (value * copies).sum(), copies.sum())
    return tally
