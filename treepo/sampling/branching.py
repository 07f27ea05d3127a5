"""Branching: how many paths a tree may have, in the next step and in all (paper section 2.2).

Knows counts and tokens only. Budget transfer follows from counting finished paths too: what
those no longer use goes to the living ones. A budget of tokens is held by reservation: a path
starts only where the budget covers the longest response that it may become.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from treepo.registry import Registry, call
from treepo.sampling.growth import Growth
from treepo.tree import Node

Control = Callable[[Growth], int]
CONTROLS: Registry[Control] = Registry("sampling.budget.control", private=("growth_range",))
"""Paths, ended and living, that a tree should have after the next step."""


@CONTROLS.register("factor")
def factor(growth: Growth) -> int:
    """As many as after the last step, times b (paper's default)."""
    return growth.target * growth.params.branching


@CONTROLS.register("random_range", needs="growth_range")
def random_range(growth: Growth) -> int:
    """As many as after the last step, times a number drawn from [m, n] at each step."""
    return growth.target * growth.rng.randint(*growth.params.budget.growth_range)


@CONTROLS.register("step_tokens", needs="step_tokens")
def step_tokens(growth: Growth) -> int:
    """As many living ones as the token budget of a step pays for."""
    return growth.finished + _at_once(growth)


def first_branches(growth: Growth) -> int:
    """Branches of the root: fixed, or uniform in the given range ("more init divergence")."""
    drawn = growth.rng.randint(*growth.params.initial_range)
    growth.target = min(drawn, startable(growth))
    return growth.target


def step_budget(growth: Growth, living: Sequence[Node]) -> int:
    """Segments of the next step, never fewer than living paths."""
    params = growth.params
    growth.target = min(params.width, call(CONTROLS, params.budget.control, growth))
    wanted = min(growth.target - growth.finished, _at_once(growth))
    rests = [params.token_limit - growth.sampled(node) for node in living]
    affordable = _affordable(growth, reserved=sum(rests), cost=max(rests))
    return max(len(living), min(wanted, len(living) + affordable))


def startable(growth: Growth) -> int:
    """Whole new paths that may start together in a tree without living ones."""
    missing = growth.params.width - growth.finished
    affordable = _affordable(growth, reserved=0, cost=growth.params.token_limit)
    return min(missing, _at_once(growth), affordable)


def _at_once(growth: Growth) -> int:
    """Paths that one step's token budget pays for."""
    budget, params = growth.params.budget.step_tokens, growth.params
    return params.width if budget is None else budget // params.segment_length


def _affordable(growth: Growth, reserved: int, cost: int) -> int:
    """Further paths of at most `cost` tokens each that the tree's token budget pays for."""
    total = growth.params.budget.total_tokens
    if total is None:
        return growth.params.width
    return (total - growth.spent - reserved) // cost
