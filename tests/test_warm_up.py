from __future__ import annotations

import math

import pytest
import torch

from treepo.models import Policy, initial_policy
from treepo.params import ModelParams, WarmUpParams
from treepo.warm_up import Example, schedule, warm_up

SIZE = ModelParams(
    hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, max_positions=32
)


def policy() -> Policy:
    return initial_policy(SIZE, seed=0)


def copies(tokens: Policy, count: int = 20) -> list[Example]:
    """A letter to be written again, twice, and the end; solutions of uneven length."""
    examples: list[Example] = []
    for index in range(count):
        letter = chr(ord("a") + index)
        solution = tokens.tokenizer.encode(letter * (2 + index % 2))
        examples.append((tokens.tokenizer.encode(f"{letter}="), [*solution, *tokens.eos]))
    return examples


def run(trained: Policy, params: WarmUpParams, seed: int = 0) -> list[float]:
    return [metrics["loss"] for metrics in warm_up(trained, copies(trained), params, seed)]


def same_weights(one: Policy, other: Policy) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def test_a_copy_task_is_learned() -> None:
    trained = policy()
    params = WarmUpParams(steps=120, batch_size=10, learning_rate=1e-2, warm_up_steps=5)
    losses = run(trained, params)
    assert len(losses) == 120
    assert losses[0] == pytest.approx(math.log(100), rel=0.1)
    # Whether two or three letters follow is no function of the ones before.
    assert sum(losses[-10:]) / 10 < 0.5


def test_the_loss_is_that_of_the_solution_alone() -> None:
    """First step against a dense forward pass: mean over solution tokens, none of the prompt's."""
    reference = policy()
    reference.model.set_attn_implementation("eager")
    examples = copies(reference, count=5)
    logprobs: list[float] = []
    for prompt, solution in examples:
        tokens = torch.tensor([[*prompt, *solution]])
        with torch.no_grad():
            log_softmax = reference.model(input_ids=tokens).logits[0].log_softmax(-1)
        for place in range(len(prompt), tokens.shape[1]):
            logprobs.append(float(log_softmax[place - 1, tokens[0, place]]))
    first = next(warm_up(policy(), examples, WarmUpParams(steps=1, batch_size=9), seed=0))
    assert first["loss"] == pytest.approx(-sum(logprobs) / len(logprobs), rel=1e-5)


def test_the_same_seed_gives_the_same_bits() -> None:
    params = WarmUpParams(steps=4, batch_size=6)
    first, again, other = policy(), policy(), policy()
    losses = run(first, params, seed=1)
    torch.manual_seed(99)  # global randomness must not matter
    assert run(again, params, seed=1) == losses
    assert same_weights(first, again)
    assert run(other, params, seed=2) != losses
    assert not same_weights(first, other)


def test_no_steps_leave_the_weights() -> None:
    trained = policy()
    assert run(trained, WarmUpParams(steps=0)) == []
    assert same_weights(trained, policy())


def test_every_epoch_sees_every_example(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(examples: list[Example]) -> object:
        seen.extend(prompt[0] for prompt, _ in examples)
        raise StopIteration

    trained = policy()
    examples = copies(trained)
    monkeypatch.setattr("treepo.warm_up._as_forest", watch)
    for _ in range(2):
        steps = warm_up(trained, examples, WarmUpParams(steps=1, batch_size=64), seed=0)
        with pytest.raises(RuntimeError):  # the generator turns StopIteration into it
            next(steps)
    assert sorted(seen[:20]) == sorted(prompt[0] for prompt, _ in examples)
    assert seen[:20] == seen[20:]


def test_schedule() -> None:
    params = WarmUpParams(steps=100, warm_up_steps=20)
    assert schedule(0, params) == pytest.approx(0.05)
    assert schedule(19, params) == 1
    assert schedule(20, params) == 1
    assert schedule(60, params) == pytest.approx(0.55)
    assert schedule(99, params) == pytest.approx(0.1, abs=1e-3)
    assert schedule(100, params) == pytest.approx(0.1)
    falling = [schedule(step, params) for step in range(20, 100)]
    assert falling == sorted(falling, reverse=True)
    assert schedule(0, WarmUpParams(steps=5, warm_up_steps=0)) == 1
    assert schedule(2, WarmUpParams(steps=3, warm_up_steps=10)) == pytest.approx(0.3)
