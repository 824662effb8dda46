"""Surprise: what normal data may cost in false alarms, which tag is named, and what bad data is answered with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from models.surprise import Surprise, SurpriseConfig, conformal_threshold, upper_limit
from models.whitening import Whitening
from plant.errors import ModelError

TAGS = 6


def plant(seed: int, samples: int = 600, noise: float = 1.0) -> np.ndarray:
    """A stable linear plant with slow and fast modes, measured through a mixture, in units of very different size."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((4, TAGS))
    state, rows = np.zeros(4), []
    for _ in range(samples):
        state = np.array([0.95, 0.8, 0.5, 0.0]) * state + rng.standard_normal(4)
        rows.append(state @ mix + 0.5 * noise * rng.standard_normal(TAGS))
    return np.array(rows) * np.logspace(-2, 3, TAGS) + 50.0


@pytest.fixture(scope="module")
def normal() -> list[np.ndarray]:
    return [plant(s) for s in range(6)]


@pytest.fixture(scope="module")
def surprise(normal: list[np.ndarray]) -> Surprise:
    return Surprise.fit(normal).calibrated([plant(s) for s in range(20, 26)], 0.01)


def test_normal_runs_alarm_about_as_often_as_promised(surprise: Surprise) -> None:
    fresh = [plant(s) for s in range(40, 60)]
    residual = np.mean([np.mean(surprise.residual(r)[20:] > surprise.residual_threshold) for r in fresh])
    density = np.mean([np.mean(surprise.density(r)[20:] > surprise.density_threshold) for r in fresh])
    assert 0.002 < residual < 0.02
    assert 0.002 < density < 0.02


@pytest.mark.parametrize("tag", range(TAGS))
@pytest.mark.parametrize("kind", ["bias", "noise"])
def test_a_faulty_sensor_is_noticed_and_named(
    surprise: Surprise, normal: list[np.ndarray], tag: int, kind: str
) -> None:
    run = plant(70)
    size = 2.0 * np.std(normal[0][:, tag])
    shape = np.ones(300) if kind == "bias" else np.random.default_rng(1).standard_normal(300)
    run[300:, tag] += size * shape
    assert (surprise.residual(run)[320:] > surprise.residual_threshold).mean() > 0.9
    share = surprise.attribution(run)[320:].mean(0)
    assert share.argmax() == tag
    np.testing.assert_allclose(surprise.attribution(run)[400:].sum(1), 1.0, atol=1e-6)


def test_more_process_noise_is_a_residual_but_a_far_state_that_was_reached_slowly_is_density(
    surprise: Surprise,
) -> None:
    noisy = plant(71, noise=3.0)
    assert (surprise.residual(noisy)[100:] > surprise.residual_threshold).mean() > 0.9
    far = plant(72)
    spread = np.std(far, axis=0)
    far[100:] += 6 * spread * np.array([1, -1, 1, -1, 1, -1])
    assert (surprise.density(far)[100:] > surprise.density_threshold).mean() > 0.9
    assert (surprise.density(far)[20:100] > surprise.density_threshold).mean() < 0.1


def test_slow_tags_are_missing_in_between_and_still_watched() -> None:
    def slow(seed: int) -> np.ndarray:
        run = plant(seed)
        run[np.arange(len(run)) % 5 != 0, 0] = np.nan
        return run

    surprise = Surprise.fit([slow(s) for s in range(6)]).calibrated([slow(s) for s in range(20, 26)], 0.01)
    assert np.mean([np.mean(surprise.residual(slow(s)) > surprise.residual_threshold) for s in range(40, 46)]) < 0.03
    run = slow(70)
    run[300:, 0] += 4 * np.nanstd(run[:, 0])
    assert (surprise.residual(run)[340:] > surprise.residual_threshold).mean() > 0.9
    assert surprise.attribution(run)[340:].mean(0).argmax() == 0


def test_missing_values_add_nothing(surprise: Surprise) -> None:
    run = plant(73)
    run[200:204] = np.nan
    run[:50, 2] = np.nan
    innovations = surprise.predictor.innovations(run)
    assert np.isfinite(surprise.residual(run)).all()
    assert (innovations[200:204] == 0).all()
    assert (innovations[:50, 2] == 0).all()


def test_whitening_uncorrelates_full_rank_and_survives_a_copied_and_a_constant_tag() -> None:
    rows = plant(0, 5000)
    white = Whitening.fit(rows, shrinkage=1e-9)(rows)
    np.testing.assert_allclose(np.cov(white.T), np.eye(TAGS), atol=0.01)
    odd = np.concatenate([rows, rows[:, :1], np.full((len(rows), 1), 7.0)], axis=1)
    assert np.isfinite(Whitening.fit(odd)(odd)).all()


def test_too_little_data_is_refused_in_words(normal: list[np.ndarray]) -> None:
    with pytest.raises(ModelError, match="1 normal run"):
        Surprise.fit(normal[:1])
    with pytest.raises(ModelError, match=r"regressors.*Record more"):
        Surprise.fit([r[:8] for r in normal[:2]])
    with pytest.raises(ModelError, match="tag 3 was never measured"):
        Surprise.fit([np.where(np.arange(TAGS) == 3, np.nan, r) for r in normal])
    with pytest.raises(ModelError, match="no normal run is longer than 700"):
        Surprise.fit(normal, SurpriseConfig(settle=700))
    with pytest.raises(ModelError, match="Hold out 1000"):
        conformal_threshold(np.arange(100.0), 0.001)


def test_the_conformal_threshold_holds_on_exchangeable_scores() -> None:
    rng = np.random.default_rng(0)
    passed = [rng.standard_normal() > conformal_threshold(rng.standard_normal(99), 0.05) for _ in range(4000)]
    assert np.mean(passed) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("samples", [60, 300, 2000])
def test_an_upper_limit_keeps_its_promise_however_few_scores_it_comes_from(samples: int) -> None:
    """Squares of normal errors that remember: nine in ten limits are passed no more often than promised, and not by far fewer."""
    rng, rate, kept, limits = np.random.default_rng(3), 1e-3, 0, []
    walk = lfilter([np.sqrt(1 - 0.7**2)], [1, -0.7], rng.standard_normal(200_000))
    quantile = float(np.quantile(walk**2, 1 - rate))
    for _ in range(60):
        errors = lfilter([np.sqrt(1 - 0.7**2)], [1, -0.7], rng.standard_normal(samples + 50))[50:]
        limits.append(upper_limit([errors**2], rate))
        kept += limits[-1] >= quantile
    assert kept >= 0.85 * 60
    assert np.median(limits) < {60: 8.0, 300: 3.0, 2000: 1.6}[samples] * quantile


def test_with_much_data_an_upper_limit_is_the_conformal_one() -> None:
    scores = np.random.default_rng(4).standard_normal(400_000) ** 2
    assert upper_limit([scores], 1e-3) == pytest.approx(conformal_threshold(scores, 1e-3), rel=0.1)
    with pytest.raises(ModelError, match="no normal score"):
        upper_limit([], 1e-3)
