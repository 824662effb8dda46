"""The learned glucose guardrail: it only takes away, more where the forecast is lower, and follows lows; a loop is repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Targets
from controllers.glucose.guardrail import GlucoseGuardrail, GuardrailConfig, _first_crossing
from controllers.glucose.history import History
from controllers.glucose.last_check import AlwaysMost
from models.glucose_forecast import WINDOW, Episodes, GlucoseConfig, GlucoseForecast, scaled_glucose, scaled_rate
from plant.spec import load_spec

_SPEC = load_spec("glucose")
_BASAL, _WEIGHT = np.array([1.2, 0.8]), np.array([80.0, 50.0])
_TARGETS = Targets(np.full((2, 1, 1), 110.0), np.array([0.0]), np.array([90.0]))


class _Falling(GlucoseForecast):
    """Glucose stays where the CGM is, less 10 mg/dL for each basal rate of the first step."""

    def encode(self, cgm, applied, slow, clock, days, known):
        return cgm[..., -1:]

    def forecast(self, z, rates, known):
        level = 60.0 * z + 140.0 - 10.0 * (8.0 * rates[:, :1] + 1.0)
        return level[..., None].expand(-1, rates.shape[1], 1 + len(self.config.quantiles))


def _guard(config: GuardrailConfig | None = None) -> GlucoseGuardrail:
    inner = AlwaysMost(_SPEC, 2, rate_U_per_h=12.0)
    return GlucoseGuardrail(_SPEC, _Falling(GlucoseConfig()), inner, _BASAL, _WEIGHT, config)


def _ask(guard: GlucoseGuardrail, *cgm: float) -> np.ndarray:
    observation = Observation(0.0, np.stack([cgm, (2.0, 2.0)], 1), np.zeros((2, 1)), _BASAL[:, None])
    return guard.decide(observation, _TARGETS).moves[:, 0]


def test_the_largest_dose_that_keeps_the_floor() -> None:
    rates = _ask(_guard(GuardrailConfig(floor_mg_dL=100.0)), 120.0, 120.0)
    # 20 mg/dL of room: a first step (15 min) of two basal rates, so six in the 5 min that are asked about
    np.testing.assert_allclose(rates, 6.0 * _BASAL, atol=0.61)
    assert (rates <= 6.0 * _BASAL + 1e-9).all()
    np.testing.assert_allclose(_ask(_guard(GuardrailConfig(floor_mg_dL=100.0)), 300.0, 90.0), [12.0, 0.0])


def test_the_floor_follows_the_lows() -> None:
    guard = _guard(GuardrailConfig(floor_mg_dL=90.0, rise=1.0, budget=0.1))
    _ask(guard, 120.0, 60.0)
    np.testing.assert_allclose(guard.floor, [89.9, 90.9])
    _ask(guard, 120.0, 50.0)
    np.testing.assert_allclose(guard.floor, [89.8, 94.8])
    guard.reset()
    np.testing.assert_allclose(guard.floor, 90.0)


def test_crossing_by_hand() -> None:
    shares = np.array([0.0, 0.5, 1.0])
    room = np.array([[3.0, 1.0, -1.0], [-1.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, -1.0, 5.0]])
    np.testing.assert_allclose(_first_crossing(shares, room), [0.75, 0.0, 1.0, 0.25])


def test_a_history_starts_at_rest_and_holds_a_missing_reading() -> None:
    seen = []

    class _Spy(GlucoseForecast):
        def encode(self, cgm, applied, slow, clock, days, known):
            seen.append((cgm, applied, slow, clock, days))
            return cgm

    history = History(_BASAL, _WEIGHT)
    history.see(np.array([150.0, 100.0]), np.array([9.0, 9.0]))
    history.see(np.array([np.nan, 110.0]), np.array([2.4, np.nan]))
    history.encode(_Spy(GlucoseConfig()), 25.0, np.array([True, False]))
    cgm, applied, slow, clock, days = seen[0]
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
