"""Rules that end a run early, each a small function of what the run has shown so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from treepo.params.ablation import StopParams
from treepo.registry import Registry


@dataclass(frozen=True)
class History:
    """What a run has shown: metrics of iteration 1, 2, ...; held-out figures by iteration."""

    updates: Sequence[Mapping[str, float]]
    evaluations: Mapping[int, Mapping[str, float]]


Rule = Callable[[History, StopParams], str | None]
RULES: Registry[Rule] = Registry("stop.rule")


@RULES.register("no_informative_trees")
def no_informative_trees(history: History, params: StopParams) -> str | None:
    """The last `iterations` iterations had no tree with both right and wrong answers."""
    last = history.updates[-params.iterations :] if params.iterations else []
    if len(last) < max(1, params.iterations):
        return None
    if any(update["reward/informative_trees"] for update in last):
        return None
    return f"no informative trees in {params.iterations} iterations"


@RULES.register("accuracy_below")
def accuracy_below(history: History, params: StopParams) -> str | None:
    """A policy of iteration `iterations` or later has a held-out accuracy below `value`."""
    done = len(history.updates)
    for iteration, figures in history.evaluations.items():
        if params.iterations <= iteration <= done and figures["accuracy"] < params.value:
            return f"held-out accuracy {figures['accuracy']:.3f} after {iteration} iterations"
    return None


@RULES.register("reward_below")
def reward_below(history: History, params: StopParams) -> str | None:
    """The mean reward of the last `iterations` iterations is below `value`."""
    last = history.updates[-params.iterations :] if params.iterations else []
    if len(last) < max(1, params.iterations):
        return None
    mean = float(np.mean([update["reward/mean"] for update in last]))
    return f"mean reward {mean:.3f} over {len(last)} iterations" if mean < params.value else None


@RULES.register("tokens_sampled")
def tokens_sampled(history: History, params: StopParams) -> str | None:
    """All iterations together sampled `value` tokens: a budget that variants have in common."""
    spent = sum(update["rollout/sampled_tokens"] for update in history.updates)
    return f"budget of {params.value:,.0f} sampled tokens spent" if spent >= params.value else None


def reason_to_stop(history: History, rules: Sequence[StopParams]) -> str | None:
    """Why the run should end here, in words; None where it should go on.

    Raises UserError for an unknown rule.
    """
    reasons = (RULES.get(params.rule)(history, params) for params in rules)
    return next((reason for reason in reasons if reason), None)
