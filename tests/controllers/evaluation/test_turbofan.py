"""The acceleration's score, against runs whose score is known."""

from __future__ import annotations

import numpy as np

from controllers.baselines.fuel_ratio import FuelRatioRamp
from controllers.baselines.min_max import MinMaxController
from controllers.evaluation.closed_loop import Trajectories
from controllers.evaluation.turbofan import accelerate, at_thrust, scored, worn_core
from plant.spec import load_spec

SPEC = load_spec("turbofan")
FAST = SPEC.model_copy(update={"sample_time_s": 0.02, "scan_time_s": 0.02})


def test_a_ramp_goes_up_from_when_it_is_told_and_burns_a_worn_turbine() -> None:
    line = np.array([at_thrust(share) for share in (0.15, 0.3, 0.5, 0.7, 0.9, 1.0)])
    score = accelerate(
        SPEC, FuelRatioRamp(FAST, 1.3, line), worn_core(np.array([1.0, 0.98])), seed=3, noise=0.0, sample_s=0.02
    )
    assert 3.2 < score.t95_s[0] < 3.8
    assert score.t95_s[1] > score.t95_s[0]
    assert score.t45_R[1] > 2200.0
    assert score.broken.tolist() == [False, True]
    assert np.allclose(score.thrust[0], 50013.0, rtol=1e-3)


def test_the_min_max_controller_keeps_every_limit() -> None:
    score = accelerate(SPEC, MinMaxController(FAST), worn_core(np.array([1.0, 0.98])), seed=4, sample_s=0.02)
    assert not score.broken.any()
    assert (score.t95_s < 3.5).all()
    assert (score.surge > 10.0).all()


def _runs(thrust: list[float], hot: list[float]) -> Trajectories:
    n = len(hot)
    safe = {g.name: np.full((1, n), g.limit - g.sign * 1.0) for g in SPEC.guardrails}
    safe["continuous_temperature"] = np.array([hot])
    true = {"FN": np.array([thrust]), "Wf_true": np.ones((1, n + 1))}
    none = np.zeros((1, n, 1))
    return Trajectories(true, safe, none, none, none, none, none, np.zeros(n), [], none)


def test_time_is_read_between_samples_and_a_while_above_the_continuous_limit_is_no_violation() -> None:
    n, dt = 500, SPEC.sample_time_s
    thrust = [10e3] * 101 + list(np.linspace(10e3, 50013.0, 101)[1:]) + [50013.0] * 300
    ended = np.zeros(1, bool)
    hot = np.full(n, 2100.0)
    hot[100:470] = 2160.0
    score = scored(SPEC, _runs(thrust, hot.tolist()), 100, ended)
    assert np.isclose(score.t95_s[0], dt * 100 * (0.95 * 50013.0 - 10e3) / 40013.0, rtol=1e-6)
    assert np.isclose(score.hot_s[0], 370 * dt)
    assert not score.broken[0], "29.6 s"
    hot[470:480] = 2160.0
    assert scored(SPEC, _runs(thrust, hot.tolist()), 100, ended).broken[0], "30.4 s"
    assert np.isinf(scored(SPEC, _runs([10e3] * (n + 1), hot.tolist()), 100, ended).t95_s[0])
