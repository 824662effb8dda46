"""The van de Vusse reactor: do-mpc's published steady state, one definition for three namespaces, the default step's error."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from plant.regulatory import RegulatoryLayer
from plant.spec import load_spec
from simulators.namespaces import CasadiNamespace, NumpyNamespace, TorchNamespace
from simulators.plant import SimulatedPlant
from simulators.stepping import stepper_of
from simulators.vandevusse import VanDeVusse

REACTOR, XP = VanDeVusse(), NumpyNamespace()
STATES = st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 2.0), st.floats(50.0, 160.0), st.floats(50.0, 160.0))
MOVES = st.tuples(st.floats(5.0, 100.0), st.floats(-8500.0, 0.0))
FEED = st.tuples(st.floats(1.0, 8.0), st.floats(100.0, 150.0))
KINETICS = st.tuples(st.floats(0.9, 1.1), st.floats(0.8, 1.2))


def _symbolic() -> ca.Function:
    symbols = [ca.SX.sym(k, n) for k, n in (("x", 4), ("u", 2), ("d", 2), ("p", 2))]
    parts = [ca.vertsplit(s) for s in symbols]
    return ca.Function("rates", symbols, [ca.vertcat(*REACTOR.derivative(*parts, CasadiNamespace()))])


RATES = _symbolic()


@given(STATES, MOVES, FEED, KINETICS)
@settings(max_examples=80, deadline=None)
def test_namespaces_agree(x: tuple, u: tuple, d: tuple, p: tuple) -> None:
    by_numpy = np.array(REACTOR.derivative(x, u, d, p, XP))
    tensors = [torch.tensor(v, dtype=torch.float64) for v in (x, u, d, p)]
    by_torch = torch.stack([*REACTOR.derivative(*tensors, TorchNamespace())]).numpy()
    np.testing.assert_allclose(by_torch, by_numpy, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.array(RATES(x, u, d, p)).ravel(), by_numpy, rtol=1e-9, atol=1e-9)


def test_the_published_steady_state() -> None:
    """F = 18.83, Q = -4495.7 rests at Ca 1.234, Cb .900, T_R 134.15, T_K 128.96."""
    np.testing.assert_allclose(REACTOR.x0[:2], [1.234, 0.900], atol=5e-4)
    np.testing.assert_allclose(REACTOR.x0[2:], [134.15, 128.96], atol=5e-3)
    rates = REACTOR.derivative(REACTOR.x0, REACTOR.u0, REACTOR.d0, REACTOR.p0, XP)
    np.testing.assert_allclose(rates, 0.0, atol=1e-3)
    plant = SimulatedPlant(load_spec("vandevusse"), noise=0.0, x0=np.array([[0.8, 0.5, 134.14, 130.0]]))
    for _ in range(200):
        plant.advance(np.array([REACTOR.u0]), 18.0)
    np.testing.assert_allclose(plant.x[0], REACTOR.x0, rtol=1e-5)


def test_the_yield_turns_over() -> None:
    """Beyond some flow more feed gives less product: what makes this plant hard."""
    spec, flows = load_spec("vandevusse"), np.array([5.0, 20.0, 60.0, 100.0])
    plant = SimulatedPlant(spec, batch=4, noise=0.0)
    moves = np.column_stack([flows, np.full(4, -4500.0)])
    for _ in range(300):
        plant.advance(moves, 18.0)
    product = plant.true_outputs()["Cb"]
    assert product[0] < product[1] < product[2] > product[3]


def test_the_step_keeps_six_figures() -> None:
    """Against SciPy at 1e-12, moves anywhere inside their limits for five samples at a time."""
    rng = np.random.default_rng(4)
    n = 6
    x = np.tile([0.8, 0.5, 134.14, 130.0], (n, 1))
    d, p = np.tile(REACTOR.d0, (n, 1)), np.column_stack([rng.uniform(0.95, 1.05, n), rng.uniform(0.9, 1.1, n)])
    truth, step = x.copy(), stepper_of(VanDeVusse)
    for _ in range(5):
        u = np.column_stack([rng.uniform(5.0, 100.0, n), rng.uniform(-8500.0, 0.0, n)])
        x, ended = step.advance(x, u, d, p, 90.0)
        assert not ended.any()
        for m in range(n):
            held = (u[m], d[m], p[m], XP)
            truth[m] = solve_ivp(
                lambda _, y, held=held: REACTOR.derivative(y, *held), (0.0, 0.025), truth[m],
                method="DOP853", rtol=1e-12, atol=1e-13,
            ).y[:, -1]  # fmt: skip
        np.testing.assert_allclose(x, truth, rtol=1e-6)


def test_a_member_outside_the_envelope_ends_alone() -> None:
    plant = SimulatedPlant(load_spec("vandevusse"), batch=2, noise=0.0)
    plant.x[1] = [1.2, 0.9, 299.0, 299.9]
    plant.advance(plant.moves, 18.0)
    assert plant.ended[0] == 0
    assert plant.reason(1)
    assert np.isnan(plant.measure()["T_R"][1])
    assert np.isfinite(plant.measure()["T_R"][0])


@pytest.mark.parametrize(("feed_degC", "alpha"), [(130.0, 1.0), (127.0, 1.02), (132.0, 0.99)])
def test_the_local_layer_holds_the_temperature_limit(feed_degC: float, alpha: float) -> None:
    """With more flow, another feed and other kinetics: the loop settles, and no more than 140 degC."""
    spec = load_spec("vandevusse")
    plant = SimulatedPlant(spec, seed=3, moves=np.array([[20.0, -4495.7]]))
    plant.d[:, 1], plant.p[:, 0] = feed_degC, alpha
    layer = RegulatoryLayer(spec, outputs={"F": 20.0})
    seen = []
    for k in range(1800):
        moves = layer.scan(plant.measure(), spec.scan_time_s, k * spec.scan_time_s)
        plant.advance(moves, spec.scan_time_s)
        seen.append(plant.x[0, 2])
    assert max(seen) <= spec.guardrails[0].limit
    assert np.abs(np.array(seen[-300:]) - spec.regulatory.loops[0].set_point).max() < 0.5
    assert not layer.interlock.any()
