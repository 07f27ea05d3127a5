"""Every objective on packed trees against the flat batch, and the pieces it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from flat import Response, flat_loss
from forests import forests
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from policies import (
    LIMIT,
    along,
    behaved,
    chosen,
    exact,
    flat_distributions,
    flat_logprobs,
    forking_forest,
    gathered,
    gradients,
    noisy,
    plain,
    tiny,
)
from torch import Tensor
from transformers import PreTrainedModel

from treepo.advantages import Advantages
from treepo.batch import Batch
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.objective import DIVERGENCES, OBJECTIVES
from treepo.params import UpdateParams
from treepo.trainer import Trainer

Array = np.ndarray
NAMES = sorted(OBJECTIVES)
# Bounds near 1, so that noise of the logprobs crosses all of them.
BOUNDS: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 1.6}


@dataclass(frozen=True)
class Case:
    """A batch and the same as flat responses, whose logprobs belong to `flat`."""

    batch: Batch
    responses: list[Response]
    model: PreTrainedModel
    flat: PreTrainedModel


def case(model: PreTrainedModel, forest: Forest, temperature: float, seed: int) -> Case:
    """All other logprobs are the model's with noise; advantages differ from node to node."""
    flat = plain(model)
    distributions = flat_distributions(flat, forest, temperature)
    new = chosen(distributions, forest)
    stored = gathered(forest, new)
    forest = behaved(forest, new, noise=0.5, seed=seed)
    old, reference = (noisy(forest, stored, 0.3, seed + 100 * k) for k in (1, 2))
    random = np.random.default_rng(seed)
    trajectory, row = forest.entries
    value = random.normal(size=len(row)) * random.integers(0, 3, len(row)).clip(max=1)
    value[0] = 1.0
    advantages = Advantages(trajectory, row, value)
    lengths = forest.lengths[row]
    batch = Batch(
        forest, advantages, range(forest.trees), temperature, LIMIT, old=old, reference=reference
    )
    columns = [along(forest, values) for values in (old, forest.logprobs, reference)]
    responses = [
        Response(
            new[i],
            -(distributions[i].exp() * distributions[i]).sum(-1),
            *(torch.from_numpy(column[i].astype(np.float64)) for column in columns),
            advantage=np.repeat(value[trajectory == i], lengths[trajectory == i]).tolist(),
        )
        for i in range(len(new))
    ]
    return Case(batch, responses, model, flat)


def packed(made: Case, params: UpdateParams) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients as the trainer finds them."""
    batch = made.batch
    if params.importance_cap is None:
        batch = replace(batch, old=None)
    if not params.kl_coefficient:
        batch = replace(batch, reference=None)
    made.model.zero_grad()
    trainer: Any = Trainer(made.model, params)
    found = trainer._gradients(batch, list(batch.trees), check=False).result()
    return found["loss"], gradients(made.model)


def flat(made: Case, params: UpdateParams) -> tuple[float, dict[str, Tensor]]:
    responses = made.responses
    if params.importance_cap is None:
        responses = [replace(response, old=response.engine) for response in responses]
    made.flat.zero_grad()
    loss = flat_loss(responses, params, LIMIT)
    loss.backward(retain_graph=True)
    return float(loss.detach()), gradients(made.flat)


def assert_same(
    got: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]], limit: float
) -> None:
    """Loss, and every parameter's gradient by its norm, to `limit`, relative.

    A parameter's norm counts as 1e-3 of the largest one's at least: below it is what cancels.
    """
    assert got[0] == pytest.approx(expected[0], rel=limit, abs=limit)
    largest = max(float(grad.norm()) for grad in expected[1].values())
    for name, grad in expected[1].items():
        error = float((got[1][name] - grad).norm())
        assert error <= limit * max(float(grad.norm()), 1e-3 * largest), (name, error)


OPTIONS = st.fixed_dictionaries(
    {
        "kl_coefficient": st.sampled_from([0.0, 0.3]),
        "kl_estimator": st.sampled_from(sorted(DIVERGENCES)),
        "entropy_coefficient": st.sampled_from([0.0, 0.2]),
        "importance_cap": st.sampled_from([None, 1.1]),
        "dual_clip": st.sampled_from([None, 1.6]),
        "micro_batch_tokens": st.sampled_from([1, 10_000]),
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("objective", NAMES)
@given(
    forest=forests(max_segments=10),
    seed=st.integers(0, 99),
    kv_heads=st.sampled_from([1, 2, 4]),
    temperature=st.sampled_from([1.0, 0.6]),
    options=OPTIONS,
)
@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])
def test_packed_is_flat_for_any_forest(
    objective: str,
    forest: Forest,
    seed: int,
    kv_heads: int,
    temperature: float,
    options: dict[str, Any],
) -> None:
    made = case(exact(tiny(kv_heads)), forest, temperature, seed)
    params = UpdateParams(objective=objective, **(BOUNDS | options))
    assert_same(packed(made, params), flat(made, params), 1e-9)


@pytest.mark.parametrize("objective", NAMES)
@pytest.mark.parametrize("importance_cap", [None, 1.1])
def test_packed_is_flat_for_every_combination(objective: str, importance_cap: float | None) -> None:
    made = case(exact(tiny()), forking_forest(), 0.8, seed=1)
    for kl in ("", *DIVERGENCES):
        for entropy in (0.0, 0.2):
            params = UpdateParams(
                objective=objective,
                importance_cap=importance_cap,
                kl_coefficient=0.3 if kl else 0.0,
                kl_estimator=kl or "k3",
                entropy_coefficient=entropy,
                **BOUNDS,
            )
            assert_same(packed(made, params), flat(made, params), 1e-9)


@pytest.mark.parametrize("objective", NAMES)
def test_packed_is_flat_with_the_norms_of_transformers(objective: str) -> None:
    """They compute in float32, which sets the floor."""
    made = case(tiny().double(), forking_forest(), 1.0, seed=2)
    params = UpdateParams(objective=objective, kl_coefficient=0.1, importance_cap=1.1, **BOUNDS)
    assert_same(packed(made, params), flat(made, params), 1e-6)


@pytest.mark.parametrize("objective", NAMES)
def test_minibatches_weigh_only_their_own_trajectories(objective: str) -> None:
    made = case(exact(tiny()), forking_forest(), 1.0, seed=3)
    of_tree = made.batch.of_trees([0, 2])
    part = replace(
        made,
        batch=replace(made.batch, trees=[2, 0]),
        responses=[made.responses[i] for i in np.flatnonzero(of_tree)],
    )
    params = UpdateParams(objective=objective, **BOUNDS)
    assert_same(packed(part, params), flat(part, params), 1e-9)


def ratios(made: Case) -> list[Array]:
    return [torch.exp(r.new.detach() - r.engine).numpy() for r in made.responses]


def test_the_bounds_are_active_and_counted_as_in_the_flat_batch() -> None:
    made = case(exact(tiny()), forking_forest(), 1.0, seed=4)
    params = UpdateParams(**BOUNDS)
    trainer: Any = Trainer(made.model, params)
    batch = replace(made.batch, old=None)
    found = trainer._gradients(batch, range(3), check=False).result()
    every = np.concatenate(ratios(made))
    advantage = np.concatenate([r.advantage for r in made.responses])
    entropy = np.concatenate([r.entropy.detach().numpy() for r in made.responses])
    reference = np.concatenate([(r.new.detach() - r.reference).numpy() for r in made.responses])
    expected = {
        "ratio_mean": every.mean(),
        "ratio_min": every.min(),
        "ratio_max": every.max(),
        "approx_kl": (every - 1 - np.log(every)).mean(),
        "reference_kl": (np.exp(-reference) - 1 + reference).mean(),
        "entropy": entropy.mean(),
        "clip_low": ((every < 0.8) & (advantage < 0)).mean(),
        "clip_high": ((every > 1.28) & (advantage > 0)).mean(),
        "clip_dual": ((every > 1.6) & (advantage < 0)).mean(),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    assert min(expected.values()) > 0


def test_a_weight_is_clipped_whatever_its_advantage() -> None:
    """CISPO's weight has an upper bound alone, for advantages of either sign."""
    made = case(exact(tiny()), forking_forest(), 1.0, seed=4)
    params = UpdateParams(**{**BOUNDS, "objective": "cispo"})
    trainer: Any = Trainer(made.model, params)
    found = trainer._gradients(replace(made.batch, old=None), range(3), check=False).result()
    above = np.concatenate(ratios(made)) > 1 + params.clip_high
    assert found["clip_high"] == pytest.approx(above.mean())
    assert above.any()


def test_clipped_responses_are_counted_one_by_one() -> None:
    made = case(exact(tiny()), forking_forest(), 1.0, seed=5)
    value = np.tile([1.0, -1.0], 6)
    advantages = replace(made.batch.advantages, value=value[made.batch.advantages.trajectory])
    batch = replace(made.batch, old=None, advantages=advantages)
    params = UpdateParams(objective="gspo", clip_low=0.02, clip_high=0.02)
    trainer: Any = Trainer(made.model, params)
    found = trainer._gradients(batch, range(3), check=False).result()
    mean = np.array([math.exp(np.log(ratio).mean()) for ratio in ratios(made)])
    assert found["clip_high"] == pytest.approx(((mean > 1.02) & (value > 0)).mean())
    assert found["clip_low"] == pytest.approx(((mean < 0.98) & (value < 0)).mean())
    assert found["ratio_mean"] == pytest.approx(mean.mean())
    assert 0 < found["clip_high"] < 0.5


def test_a_ratio_of_one_makes_all_token_means_the_same_gradient() -> None:
    """At the old policy, DAPO, CISPO and REINFORCE are the plain policy gradient."""
    model = exact(tiny())
    made = case(model, forking_forest(), 1.0, seed=6)
    old = gathered(made.batch.forest, flat_logprobs(made.flat, made.batch.forest, 1.0))
    batch = replace(made.batch, old=old, reference=None)
    found: list[dict[str, Tensor]] = []
    for objective in ("dapo", "cispo", "reinforce"):
        model.zero_grad()
        trainer: Any = Trainer(model, UpdateParams(objective=objective))
        trainer._gradients(batch, range(3), check=False)
        found.append(gradients(model))
    for other in found[1:]:
        assert_same((0.0, other), (0.0, found[0]), 1e-9)


def test_divergences_of_a_known_pair() -> None:
    """E over the first policy of k1 and k3 is the KL; k2 has its gradient."""
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    logits = p.log().requires_grad_()
    q = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    kl = (p * (p / q).log()).sum()
    logprob = torch.log_softmax(logits, 0)
    difference = logprob - q.log()
    for name in ("k1", "k3"):
        value = (p * DIVERGENCES.get(name)(difference)).sum()
        torch.testing.assert_close(value.detach(), kl)
    (expected,) = torch.autograd.grad((logprob.exp() * difference).sum(), logits, retain_graph=True)
    (got,) = torch.autograd.grad((p * DIVERGENCES.get("k2")(difference)).sum(), logits)
    torch.testing.assert_close(got, expected)


def test_every_objective_says_what_it_is() -> None:
    for registry in (OBJECTIVES, DIVERGENCES):
        assert all(line for _, line in registry.describe())
    with pytest.raises(UserError, match=r"^update\.objective: unknown 'dapp'; .*'dapo'\?$"):
        OBJECTIVES.get("dapp")
