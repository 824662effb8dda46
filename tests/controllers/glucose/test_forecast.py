"""The learned forecast of glucose as a quantile forecast: what it says of doses, its history; a dose behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Targets
from controllers.glucose.forecast import InsulinForecast
from controllers.planning.quantile_filter import BackOff, QuantileFilter
from models.glucose_forecast import WINDOW, Episodes, GlucoseConfig, GlucoseForecast, scaled_glucose, scaled_rate
from plant.spec import load_spec
from tests.controllers.glucose.hostile import AlwaysMost

_SPEC = load_spec("glucose")
_BASAL, _WEIGHT = np.array([1.2, 0.8]), np.array([80.0, 50.0])
_TARGETS = Targets(np.full((2, 1, 1), 110.0), np.array([0.0]), np.array([90.0]))
_BACK_OFF = BackOff(guardrail="low_glucose", start=30.0, least=-5.0, most=60.0, rise=1.0, budget=0.1)


class _Falling(GlucoseForecast):
    """Glucose stays where the CGM is, less 10 mg/dL for each basal rate of the first step."""

    def encode(self, cgm, applied, slow, clock, days, known):
        return cgm[..., -1:]

    def forecast(self, z, rates, known):
        level = 60.0 * z + 140.0 - 10.0 * (8.0 * rates[:, :1] + 1.0)
        return level[..., None].expand(-1, rates.shape[1], 1 + len(self.config.quantiles))


def _seen(cgm: tuple[float, float], applied: np.ndarray = _BASAL, time_s: float = 0.0) -> Observation:
    return Observation(time_s, np.stack([cgm, (2.0, 2.0)], 1), np.zeros((2, 1)), applied[:, None])


def _guard() -> QuantileFilter:
    forecast = InsulinForecast(_SPEC, _Falling(GlucoseConfig()), _BASAL, _WEIGHT, 70.0)
    return QuantileFilter(_SPEC, forecast, AlwaysMost(_SPEC, 2, rate_U_per_h=12.0), _BACK_OFF, np.array([0.6]))


def _ask(guard: QuantileFilter, *cgm: float) -> np.ndarray:
    return guard.decide(_seen((cgm[0], cgm[1])), _TARGETS).moves[:, 0]


def test_the_largest_dose_that_keeps_the_back_off() -> None:
    rates = _ask(_guard(), 120.0, 120.0)
    # 20 mg/dL of room: a first step (15 min) of two basal rates, so six in the 5 min that are asked about
    np.testing.assert_allclose(rates, 6.0 * _BASAL, atol=0.61)
    assert (rates <= 6.0 * _BASAL + 1e-9).all()
    np.testing.assert_allclose(_ask(_guard(), 300.0, 90.0), [12.0, 0.0])


def test_the_back_off_follows_the_lows() -> None:
    guard = _guard()
    _ask(guard, 120.0, 60.0)
    np.testing.assert_allclose(guard.back_off, [29.9, 30.9])
    _ask(guard, 120.0, 50.0)
    np.testing.assert_allclose(guard.back_off, [29.8, 34.8])


def test_a_history_starts_at_rest_and_holds_a_missing_reading() -> None:
    seen = []

    class _Spy(GlucoseForecast):
        def encode(self, cgm, applied, slow, clock, days, known):
            seen.append((cgm, applied, slow, clock, days))
            return cgm

    forecast = InsulinForecast(_SPEC, _Spy(GlucoseConfig()), _BASAL, _WEIGHT, 70.0, np.array([True, False]))
    forecast.see(_seen((150.0, 100.0), np.array([9.0, 9.0])))
    forecast.see(_seen((np.nan, 110.0), np.array([2.4, np.nan]), 25.0 * 3600))
    cgm, applied, slow, clock, days = seen[1]
    assert cgm.shape == (2, WINDOW)
    np.testing.assert_allclose(cgm[0], scaled_glucose(np.full(WINDOW, 150.0)), rtol=1e-6)
    assert cgm[1, -1] == pytest.approx(float(scaled_glucose(np.array(110.0))))
    np.testing.assert_allclose(applied[:, -1], [scaled_rate(np.array(2.4), np.array(1.2)), 0.0])
    assert (applied[:, :-1] == 0).all()
    assert (clock[1] == 0).all()
    assert clock[0, 4] == 1.0
    assert slow.shape == (2, 23)
    assert float(days[0]) == pytest.approx(1 / 864)


def test_episodes_join_and_pick() -> None:
    one = Episodes(*(np.arange(6.0).reshape(3, 2) for _ in range(7)))
    both = Episodes.join([one, one])
    assert len(both.cgm) == 6
    np.testing.assert_array_equal(both.some(np.array([4])).glucose, [[2.0, 3.0]])
    assert torch.get_default_dtype() is torch.float32
