"""The glucose forecast: its inputs by hand, ordered quantiles, and that it learns insulin's effect from open-loop doses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.glucose_forecast import (
    DAY,
    GOALS,
    REACH,
    WINDOW,
    Episodes,
    GlucoseConfig,
    GlucoseForecast,
    clock,
    fit,
    log_glucose,
    pinball,
    slow,
    unscaled,
)
from models.rivals.glucose import ArxGlucose, GruGlucose
from plant.errors import ModelError

_HORIZON = 16


def _episodes(count: int = 300, seed: int = 0) -> Episodes:
    """Patients at rest who are given one dose: log glucose falls by a hundredth a step and basal rate, whatever else."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(90.0, 250.0, count)
    cgm = np.repeat((level[:, None] - 140.0) / 60.0, WINDOW + 3 * _HORIZON, 1)
    applied = np.zeros_like(cgm)
    dose = rng.uniform(0.0, 12.0, count)
    applied[:, WINDOW : WINDOW + 3] = dose[:, None] / 8.0
    glucose = level[:, None] * np.exp(-0.01 * dose[:, None] * np.arange(1, _HORIZON + 1))
    memory = np.zeros((count, 1 + len(GOALS), 23))
    return Episodes(cgm, applied, memory, np.full(count, 12.0), np.ones(count), np.zeros((count, 2)), glucose)


def _forecast(model: GlucoseForecast, level: float, dose: float, steps: int = _HORIZON) -> np.ndarray:
    x = torch.full((1, WINDOW), (level - 140.0) / 60.0)
    known, rates = torch.zeros(1, 2), torch.zeros(1, steps)
    rates[0, 0] = dose / 8.0
    with torch.no_grad():
        z = model.encode(
            x, torch.zeros(1, WINDOW), torch.zeros(1, 23), torch.zeros(1, 5), torch.full((1, 1), 1 / 3), known
        )
        return model.forecast(z, rates, known)[0].numpy()


def test_averages_by_hand() -> None:
    rng = np.random.default_rng(0)
    cgm, applied = rng.standard_normal((2, 2, REACH + 5))
    made = slow(cgm, applied)
    assert made.shape == (2, 6, 23)
    assert made[1, 3, 0] == pytest.approx(cgm[1, REACH + 2 - DAY + 1 : REACH + 3].mean())
    assert made[1, 3, 2] == pytest.approx(cgm[1, REACH + 2 - DAY + 1 : REACH + 3].std())
    now = REACH + 2
    same = [applied[1, now - DAY * d - 12 + 12 : now - DAY * d - 12 + 18].mean() for d in (1, 2, 3)]
    assert made[1, 3, 3 + 10 + 2] == pytest.approx(np.mean(same))
    np.testing.assert_allclose(slow(cgm[:, -REACH:], applied[:, -REACH:])[:, 0], made[:, -1], atol=1e-12)


def test_clock_and_log_glucose() -> None:
    np.testing.assert_allclose(clock(np.array(6.0)), [1.0, 0.0, 0.0, -1.0, 1.0], atol=1e-12)
    there = unscaled(torch.as_tensor(log_glucose(np.array([54.0, 120.0, 300.0]))))
    np.testing.assert_allclose(there, [54.0, 120.0, 300.0])


def test_pinball_is_least_at_the_quantile() -> None:
    truth = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    guesses = torch.linspace(-3.0, 0.0, 61)
    loss = torch.stack([pinball(g.expand(len(truth), 1), truth, torch.tensor([0.05])).mean() for g in guesses])
    assert float(guesses[loss.argmin()]) == pytest.approx(-1.645, abs=0.1)


def test_it_learns_what_a_dose_does() -> None:
    model = fit(_episodes(), GlucoseConfig(steps=300, batch=128, learning_rate=1e-2))
    none, much = _forecast(model, 180.0, 0.0), _forecast(model, 180.0, 8.0)
    assert none[7, 0] == pytest.approx(180.0, rel=0.1)
    assert much[7, 0] == pytest.approx(180.0 * np.exp(-0.64), rel=0.15)
    assert (np.diff(much[:, 1:], axis=1) >= 0).all()
    assert (much[:, 3] <= much[:, 0]).all()
    again = fit(_episodes(), GlucoseConfig(steps=5, batch=16))
    twice = fit(_episodes(), GlucoseConfig(steps=5, batch=16))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), twice.parameters(), strict=True))


def test_rivals_learn_it_too_and_do_not_see_later_doses() -> None:
    arx = ArxGlucose(GlucoseConfig())
    arx.learn(_episodes())
    assert _forecast(arx, 180.0, 8.0)[7, 0] == pytest.approx(180.0 * np.exp(-0.64), rel=0.15)
    np.testing.assert_allclose(_forecast(arx, 180.0, 8.0, 10), _forecast(arx, 180.0, 8.0)[:10])
    config = GlucoseConfig(steps=20, batch=16, latent=16, latent_weight=0.0)
    gru = fit(_episodes(), config, GruGlucose(config))
    np.testing.assert_allclose(_forecast(gru, 180.0, 8.0, 10), _forecast(gru, 180.0, 8.0)[:10], rtol=1e-5)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ModelError, match="open-loop"):
        fit(_episodes(2).some(np.array([], int)), GlucoseConfig())
    with pytest.raises(ModelError, match="quantiles"):
        GlucoseForecast(GlucoseConfig(quantiles=(0.7,)))
