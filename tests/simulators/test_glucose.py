"""The patient's equations against a recorded trace and each other, meals, CGM and pump."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.errors import SpecError
from simulators.glucose import DISCLAIMER, Glucose
from simulators.glucose.cgm import BretonKovatchev, Cgm, DexcomG6, Faults
from simulators.glucose.meals import Announcing, meals
from simulators.glucose.patients import Cohort, basal_U_per_h, draw
from simulators.glucose.pump import Pump
from simulators.integrators import rk4
from simulators.namespaces import CasadiNamespace, NumpyNamespace, TorchNamespace

_XP = NumpyNamespace()
_GLUCOSE = Glucose()
_TRACE = Path(__file__).parents[1] / "data" / "glucose_trace.npz"


def _run(p: np.ndarray, insulin_U_per_h: np.ndarray, eaten: np.ndarray, step_s: float) -> np.ndarray:
    """States (minutes + 1 x n_x x batch) from fasting, a tick a minute."""
    x: Any = list(_GLUCOSE.initial(np.empty(0), np.empty(0), p).T)
    states, one = [np.array(x)], np.ones(len(p))
    for u, cho in zip(insulin_U_per_h.T, eaten.T, strict=True):
        d = (cho, one, 0.0 * one)
        x = _GLUCOSE.on_sample(x, (u,), d, p.T, _XP)
        x = rk4(lambda y, u=u, d=d: _GLUCOSE.derivative(y, (u,), d, p.T, _XP), x, 1.0, round(60.0 / step_s))
        states.append(np.array(x))
    return np.array(states)


def test_recorded_trace_of_the_reference_simulator() -> None:
    """Two of our generated patients run through simglucose 0.2.11's own equations, two meals overlapping."""
    trace = np.load(_TRACE)
    p = trace["p"]
    states = _run(p, 60.0 * trace["insulin_U_per_min"], trace["carbohydrate_g_per_min"], Glucose.step_s)
    glucose = (states[:, 12] / p[:, 9]).T
    assert np.ptp(trace["glucose_mg_dL"]) > 150.0
    assert np.abs(glucose - trace["glucose_mg_dL"]).max() < 0.05


@pytest.mark.parametrize("cohort", list(Cohort))
def test_fasting_does_not_drift(cohort: Cohort) -> None:
    p = draw(cohort, "held_out", 50).p
    insulin = np.tile(basal_U_per_h(p)[:, None], (1, 48 * 60))
    states = _run(p, insulin, np.zeros_like(insulin), 60.0)
    assert np.abs(states[:, 12] / p[:, 9] - states[0, 12] / p[:, 9]).max() < 0.01


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_three_namespaces_agree(seed: int) -> None:
    """Random states inside the envelope, fed and starved, of a random patient."""
    rng = np.random.default_rng(seed)
    p = draw(list(Cohort)[seed % 3], "training", 1, seed % 97).p[0]
    x = _GLUCOSE.initial(np.empty(0), np.empty(0), p[None])[0] * rng.uniform(0.15, 2.5, 15)
    x[:3], x[6] = rng.uniform(0.0, 8e4, 3), rng.uniform(-100.0, 400.0)
    x[13], x[14] = rng.choice([0.0, 1.0]) * rng.uniform(0.0, 2e5), rng.choice([0.0, 5.0])
    u, d = rng.uniform(0.0, 90.0, 1), np.array([rng.choice([0.0, 5.0]), rng.uniform(0.5, 1.5), rng.uniform(0.0, 99.0)])
    symbols = [ca.SX.sym(name, len(v)) for name, v in zip("xudp", (x, u, d, p), strict=True)]
    for f in (
        _GLUCOSE.derivative,
        _GLUCOSE.on_sample,
        _GLUCOSE.outputs,
        lambda *a: tuple(_GLUCOSE.envelope(*a).values()),
    ):
        expected = np.array([float(v) for v in f(x, u, d, p, _XP)])
        tensors = [torch.tensor(v, dtype=torch.float64) for v in (x, u, d, p)]
        by_torch = np.array([float(v) for v in f(*tensors, TorchNamespace())])
        parts = [ca.vertsplit(s) for s in symbols]
        graph = ca.Function("f", symbols, [ca.vertcat(*f(*parts, CasadiNamespace()))])
        by_casadi = np.asarray(graph(x, u, d, p)).ravel()
        np.testing.assert_allclose(by_torch, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(by_casadi, expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_finite_where_the_stomach_saturates() -> None:
    x = torch.tensor(_GLUCOSE.x0, dtype=torch.float32, requires_grad=True)
    for stomach in (0.0, 1e3, 1e5):
        full = torch.cat([torch.tensor([stomach, stomach]), x[2:13], torch.tensor([stomach, 0.0])])
        rates = _GLUCOSE.derivative(
            full, (torch.tensor(1.0),), torch.tensor(_GLUCOSE.d0), torch.tensor(_GLUCOSE.p0), TorchNamespace()
        )
        total = sum(r for r in rates if isinstance(r, torch.Tensor))
        assert torch.isfinite(torch.autograd.grad(total, x)[0]).all()  # type: ignore[arg-type]


def test_gastric_emptying_is_the_published_curve() -> None:
    """Against the two hyperbolic tangents of Dalla Man et al. 2007."""
    p = dict(zip(_GLUCOSE.names.p, _GLUCOSE.p0, strict=True))
    dose = 6e4
    for left in np.linspace(0.0, 1.0, 21) * dose:
        x = np.array(_GLUCOSE.x0)
        x[:3], x[13] = (0.0, left, 0.0), dose
        alpha, beta = 2.5 / (dose * (1 - p["b"])), 2.5 / (dose * p["d"])
        tanh = np.tanh(alpha * (left - p["b"] * dose)) - np.tanh(beta * (left - p["d"] * dose)) + 2.0
        kgut = p["kmin"] + 0.5 * (p["kmax"] - p["kmin"]) * tanh
        rate = _GLUCOSE.derivative(x, _GLUCOSE.u0, _GLUCOSE.d0, _GLUCOSE.p0, _XP)
        assert -rate[1] == pytest.approx(kgut * left, rel=1e-12, abs=1e-9)


def test_the_onset_of_overlapping_meals() -> None:
    """A second meal starts from what the first left; grams of one meal add up while it lasts."""
    p = draw("adult", "training", 1).p
    eaten = np.zeros((1, 120))
    eaten[0, 10:20] = 5.0
    eaten[0, 60:64] = 5.0
    states = _run(p, np.full((1, 120), basal_U_per_h(p)[0]), eaten, 60.0)[:, :, 0]
    dbar, stomach = states[:, 13], states[:, 0] + states[:, 1]
    assert dbar[10] == 0.0
    np.testing.assert_allclose(dbar[11:21], 5e3 * np.arange(1, 11))
    np.testing.assert_allclose(dbar[21:61], 5e4)
    assert stomach[60] > 1e3
    np.testing.assert_allclose(dbar[61:65], stomach[60] + 5e3 * np.arange(1, 5))
    np.testing.assert_allclose(dbar[65:], dbar[64])


def test_sensitivity_and_disclaimer() -> None:
    x, u, p = list(_GLUCOSE.x0), _GLUCOSE.u0, _GLUCOSE.p0
    weak, strong = (_GLUCOSE.derivative(x, u, (0.0, s, 0.0), p, _XP)[3] for s in (0.5, 1.5))
    assert strong < 0.0 < weak
    assert "not for dosing anyone" in DISCLAIMER
    assert Glucose.disclaimer == DISCLAIMER
    low = list(x)
    low[3] = 19.0 * p[9]
    margins = _GLUCOSE.envelope(low, u, (0.0, 1.0, 0.0), p, _XP)
    assert [reason for reason, margin in margins.items() if margin < 0] == ["glucose below 20 mg/dL"]


def test_meals_are_eaten_at_five_grams_a_minute() -> None:
    m = meals("S1", 1, 2)
    intake = m.intake()
    np.testing.assert_allclose(intake.sum(1), 220.0)
    assert intake.max() == 5.0
    np.testing.assert_array_equal(np.flatnonzero(intake[0])[[0, 8, 9]], [420, 428, 720])
    every_fifth = m.announcement()[:, ::5]
    np.testing.assert_allclose(every_fifth.sum(1), 220.0)


def test_random_meals_repeat_and_options_share_their_luck() -> None:
    a, b = meals("S3", 3, 40, seed=5), meals("S3", 3, 40, seed=5, announcing=Announcing(missed=1 / 3, counting_sd=0.3))
    np.testing.assert_array_equal(a.served, b.served)
    np.testing.assert_array_equal(a.served[:7], meals("S3", 3, 7, seed=5).served)
    assert (b.announced > 0).sum() / (a.announced > 0).sum() == pytest.approx(2 / 3, abs=0.06)
    assert not np.isin(b.announced[b.announced > 0], a.announced).all()
    daily = a.served.sum(1).mean() / 3
    assert daily == pytest.approx(0.95 * 195 + 0.3 * 30, rel=0.05)
    late = meals("S3", 3, 40, seed=5, announcing=Announcing(late_min=15))
    np.testing.assert_array_equal(late.announced[:, 15:], a.announced[:, :-15])
    skipped = meals("S3", 3, 40, seed=5, announcing=Announcing(not_eaten=0.5))
    np.testing.assert_array_equal(skipped.announced, a.announced)
    assert 0.3 < skipped.served.sum() / a.served.sum() < 0.7
    assert meals("S2", 1, 1, announcing=Announcing(told=False)).announced.sum() == 0.0


def test_meals_as_conditions() -> None:
    p = draw("child", "training", 2).p
    conditions = meals("S2", 1, 2).conditions(p, sensitivity=np.array([0.5, 1.5]))
    conditions.start(_GLUCOSE, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(conditions.d, [[0.0, 0.5, 0.0], [0.0, 1.5, 0.0]])
    conditions.advance(8 * 3600.0)
    np.testing.assert_array_equal(conditions.d[:, [0, 2]], [[5.0, 40.0]] * 2)
    conditions.advance(86400.0)
    np.testing.assert_array_equal(conditions.d[:, [0, 2]], np.zeros((2, 2)))
    np.testing.assert_array_equal(conditions.p, p)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: meals("S9", 1, 1), "S9"),
        (lambda: meals("S1", 0, 1), "at least one"),
        (lambda: Announcing(missed=1.5), "missed"),
        (lambda: Faults(dropouts_per_day=-1.0), "dropouts_per_day"),
        (lambda: meals("S1", 1, 2).conditions(np.ones((3, 32))), "3 patients"),
    ],
)
def test_bad_input(call: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        call()


def _errors(cgm: Cgm, batch: int, samples: int, every_min: float) -> np.ndarray:
    """Readings minus truth (samples x batch)."""
    cgm.start(batch, np.random.default_rng(1))
    rows = []
    for k in range(samples):
        cgm.see(60.0 * every_min * k, np.full(batch, 200.0))
        rows.append(cgm.read() - 200.0)
    return np.array(rows)


def test_dexcom_error_is_the_published_process() -> None:
    """Autocovariances 5 and 10 min apart, of the sum of two AR(2) processes, by their Yule-Walker equations."""
    error = _errors(DexcomG6(), 2000, 60, 5.0)
    expected = np.zeros(11)
    for (phi1, phi2), variance in zip(DexcomG6.coefficients, DexcomG6.innovation_variance, strict=True):
        rho = [1.0, phi1 / (1 - phi2)]
        for _ in range(9):
            rho.append(phi1 * rho[-1] + phi2 * rho[-2])
        expected += np.array(rho) * variance / (1 - phi1 * rho[1] - phi2 * rho[2])
    assert DexcomG6.published_sigma == pytest.approx(np.sqrt(expected[0]), rel=1e-3)
    for lag in (0, 1, 2):
        assert np.mean(error[lag:] * error[: len(error) - lag]) == pytest.approx(expected[5 * lag], abs=0.9)
    assert error.mean() == pytest.approx(0.0, abs=0.2)


def test_breton_kovatchev_error_is_the_published_process() -> None:
    error = _errors(BretonKovatchev(), 4000, 60, 15.0)
    e = 1.6898 * np.arcsinh((error + 5.47) / 15.9574) - 0.5444
    assert np.mean(e[1:] * e[:-1]) / np.mean(e * e) == pytest.approx(0.7, abs=0.01)
    assert e.var() == pytest.approx(0.49 / 0.51, abs=0.03)
    assert error.std() == pytest.approx(BretonKovatchev.published_sigma, rel=0.03)
    between = _errors(BretonKovatchev(), 4000, 60, 5.0)
    assert np.abs(np.diff(between, axis=0)).mean() < 0.6 * np.abs(np.diff(error, axis=0)).mean()


@pytest.mark.parametrize("kind", [DexcomG6, BretonKovatchev])
def test_cgm_samples_holds_and_clips(kind: type[Cgm]) -> None:
    cgm = kind(0.0)
    cgm.start(2, np.random.default_rng(0))
    shown = []
    for minute in range(11):
        cgm.see(60.0 * minute, np.array([100.0 + minute, 1000.0]))
        shown.append(cgm.read())
    np.testing.assert_array_equal(np.array(shown)[:, 0], [100.0] * 5 + [105.0] * 5 + [110.0])
    assert (np.array(shown)[:, 1] == kind.high).all()


def test_cgm_faults() -> None:
    faults = Faults(dropouts_per_day=8.0, compressions_per_day=8.0, stuck_per_day=8.0)
    cgm = DexcomG6(0.0, faults)
    cgm.start(50, np.random.default_rng(3))
    rows = []
    for k in range(288):
        cgm.see(300.0 * k, np.full(50, 100.0 + k % 7))
        rows.append(cgm.read())
    shown = np.array(rows)
    truth = (100.0 + np.arange(288) % 7)[:, None]
    assert 0.08 < np.isnan(shown).mean() < 0.25  # 8 x 30 min of a day, less overlaps
    assert np.nanmin(shown - truth) < -20.0
    assert (np.diff(shown, axis=0) == 0.0).mean() > 0.05
    never = _errors(DexcomG6(0.0, Faults()), 5, 20, 5.0)
    np.testing.assert_array_equal(never, 0.0)


def test_the_sensor_of_the_plant() -> None:
    assert isinstance(Glucose().sensor("CGM", 8.0), DexcomG6)
    assert isinstance(Glucose(BretonKovatchev).sensor("CGM", 8.0), BretonKovatchev)
    assert not isinstance(Glucose().sensor("IOB", 0.0), Cgm)


def test_pump_keeps_its_limits_and_loses_nothing() -> None:
    pump = Pump()
    pump.start(3)
    basal, bolus = np.array([0.73, 40.0, np.nan]), np.array([10.0, 99.0, 0.0])
    rates = np.array([pump.deliver(basal, bolus * (k == 0), 300.0) for k in range(288)])
    assert rates.max() <= 90.0 + 1e-9
    steps = rates / 12.0 / 0.05
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    total = rates.sum(0) / 12.0
    assert total[0] == pytest.approx(24 * 0.73 + 10.0, abs=0.05)
    assert total[1] == pytest.approx(24 * 15.0 + 25.0, abs=0.05)
    assert total[2] == 0.0
