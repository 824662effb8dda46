"""Intervals of ratios: Fieller's, closed where the denominator is known, to one side where only its sign is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from models.gain_fit import bins, fieller, wider

ZERO = np.zeros(1)


def test_a_well_known_ratio_has_the_interval_of_a_quotient() -> None:
    """Far from zero Fieller's interval is that of the delta method."""
    low, high = fieller(np.array([2.0]), 1.0, np.array([0.01**2]), ZERO, 0.005**2, 1.645)
    half = 1.645 * (0.01**2 + (2 * 0.005) ** 2) ** 0.5
    assert float(low[0]) == pytest.approx(2 - half, abs=1e-3)
    assert float(high[0]) == pytest.approx(2 + half, abs=1e-3)


def test_a_way_back_that_cannot_be_seen_leaves_the_sign_alone() -> None:
    b, v = np.array([1.0, -1.0, 0.05]), np.full(3, 0.1**2)
    low, high = fieller(b, 0.05, v, np.zeros(3), 0.1**2, 1.645)
    assert low[0] > 0
    assert np.isinf(high[0])
    assert high[1] < 0
    assert np.isinf(low[1])
    assert np.isinf([low[2], high[2]]).all()


def test_what_runs_away_by_itself_has_no_static_gain() -> None:
    low, high = fieller(np.array([1.0]), -0.5, np.array([0.01]), ZERO, 0.01, 1.645)
    assert np.isinf([low[0], high[0]]).all()


def test_one_sided_intervals_hold_the_true_ratio_as_often_as_they_say() -> None:
    rng, held, one_sided = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        a, b = 0.1 + 0.08 * rng.standard_normal(), np.array([0.5 + 0.1 * rng.standard_normal()])
        low, high = fieller(b, a, np.array([0.1**2]), ZERO, 0.08**2, 1.645)
        held += bool(low[0] <= 5.0 <= high[0])
        one_sided += bool(np.isinf(high[0]) and np.isfinite(low[0]))
    assert held / 2000 == pytest.approx(0.9, abs=0.03)
    assert one_sided > 500


def test_intervals_know_of_a_model_that_says_otherwise() -> None:
    low, high = wider(np.array([1.0]), np.array([0.9]), np.array([1.1]), np.array([0.4]))
    assert float(low[0]) == pytest.approx(1 - (0.1**2 + 0.2**2) ** 0.5)
    assert float(high[0]) == pytest.approx(1 + (0.1**2 + 0.2**2) ** 0.5)


def test_lags_reach_as_far_as_they_should_without_a_gap() -> None:
    found = bins(1, 100)
    assert found[0] == (1, 2)
    assert found[-1][1] == 100
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
