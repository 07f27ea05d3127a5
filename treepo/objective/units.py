"""What carries a ratio of new to old policy: a token, or a whole trajectory.

In a flat batch every token of every trajectory has a weight and an advantage. A token of a shared
node has the same ratio r in all trajectories through it, and a clipped loss min(r A, clip(r) A) is
piecewise linear in A with a slope fixed by A's sign. So the weighted sums P of positive and Q of
negative advantages over those trajectories carry the whole flat loss, exactly.

Axes: M target tokens of a micro-batch, N nodes (rows of the forest), I trajectories,
E entries (a node of a trajectory), K units (tokens or trajectories).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


@dataclass(frozen=True)
class Entries:
    """The nodes of a micro-batch's trajectories, flat: [E] each.

    trajectory: int64, counted from 0 without gaps; node: int64, row of the forest; share: float64,
    weight of one token of that trajectory in the loss; advantage: float64. nodes: N.
    """

    trajectory: Array
    node: Array
    share: Array
    advantage: Array
    nodes: int

    @property
    def positive(self) -> Array:
        """Weighted advantage where it is positive, float64 [E]."""
        return self.share * np.maximum(self.advantage, 0)

    @property
    def negative(self) -> Array:
        """Weighted advantage where it is negative, float64 [E]."""
        return self.share * np.minimum(self.advantage, 0)


@dataclass(frozen=True)
class Tokens:
    """The target tokens of a micro-batch, each computed once: [M] each, logprobs in nats.

    new: under the policy that learns, with gradient; old: under the policy that the ratio is to;
    entropy: of the distribution drawn from, with gradient; node: int64, row of the forest;
    correction: weight against the mismatch of engine and trainer, 1 where there is none;
    reference: under the reference policy, or None.
    """

    new: Tensor
    old: Tensor
    entropy: Tensor
    node: Tensor
    correction: Tensor
    reference: Tensor | None = None

    def through(self, entries: Entries, values: Array) -> Tensor:
        """Sum of the entries' values [E] over all trajectories through each token: [M]."""
        at_nodes = torch.from_numpy(np.bincount(entries.node, values, entries.nodes))
        return at_nodes.to(self.old)[self.node]


@dataclass(frozen=True)
class Units:
    """What one ratio belongs to: [K] each.

    logprob, log_ratio: with gradient; positive, negative: P and Q. copies: units of the flat batch
    that this one stands for; rising, falling: those of them with A > 0 and A < 0.
    """

    logprob: Tensor
    log_ratio: Tensor
    positive: Tensor
    negative: Tensor
    copies: Tensor
    rising: Tensor
    falling: Tensor


Level = Callable[[Tokens, Entries], Units]


def per_token(tokens: Tokens, entries: Entries) -> Units:
    """A ratio for each token: K = M."""

    def through(values: Array) -> Tensor:
        return tokens.through(entries, values)

    return Units(
        logprob=tokens.new,
        log_ratio=tokens.new - tokens.old,
        positive=tokens.correction * through(entries.positive),
        negative=tokens.correction * through(entries.negative),
        copies=through(np.ones(len(entries.node))),
        rising=through(entries.advantage > 0),
        falling=through(entries.advantage < 0),
    )


def per_sequence(tokens: Tokens, entries: Entries) -> Units:
    """A ratio for each trajectory, the geometric mean over its tokens: K = I.

    Log-ratios are summed once over the tokens of a node, then over the nodes of each path, a
    product with the incidence of trajectories and nodes. Segments of one trajectory with several
    advantages count with their tokens.
    """
    node, trajectory = (
        torch.from_numpy(index).to(tokens.node.device)
        for index in (entries.node, entries.trajectory)
    )

    def of_entries(values: Tensor) -> Tensor:  # [M] -> [E]
        return values.new_zeros(entries.nodes).index_add(0, tokens.node, values)[node]

    def over_paths(values: Tensor) -> Tensor:  # [E] -> [I]
        count = int(entries.trajectory.max(initial=-1)) + 1
        return values.new_zeros(count).index_add(0, trajectory, values)

    def credit(values: Array) -> Tensor:  # [E] -> [I]
        return over_paths(torch.from_numpy(values).to(tokens.old) * of_entries(tokens.correction))

    length = over_paths(of_entries(torch.ones_like(tokens.old))).clamp(min=1)
    positive, negative = credit(entries.positive), credit(entries.negative)
    return Units(
        logprob=over_paths(of_entries(tokens.new)) / length,
        log_ratio=over_paths(of_entries(tokens.new - tokens.old)) / length,
        positive=positive,
        negative=negative,
        copies=torch.ones_like(positive),
        rising=(positive > 0).to(positive),
        falling=(negative < 0).to(positive),
    )
