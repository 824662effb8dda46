"""The reactor's equations: published runaway peaks, and one definition that three namespaces agree on."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.contract import Simulator
from simulators.integrators import dopri5
from simulators.namespaces import CasadiNamespace, NumpyNamespace, TorchNamespace
from simulators.reactor import BareReactor, DressedReactor

PEAK_MINUTES = 100.0

# (coolant K, feed K, peak reactor temperature K) over 100 min from the usual point, by LSODA.
PEAKS = [
    (302.0, 350.0, 328.8),
    (303.0, 350.0, 333.2),
    (304.0, 350.0, 469.6),
    (306.0, 350.0, 481.0),
    (310.0, 350.0, 492.3),
    (300.0, 355.0, 330.1),
    (300.0, 360.0, 475.1),
    (300.0, 370.0, 491.4),
]


def test_runaway_peaks() -> None:
    """All conditions in one batch: the quiet ones beside those that ignite."""
    reactor, xp = BareReactor(), NumpyNamespace()
    tc, ti, expected = (np.array(column) for column in zip(*PEAKS, strict=True))
    d = (ti, np.ones_like(ti), np.full_like(ti, 100.0))

    def field(x: Any) -> Any:
        return np.stack(reactor.derivative(x.T, (tc,), d, (1.0, 1.0), xp), axis=1)

    x0 = np.tile(reactor.x0, (len(PEAKS), 1))
    _, peak = dopri5(field, x0, PEAK_MINUTES, watch=lambda x: x[:, 1])
    assert peak is not None
    np.testing.assert_allclose(peak, expected, atol=0.5)


def test_usual_points_are_steady() -> None:
    for simulator in (BareReactor(), DressedReactor()):
        rates = simulator.derivative(simulator.x0, simulator.u0, simulator.d0, simulator.p0, NumpyNamespace())
        np.testing.assert_allclose(rates, 0.0, atol=0.01)


def test_fouling_and_decay_act_the_right_way() -> None:
    reactor, xp = BareReactor(), NumpyNamespace()

    def rates(p: tuple[float, float]) -> tuple:
        return reactor.derivative(reactor.x0, reactor.u0, reactor.d0, p, xp)

    clean = rates((1.0, 1.0))
    assert rates((0.9, 1.0))[1] > clean[1], "a fouled jacket cools less"
    assert rates((0.9, 1.0))[0] == clean[0]
    assert rates((1.0, 0.9))[0] > clean[0], "a tired catalyst consumes less"
    assert rates((1.0, 0.9))[1] < clean[1]


def test_valve_follows_with_a_lag_and_a_slew_limit() -> None:
    reactor, xp = DressedReactor(), NumpyNamespace()
    ask = np.array([300.0, 300.6, 301.0, 310.0, 290.0])
    x = (np.full(5, 0.877), np.full(5, 324.5), np.full(5, 300.0))
    rate = reactor.derivative(x, (ask,), reactor.d0, reactor.p0, xp)[2]
    np.testing.assert_allclose(rate, [0.0, 6.0, 10.0, 60.0, -60.0])


def test_outputs_are_what_the_names_say() -> None:
    for simulator in (BareReactor(), DressedReactor()):
        y = simulator.outputs(simulator.x0, simulator.u0, simulator.d0, simulator.p0, NumpyNamespace())
        assert len(y) == len(simulator.names.y)
    dressed = DressedReactor()
    y = dict(zip(dressed.names.y, dressed.outputs((1, 2, 3), (4,), (5, 6, 7), (8, 9), NumpyNamespace()), strict=True))
    assert y == {"AI101": 1, "TI101": 2, "TI102": 3, "TI100": 5, "FI100": 7}


STATES = st.fixed_dictionaries(
    {
        "x": st.tuples(st.floats(0.0, 1.2), st.floats(280.0, 500.0), st.floats(285.0, 315.0)),
        "u": st.tuples(st.floats(285.0, 315.0)),
        "d": st.tuples(st.floats(300.0, 400.0), st.floats(0.5, 1.5), st.floats(1.0, 150.0)),
        "p": st.tuples(st.floats(0.5, 1.5), st.floats(0.5, 1.5)),
    }
)


def _casadi_function(simulator: Simulator) -> ca.Function:
    sizes = {name: len(getattr(simulator.names, name)) for name in "xudp"}
    symbols = {name: ca.SX.sym(name, n) for name, n in sizes.items()}
    parts = [[symbols[name][i] for i in range(n)] for name, n in sizes.items()]
    xp = CasadiNamespace()
    both = [*simulator.derivative(*parts, xp), *simulator.outputs(*parts, xp)]
    return ca.Function("both", list(symbols.values()), [ca.vertcat(*both)])


SYMBOLIC = {kind: _casadi_function(kind()) for kind in (BareReactor, DressedReactor)}


@pytest.mark.parametrize("kind", [BareReactor, DressedReactor])
@given(point=STATES)
@settings(max_examples=60, deadline=None)
def test_namespaces_agree(kind: type[Simulator], point: dict[str, tuple[float, ...]]) -> None:
    simulator = kind()
    parts = [point[name][: len(getattr(simulator.names, name))] for name in "xudp"]
    xp = NumpyNamespace()
    by_numpy = np.array([*simulator.derivative(*parts, xp), *simulator.outputs(*parts, xp)], float)
    tensors = [torch.tensor(part, dtype=torch.float64) for part in parts]
    torch_xp = TorchNamespace()
    by_torch = torch.stack([*simulator.derivative(*tensors, torch_xp), *simulator.outputs(*tensors, torch_xp)])
    by_casadi = np.array(SYMBOLIC[kind](*parts)).ravel()
    np.testing.assert_allclose(by_torch.numpy(), by_numpy, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_casadi, by_numpy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [BareReactor, DressedReactor])
def test_torch_gradient_is_finite_and_right(kind: type[Simulator]) -> None:
    """Also where the valve sits on its slew limit, and far into a runaway."""
    simulator, xp = kind(), TorchNamespace()
    x = torch.tensor([[0.87, 324.0, 300.0], [0.1, 480.0, 310.0], [0.9, 330.0, 290.0]], dtype=torch.float64)
    x = x[:, : len(simulator.names.x)]
    u = torch.tensor([300.0, 290.0, 310.0], dtype=torch.float64)

    def total(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        rates = simulator.derivative(x.T, (u,), simulator.d0, simulator.p0, xp)
        return torch.stack([r for r in rates])

    assert torch.autograd.gradcheck(total, (x.requires_grad_(), u.requires_grad_()))
    total(x, u).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["exp", "log", "tanh"])
def test_namespace_functions_agree(name: str) -> None:
    at = np.array([0.2, 1.0, 3.0])
    expected = getattr(NumpyNamespace(), name)(at)
    np.testing.assert_allclose(getattr(TorchNamespace(), name)(torch.tensor(at)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(np.array(getattr(CasadiNamespace(), name)(ca.DM(at))).ravel(), expected, rtol=1e-12)


def test_namespace_choices_agree() -> None:
    at = np.array([-1.0, 0.0, 2.0])
    tensor, symbol = torch.tensor(at), ca.DM(at)
    for name, bound in (("minimum", 0.5), ("maximum", 0.5)):
        expected = getattr(NumpyNamespace(), name)(at, bound)
        np.testing.assert_array_equal(getattr(TorchNamespace(), name)(tensor, bound).numpy(), expected)
        np.testing.assert_array_equal(np.array(getattr(CasadiNamespace(), name)(symbol, bound)).ravel(), expected)
    chosen = NumpyNamespace().where(at > 0, at, -at)
    np.testing.assert_array_equal(TorchNamespace().where(tensor > 0, tensor, -tensor).numpy(), chosen)
    np.testing.assert_array_equal(np.array(CasadiNamespace().where(symbol > 0, symbol, -symbol)).ravel(), chosen)
