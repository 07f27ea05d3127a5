"""When a run ends early."""

from __future__ import annotations

import pytest

from treepo.ablation.stopping import RULES, History, reason_to_stop
from treepo.errors import UserError
from treepo.params.ablation import StopParams


def history(
    informative: list[int], rewards: list[float] | None = None, **accuracy: float
) -> History:
    rewards = rewards or [0.5] * len(informative)
    updates = [
        {"reward/informative_trees": n, "reward/mean": r, "rollout/sampled_tokens": 100.0}
        for n, r in zip(informative, rewards, strict=True)
    ]
    evaluations = {int(key.removeprefix("at")): {"accuracy": v} for key, v in accuracy.items()}
    return History(updates, evaluations)


@pytest.mark.parametrize(
    ("informative", "ends"),
    [([0, 0], False), ([0, 0, 0], True), ([0, 0, 0, 1], False), ([3, 0, 0, 0], True), ([], False)],
)
def test_no_informative_trees(informative: list[int], ends: bool) -> None:
    rule = StopParams(rule="no_informative_trees", iterations=3)
    assert bool(reason_to_stop(history(informative), [rule])) == ends


def test_accuracy_below_waits() -> None:
    rule = StopParams(rule="accuracy_below", iterations=2, value=0.3)
    assert reason_to_stop(history([1, 1], at0=0.0, at1=0.1), [rule]) is None
    assert reason_to_stop(history([1, 1], at0=0.0, at2=0.4), [rule]) is None
    assert "0.200 after 2" in str(reason_to_stop(history([1, 1], at0=0.0, at2=0.2), [rule]))


def test_reward_below_is_a_mean_of_the_last() -> None:
    rule = StopParams(rule="reward_below", iterations=2, value=0.3)
    assert reason_to_stop(history([1], [0.0]), [rule]) is None
    assert reason_to_stop(history([1, 1], [0.2, 0.5]), [rule]) is None
    assert "mean reward 0.200" in str(reason_to_stop(history([1] * 3, [0.9, 0.1, 0.3]), [rule]))


def test_a_token_budget() -> None:
    rule = StopParams(rule="tokens_sampled", value=300)
    assert reason_to_stop(history([1, 1]), [rule]) is None
    assert "300 sampled tokens" in str(reason_to_stop(history([1, 1, 1]), [rule]))


def test_the_first_rule_that_holds_tells_why() -> None:
    rules = [StopParams(rule="tokens_sampled", value=100), StopParams(rule="accuracy_below")]
    assert "budget" in str(reason_to_stop(history([1]), rules))
    assert reason_to_stop(history([]), rules) is None
    assert reason_to_stop(history([1]), []) is None


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'reward_below'"):
        reason_to_stop(history([1]), [StopParams(rule="reward_bellow")])
    assert all(name in str(StopParams.model_fields["rule"].description) for name in RULES)
