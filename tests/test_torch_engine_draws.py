"""Drawing tokens: the inverse of the cumulative distribution, and what restricts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from treepo.engines import draws
from treepo.engines.draws import uniforms
from treepo.params import SamplingParams

ALL = torch.arange(100_000)


def draw(
    logits: torch.Tensor, rows: torch.Tensor, numbers: np.ndarray, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a copy, as the logits are overwritten."""
    return draws.draw(logits.clone(), rows, numbers, params)


def at(temperature: float, **changes: Any) -> SamplingParams:
    return SamplingParams(temperature=temperature, **changes)


LOGITS = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0, 1.5, float("-inf")])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    count = 100_000
    expected = (LOGITS / temperature).softmax(-1).double()
    logits = LOGITS.expand(count, -1)
    seeds, index = np.full(count, 77, dtype=np.uint64), np.arange(count)
    for numbers, bound in ((uniforms(seeds, index), 20.0), ((index + 0.5) / count, 0.01)):
        tokens, logprobs = draw(logits, ALL[:count], numbers, at(temperature))
        observed = torch.bincount(tokens, minlength=7).double()
        likely = expected > 0
        surprise = (observed - count * expected)[likely] ** 2 / (count * expected)[likely]
        assert float(surprise.sum()) < bound  # chi-square, 5 degrees of freedom: 1e-3 at 20.5
        assert observed[6] == 0
        torch.testing.assert_close(logprobs, expected.log().float()[tokens], atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", [0.0, 2.0**-53, 1 - 2.0**-30, 1 - 2.0**-53])
def test_no_number_draws_an_impossible_token(number: float) -> None:
    nothing = float("-inf")
    logits = torch.tensor([[nothing, 1.0, nothing, 0.0, nothing], [0.0, 0.0, 0.0, 0.0, -200.0]])
    tokens, logprobs = draw(logits, ALL[:2], np.array([number, number]), at(1.0))
    assert tokens.tolist() == ([1, 0] if number < 0.5 else [3, 3])
    assert bool((logprobs > -5).all())


def test_uniforms() -> None:
    seeds = np.arange(400, dtype=np.uint64)
    seeds[200:] += np.uint64(2**64 - 400)
    grid = np.array([uniforms(seeds, np.full(400, at)) for at in range(200)])
    assert grid.dtype == np.float64
    assert grid.min() >= 0
    assert grid.max() < 1
    assert len(np.unique(grid)) == grid.size
    assert np.abs(np.histogram(grid, 20, (0, 1))[0] / grid.size - 0.05).max() < 0.004
    assert np.abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.02
    assert np.abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.02
    assert uniforms(seeds[7:8], np.array([5]))[0] == grid[5, 7]


def grid(logits: torch.Tensor, params: SamplingParams, count: int = 20_000) -> torch.Tensor:
    """How often each token is drawn by evenly spread numbers: float64 [V]."""
    rows = torch.zeros(count, dtype=torch.int64)
    tokens, _ = draw(logits[None], rows, (np.arange(count) + 0.5) / count, params)
    return torch.bincount(tokens, minlength=len(logits)).double() / count


@given(
    seed=st.integers(0, 100),
    size=st.sampled_from([3, 40, 128, 129, 256, 700]),
    top_k=st.sampled_from([None, 1, 5, 300]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_restrictions_are_those_of_transformers(
    seed: int, size: int, top_k: int | None, top_p: float, min_p: float
) -> None:
    logits = 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    warpers = LogitsProcessorList([TopKLogitsWarper(top_k)] if top_k else [])
    warpers += [TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)]
    expected = warpers(torch.zeros(1, 1, dtype=torch.int64), logits[None])[0].softmax(-1)
    observed = grid(logits, at(1.0, top_k=top_k, top_p=top_p, min_p=min_p))
    torch.testing.assert_close(observed, expected.double(), atol=2e-4, rtol=0)


def test_logprobs_are_those_of_the_full_support() -> None:
    logits, numbers = torch.randn(1, 300), np.array([0.1, 0.5, 0.9])
    rows = torch.zeros(3, dtype=torch.int64)
    tokens, logprobs = draw(logits, rows, numbers, at(0.7, top_k=3, top_p=0.8))
    full = (logits[0] / 0.7).log_softmax(-1)
    torch.testing.assert_close(logprobs, full[tokens], atol=1e-5, rtol=0)


def test_paths_that_fork_share_a_row_of_logits() -> None:
    logits, numbers = torch.randn(3, 500), np.random.default_rng(0).random(40)
    rows = torch.arange(40) % 3
    shared, apart = (
        draw(logits, rows, numbers, at(1.0)),
        draw(logits[rows], ALL[:40], numbers, at(1)),
    )
    assert torch.equal(shared[0], apart[0])
    torch.testing.assert_close(shared[1], apart[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_show_in_the_logprob(bad: float) -> None:
    logits = torch.randn(2, 300)
    logits[1, 7] = bad
    _, logprobs = draw(logits, ALL[:2], np.array([0.3, 0.3]), at(1.0))
    assert logprobs.isfinite().tolist() == [True, False]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_show_at_temperature_0_too(bad: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    logits[0, 3] = -torch.inf
    greedy = SamplingParams(temperature=0)
    _, logprobs = draws.draw(logits, torch.arange(2), np.zeros(2), greedy)
    assert logprobs.isfinite().tolist() == [True, False]
