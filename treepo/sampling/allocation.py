"""Allocation: which living paths get a step's branches (paper section 2.2).

A policy gives each living path a weight. Every path gets one branch; the rest is shared out in
proportion to the weights. Knows probabilities and values, nothing of budgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from treepo.errors import UserError
from treepo.registry import Registry, call
from treepo.sampling.growth import Growth
from treepo.tree import Node

Weights = Callable[[Growth, Sequence[Node]], list[float]]
Statistic = Callable[[Growth, Node], float]
ALLOCATIONS: Registry[Weights] = Registry("sampling.allocation.policy")
"""Shares of the living paths: non-negative, in their order."""
STATISTICS: Registry[Statistic] = Registry("sampling.allocation.statistic")
"""Log-probability of a path [nats]."""


@STATISTICS.register("last_segment")
def last_segment(growth: Growth, node: Node) -> float:
    """Mean logprob of the path's last segment."""
    while node.forced and node.parent is not None:
        node = node.parent
    return sum(node.logprobs) / max(1, len(node.logprobs))


@STATISTICS.register("path_mean")
def path_mean(growth: Growth, node: Node) -> float:
    """Mean logprob of the whole path."""
    return path_sum(growth, node) / max(1, sum(len(part.logprobs) for part in node.path()))


@STATISTICS.register("path_sum")
def path_sum(growth: Growth, node: Node) -> float:
    """Logprob of the whole path."""
    return sum(sum(part.logprobs) for part in node.path())


@ALLOCATIONS.register("even")
def even(growth: Growth, living: Sequence[Node]) -> list[float]:
    """The same for all (paper's default)."""
    return [1.0] * len(living)


@ALLOCATIONS.register("low_probability")
def low_probability(growth: Growth, living: Sequence[Node]) -> list[float]:
    """More for improbable paths: softmax of the negative statistic."""
    return _softmax(growth, [-score for score in _statistics(growth, living)])


@ALLOCATIONS.register("high_probability")
def high_probability(growth: Growth, living: Sequence[Node]) -> list[float]:
    """More for probable paths: softmax of the statistic."""
    return _softmax(growth, _statistics(growth, living))


@ALLOCATIONS.register("entropy")
def entropy(growth: Growth, living: Sequence[Node]) -> list[float]:
    """In proportion to the last segment's entropy, estimated by its tokens' mean surprisal."""
    surprisals = [max(0.0, -last_segment(growth, node)) for node in living]
    return surprisals if any(surprisals) else even(growth, living)


@ALLOCATIONS.register("high_value")
def high_value(growth: Growth, living: Sequence[Node]) -> list[float]:
    """More where finished paths nearby were rewarded: softmax of their mean reward."""
    return _softmax(growth, [growth.value(node) for node in living])


@ALLOCATIONS.register("low_value")
def low_value(growth: Growth, living: Sequence[Node]) -> list[float]:
    """More where finished paths nearby failed: softmax of their negative mean reward."""
    return _softmax(growth, [-growth.value(node) for node in living])


def allocate(growth: Growth, living: Sequence[Node], budget: int) -> list[int]:
    """Branches of each living path by the chosen policy; at least one each, `budget` in all.

    Raises UserError where the policy breaks its contract.
    """
    weights = weigh(ALLOCATIONS, growth.params.allocation.policy, growth, living)
    return apportion(growth, weights, budget)


def weigh(
    registry: Registry[Weights], name: str, growth: Growth, nodes: Sequence[Node]
) -> list[float]:
    """The weights that a policy gives the nodes.

    Raises UserError where they are not one a node, non-negative, with a positive sum.
    """
    weights = call(registry, name, growth, nodes)
    if not _are_weights(weights, len(nodes)):
        raise UserError(
            f"{registry.key}: '{name}' gave the weights {weights!r:.200}; it must give "
            f"{len(nodes)} numbers, none of them negative, with a positive sum"
        )
    return weights


def _are_weights(values: Any, count: int) -> bool:
    """Whether a user's own function gave what its signature promises."""
    try:
        return len(values) == count and min(values) >= 0 and 0 < math.fsum(values) < math.inf
    except (TypeError, ValueError):
        return False


def apportion(growth: Growth, weights: Sequence[float], budget: int) -> list[int]:
    """One each, the rest by largest remainder; who is first among equals is drawn at random."""
    rest = max(0, budget - len(weights))
    total = math.fsum(weights)
    quotas = [weight / total * rest for weight in weights]
    counts = [int(quota) for quota in quotas]
    left = rest - sum(counts)
    fractions = [quota - count for quota, count in zip(quotas, counts, strict=True)]
    for path in _largest(growth, fractions, left):
        counts[path] += 1
    return [1 + count for count in counts]


def _largest(growth: Growth, values: Sequence[float], count: int) -> list[int]:
    """Places of the `count` largest values."""
    if count == 0:
        return []
    bar = sorted(values, reverse=True)[count - 1]
    above = [place for place, value in enumerate(values) if value > bar]
    equal = [place for place, value in enumerate(values) if value == bar]
    return above + growth.rng.sample(equal, count - len(above))


def _statistics(growth: Growth, living: Sequence[Node]) -> list[float]:
    name = growth.params.allocation.statistic
    return [call(STATISTICS, name, growth, node) for node in living]


def _softmax(growth: Growth, scores: Sequence[float]) -> list[float]:
    return softmax(scores, growth.params.allocation.temperature_at(1))


def softmax(scores: Sequence[float], temperature: float) -> list[float]:
    """Weights exp(score / temperature), the largest of them 1."""
    top = max(scores)
    return [math.exp((score - top) / temperature) for score in scores]
