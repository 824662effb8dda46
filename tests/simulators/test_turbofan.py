"""The engine against its published deck, its transients against a recorded table, and three namespaces against each other."""

from __future__ import annotations

from functools import cache
from typing import Any

import casadi as ca
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.errors import SpecError
from simulators.contract import Simulator
from simulators.namespaces import CasadiNamespace, NumpyNamespace, TorchNamespace
from simulators.steady import steady_moves, steady_state
from simulators.stepping import stepper_of
from simulators.turbofan import HEALTH, Engine, Turbofan

_XP, _ENGINE, _TURBOFAN = NumpyNamespace(), Engine(), Turbofan()
_HOT, _CLEAN = np.array([Engine.d0]), np.array([Engine.p0])
_TAKE_OFF_LBF = 50013.0

# NASA T-MATS' public JT9D deck: fuel lbm/s, altitude ft, Mach, dT R; then thrust, flow, T4, T45, T3, P3, N1, N2, BPR.
DECK = [
    ((4.997, 0, 0.0, 27.0), (50013, 1539, 2730, 2142, 1398, 297.1, 3750, 8000, 5.28)),
    ((2.73, 0, 0.0, 27.0), (30008, 1212, 2307, 1790, 1236, 194.2, 3051, 7488, 5.92)),
    ((1.78, 0, 0.0, 27.0), (20005, 997, 2040, 1572, 1131, 144.0, 2569, 7154, 6.20)),
    ((0.93, 0, 0.0, 27.0), (10003, 711, 1682, 1285, 994, 93.9, 1901, 6702, 6.14)),
    ((1.93, 35000, 0.85, 0.0), (11037, 675, 2391, 1868, 1216, 126.2, 3678, 7413, 5.04)),
]
_SHOWN = ("FN", "W2", "T4", "T45_true", "T3_true", "P3", "N1_true", "N2_true", "BPR")


def _outputs(simulator: Simulator, x: Any, u: Any, d: Any, p: Any) -> dict[str, np.ndarray]:
    """Outputs by name (batch,), from rows (batch x n each)."""
    return dict(zip(simulator.names.y, simulator.outputs(x.T, u.T, d.T, p.T, _XP), strict=True))


def test_deck_points() -> None:
    at = np.array([row[0] for row in DECK])
    u, d, p = at[:, :1], at[:, 1:], np.tile(_CLEAN, (len(at), 1))
    y = _outputs(_ENGINE, _ENGINE.initial(u, d, p), u, d, p)
    got = np.stack([y[name] for name in _SHOWN], 1)
    # Fuel is given to three figures, and the thrust of the smallest with it.
    limits = [0.025, 0.01, 0.004, 0.004, 0.004, 0.008, 0.02, 0.005, 0.012]
    error = np.abs(got / np.array([row[1] for row in DECK]) - 1.0)
    assert (error < limits).all(), error.max(0)


def test_usual_points_rest() -> None:
    for simulator in (_ENGINE, _TURBOFAN):
        x, u, p = (np.array([v]) for v in (simulator.x0, simulator.u0, simulator.p0))
        np.testing.assert_allclose(simulator.initial(u, _HOT, p), x, rtol=2e-6)
        assert min(simulator.envelope(x[0], u[0], _HOT[0], p[0], _XP).values()) > 0.0


@cache
def _schedule() -> tuple[np.ndarray, np.ndarray]:
    """Fuel over P3 of the steady engine on a standard day, by P3."""
    fuel = np.linspace(0.55, 5.4, 60)[:, None]
    x = _ENGINE.initial(fuel, np.zeros((60, 3)), np.tile(_CLEAN, (60, 1)))
    return x[:, 4], fuel[:, 0] / x[:, 4]


# k, seconds to 95 % of take-off thrust, highest T45 R, least surge margin of the high-pressure compressor %.
RAMPS = [(1.2, 4.80, 2179.0, 14.7), (1.4, 2.46, 2229.0, 11.4)]


def test_fuel_ratio_ramp() -> None:
    """From 15 % of take-off thrust on a hot day, fuel at k times the steady fuel-pressure ratio until take-off's."""
    k = np.array([row[0] for row in RAMPS])
    stepper, step_s = stepper_of(Engine), Engine.step_s
    d, p = np.tile(_HOT, (2, 1)), np.tile(_CLEAN, (2, 1))
    ends, fuel = steady_moves(
        _ENGINE, {"FN": np.array([0.15, 1.0]) * _TAKE_OFF_LBF}, np.array([[0.75], [5.0]]), d, p,
        _ENGINE.initial(np.array([[0.75], [5.0]]), d, p),
    )  # fmt: skip
    x, history = np.tile(ends[0], (2, 1)), []
    for _ in range(2000):
        u = np.minimum(fuel[1], k * np.interp(x[:, 4], *_schedule()) * x[:, 4])[:, None]
        x, ended = stepper.advance(x, u, d, p, step_s)
        assert not ended.any()
        history.append(x)
    states = np.concatenate(history)
    many = [np.tile(v[:1], (len(states), 1)) for v in (fuel, d, p)]
    y = {name: v.reshape(-1, 2) for name, v in _outputs(_ENGINE, states, *many).items()}
    t95 = ((y["FN"] >= 0.95 * _TAKE_OFF_LBF).argmax(0) + 1) * step_s
    got = np.stack([t95, y["T45_true"].max(0), y["SM_HPC"].min(0)], 1)
    np.testing.assert_allclose(got, np.array(RAMPS)[:, 1:], rtol=0.02)


def test_degradation_has_the_published_signs() -> None:
    """A high-pressure compressor that lost 2 % of efficiency and flow, at the same fan speed: NASA C-MAPSS FD001."""
    u = np.array([[4.997]])
    x = _ENGINE.initial(u, _HOT, _CLEAN)
    worn = _CLEAN.copy()
    worn[0, [HEALTH.index("hpc_eff"), HEALTH.index("hpc_flow")]] = 0.98
    old_x, old_u = steady_moves(_ENGINE, {"N1_true": x[:, 0]}, u, _HOT, worn, x)
    new, old = _outputs(_ENGINE, x, u, _HOT, _CLEAN), _outputs(_ENGINE, old_x, old_u, _HOT, worn)
    change = {name: 100.0 * float(old[name][0] / new[name][0] - 1.0) for name in new}
    expected = {"T3_true": 0.91, "T5_true": 1.76, "P3": -0.18, "N2_true": 0.23, "BPR": 1.03, "W31": -0.92}
    for name, value in expected.items():
        assert change[name] == pytest.approx(value, abs=0.05), name
    assert change["N1_true"] == pytest.approx(0.0, abs=1e-6)


def test_command_arrives_after_40_ms() -> None:
    u, d, p = np.array([[3.5]]), _HOT, _CLEAN
    x = _TURBOFAN.initial(np.array([[3.0]]), d, p)
    stepper, fuel = stepper_of(Turbofan), []
    for _ in range(40):
        x, ended = stepper.advance(x, u, d, p, 0.02)
        fuel.append(float(x[0, 10]))
    assert not ended.any()
    assert fuel[1] == pytest.approx(3.0, abs=1e-6), "nothing moves for 40 ms"
    assert fuel[2] == pytest.approx(3.5 - 0.5 * np.exp(-0.2), rel=1e-4), "then a lag of 0.1 s"
    assert fuel[-1] == pytest.approx(3.5, abs=2e-3)


def test_valve_has_a_slew_limit_and_stops() -> None:
    x = np.array(Turbofan.x0)
    for command, rate in ((2.74, 0.1), (6.0, 5.4), (0.0, -5.4)):
        x[-1] = command
        got = _TURBOFAN.derivative(x, Turbofan.u0, Turbofan.d0, Turbofan.p0, _XP)[10]
        assert got == pytest.approx(rate)
    for asked, held in ((99.0, 6.0), (-1.0, 0.0), (3.0, 3.0)):
        jumped = _TURBOFAN.on_sample(tuple(x), (asked,), Turbofan.d0, Turbofan.p0, _XP)
        np.testing.assert_array_equal(jumped[-3:], [held, x[-3], x[-2]])


def test_sensors_lag() -> None:
    x = list(Turbofan.x0)
    x[0] += 100.0
    rates = _TURBOFAN.derivative(x, Turbofan.u0, Turbofan.d0, Turbofan.p0, _XP)
    assert rates[11] == pytest.approx(100.0 / 0.02)
    y = dict(zip(Turbofan.names.y, _TURBOFAN.outputs(x, (2.73,), Turbofan.d0, Turbofan.p0, _XP), strict=True))
    assert y["N1_true"] - y["N1"] == pytest.approx(100.0)
    assert y["PS3"] == pytest.approx(0.9412 * y["P3"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("N1", 0.0, "low-pressure shaft below its maps"),
        ("N2", 0.0, "high-pressure shaft below its maps"),
        ("Wf", 0.0, "flame-out"),
        ("P3", -1.0, "reverse flow"),
        ("Rh", 0.5, "a compressor past its surge line"),
        ("Rl", 2.9, "a compressor choked beyond its map"),
    ],
)
def test_what_leaves_the_envelope_is_named_and_finite(name: str, value: float, reason: str) -> None:
    x = list(Engine.x0)
    x[Engine.names.x.index(name)] = value
    margins = _ENGINE.envelope(x, Engine.u0, Engine.d0, Engine.p0, _XP)
    assert margins[reason] < 0.0
    rates = _ENGINE.derivative(x, Engine.u0, Engine.d0, Engine.p0, _XP)
    assert np.isfinite(np.array(rates, float)).all()


def test_starved_engine_ends_and_leaves_the_others() -> None:
    """Below the idle fuel the shafts run down to where the maps end."""
    u, d, p = np.array([[2.73], [0.25]]), np.tile(_HOT, (2, 1)), np.tile(_CLEAN, (2, 1))
    x = np.tile(Turbofan.x0, (2, 1))
    stepper = stepper_of(Turbofan)
    x, ended = stepper.advance(x, u, d, p, 10.0)
    assert ended[0] == 0
    assert stepper.reasons[ended[1] - 1] in ("low-pressure shaft below its maps", "flame-out")
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x[0], Turbofan.x0, rtol=1e-5)


def test_no_steady_state_is_one_clear_error() -> None:
    with pytest.raises(SpecError, match="no steady state for 1 of 2 plants, first for FUEL"):
        steady_state(
            _ENGINE, np.array([[2.73], [0.2]]), np.tile(_HOT, (2, 1)), np.tile(_CLEAN, (2, 1)),
            np.tile(Engine.x0, (2, 1)),
        )  # fmt: skip
    with pytest.raises(SpecError, match="Give 1 of its outputs"):
        steady_moves(_ENGINE, {"thrust": np.ones(1)}, np.ones((1, 1)), _HOT, _CLEAN, np.array([Engine.x0]))


def test_rest_of_worn_engines_at_altitude() -> None:
    rng = np.random.default_rng(3)
    n = 40
    d = np.stack([rng.uniform(0, 35000, n), rng.uniform(0.0, 0.85, n), rng.uniform(-30, 30, n)], 1)
    p = rng.uniform(0.95, 1.0, (n, len(HEALTH)))
    u = _TURBOFAN.usual_moves(d, p) * rng.uniform(0.7, 1.5, (n, 1))
    x = _TURBOFAN.initial(u, d, p)
    rates = np.stack([np.broadcast_to(r, n) for r in _TURBOFAN.derivative(x.T, u.T, d.T, p.T, _XP)])
    assert np.abs(rates).max() < 1e-2  # rpm/s, psi/s, ...
    assert min(v.min() for v in _TURBOFAN.envelope(x.T, u.T, d.T, p.T, _XP).values()) > 0.0


def _random_point(seed: int) -> list[np.ndarray]:
    """A state inside the envelope, away from rest, with its moves, flight and health."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(0.7, 5.2, 1)
    x = np.array([np.interp(u[0], _states()[0], column) for column in _states()[1].T])
    x *= rng.uniform(0.97, 1.03, len(x))
    return [x, u, np.array([rng.uniform(0, 3000), rng.uniform(0, 0.3), rng.uniform(-20, 20)]),
            rng.uniform(0.95, 1.02, len(HEALTH))]  # fmt: skip


@cache
def _states() -> tuple[np.ndarray, np.ndarray]:
    fuel = np.linspace(0.65, 5.3, 12)[:, None]
    return fuel[:, 0], _TURBOFAN.initial(fuel, np.tile(_HOT, (12, 1)), np.tile(_CLEAN, (12, 1)))


def _everything(x: Any, u: Any, d: Any, p: Any, xp: Any) -> list[Any]:
    held = (u, d, p, xp)
    margins = _TURBOFAN.envelope(x, *held)
    parts = _TURBOFAN.derivative(x, *held), _TURBOFAN.outputs(x, *held), _TURBOFAN.on_sample(x, *held), margins.values()
    return [v for part in parts for v in part]


@cache
def _graph() -> ca.Function:
    symbols = [ca.SX.sym(k, len(getattr(Turbofan.names, k))) for k in "xudp"]
    return ca.Function("f", symbols, [ca.vertcat(*_everything(*(ca.vertsplit(s) for s in symbols), CasadiNamespace()))])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_three_namespaces_agree(seed: int) -> None:
    point = _random_point(seed)
    expected = np.array(_everything(*point, _XP), float)
    assert np.isfinite(expected).all()
    by_torch = np.array([float(v) for v in _everything(*map(torch.tensor, point), TorchNamespace())])
    # A rate is a small difference of large flows: its rounding is that of the flows.
    scale = np.maximum(np.abs(expected), 1e3)
    assert (np.abs(by_torch - expected) / scale).max() < 1e-9
    assert (np.abs(np.asarray(_graph()(*point)).ravel() - expected) / scale).max() < 1e-9


def test_symbolic_mx_is_the_same() -> None:
    symbols = [ca.MX.sym(k, len(getattr(Turbofan.names, k))) for k in "xudp"]
    parts = [ca.vertsplit(s) for s in symbols]
    rates = ca.vertcat(*_TURBOFAN.derivative(*parts, CasadiNamespace()))
    point = _random_point(1)
    got = np.asarray(ca.Function("f", symbols, [rates])(*point)).ravel()
    np.testing.assert_allclose(got, np.array(_TURBOFAN.derivative(*point, _XP), float), rtol=1e-9, atol=1e-6)


def test_single_precision_and_gradients_are_finite() -> None:
    points = [_random_point(seed) for seed in range(16)]
    x, u, d, p = (torch.tensor(np.array(v), dtype=torch.float32, requires_grad=True) for v in zip(*points, strict=True))
    rates = _TURBOFAN.derivative(x.unbind(-1), u.unbind(-1), d.unbind(-1), p.unbind(-1), TorchNamespace())
    moving = torch.stack([r for r in rates if isinstance(r, torch.Tensor)])
    assert moving.dtype == torch.float32
    double = np.array(
        [_TURBOFAN.derivative(*(np.asarray(v, np.float32).astype(float) for v in point), _XP)[:-3] for point in points]
    )
    assert torch.isfinite(moving).all()
    np.testing.assert_allclose(moving.detach().numpy().T, double, rtol=2e-3, atol=2.0)
    gradients = torch.autograd.grad(moving.sum(), (x, d, p))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert (gradients[2].abs().amax(0) > 0.0).all(), "every health parameter matters"
