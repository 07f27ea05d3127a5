"""Intervals, tests and curves against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate

from treepo.ablation.statistics import curve, holm, interval, paired, sign_flip

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))
# Two-sided 95 % points of Student's t, from printed tables, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042}


@pytest.mark.parametrize("freedom", T_TABLE)
def test_interval_against_the_printed_table(freedom: int) -> None:
    values = np.random.default_rng(freedom).normal(3, 2, freedom + 1).tolist()
    found = interval(values)
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / freedom
    half = T_TABLE[freedom] * math.sqrt(variance / len(values))
    assert found.n == freedom + 1
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-3, abs=1e-3)


def test_intervals_of_few() -> None:
    assert math.isnan(interval([]).mean)
    one = interval([4.0])
    assert one.mean == 4.0
    assert math.isnan(one.low)
    alike = interval([2.0, 2.0])
    assert (alike.low, alike.mean, alike.high) == (2, 2, 2)


def brute_sign_flip(differences: list[float]) -> float:
    observed = abs(sum(differences))
    assignments = list(itertools.product((1, -1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in assignments]
    return sum(abs(total) >= observed - 1e-9 for total in sums) / len(assignments)


@given(st.lists(NUMBERS, min_size=2, max_size=8))
@example([0.0, 0.0, 0.0, 1.5, 27.188, 99.5, -28.0, -100.0])  # a sum that almost cancels
def test_sign_flip_is_every_assignment(differences: list[float]) -> None:
    assert sign_flip(differences) == pytest.approx(brute_sign_flip(differences))


def test_sign_flip_has_a_floor() -> None:
    assert sign_flip([0.1, 0.2, 0.3, 0.1, 0.2]) == 2 / 2**5
    assert sign_flip([0.0] * 5) == 1.0


def test_paired_t_by_integration() -> None:
    values = {0: 1.0, 1: 2.5, 2: 2.0, 3: 4.0, 7: 100.0}
    reference = {0: 0.5, 1: 1.0, 2: 2.2, 3: 2.0, 8: -5.0}
    found = paired(values, reference)
    differences = np.array([0.5, 1.5, -0.2, 2.0])  # of the seeds that both have
    t = differences.mean() / (differences.std(ddof=1) / 2)
    density = lambda x: (1 + x * x / 3) ** -2  # noqa: E731  (Student's t, 3 degrees of freedom)
    whole = integrate.quad(density, -math.inf, math.inf)[0]
    tail = 2 * integrate.quad(density, abs(t), math.inf)[0] / whole
    assert found.interval.n == 4
    assert found.interval.mean == pytest.approx(differences.mean())
    assert found.p_t == pytest.approx(tail)
    assert found.p_sign == pytest.approx(brute_sign_flip(differences.tolist()))


def test_pairs_that_tell_nothing() -> None:
    assert math.isnan(paired({0: 1.0}, {0: 2.0}).p_t)
    assert paired({0: 1.0}, {0: 2.0}).interval.mean == -1
    assert paired({0: 1.0}, {1: 2.0}).interval.n == 0
    same = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.p_t, same.p_sign) == (1, 1)
    assert math.isnan(paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p_t)  # no spread: t is undefined


def test_pairing_sees_what_seeds_hide() -> None:
    seeds = {seed: 10.0 * seed for seed in range(5)}
    better = {seed: value + 0.1 + 0.01 * seed for seed, value in seeds.items()}
    found = paired(better, seeds)
    assert found.p_t < 0.001
    assert found.interval.low > 0


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_against_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for own, found in zip(p_values, adjusted, strict=True):
        # A hypothesis is rejected at level a if all p up to its own pass their shrinking limits.
        steps = [min(1.0, p * sum(other >= p for other in p_values)) for p in p_values if p <= own]
        assert found >= own
        assert found == pytest.approx(max(steps))
    assert math.isnan(holm([math.nan, 0.5])[0])
    assert holm([math.nan, 0.5])[1] == 0.5


def test_curves_are_bands_over_the_seeds_that_reach_a_place() -> None:
    runs = [[(0.0, 0.0), (10.0, 1.0)], [(0.0, 1.0), (5.0, 1.0)], [(0.0, 0.5), (8.0, 0.5)], []]
    points = curve(runs, [0, 5, 8, 9, 11])
    assert [(point.x, point.band.n, point.band.mean) for point in points] == [
        (0, 3, 0.5),
        (5, 3, pytest.approx(2 / 3)),
        (8, 2, pytest.approx(0.65)),  # at 9 one of three would speak for all
    ]
    assert math.isnan(curve(runs[:1], [10])[0].band.low)
