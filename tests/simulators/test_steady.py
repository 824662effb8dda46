"""Steady states of simulators in general: physics, discrete memory, free moves, and what cannot be found."""

from __future__ import annotations

import numpy as np
import pytest

from plant.errors import SpecError
from simulators.namespaces import NumpyNamespace
from simulators.reactor import BareReactor
from simulators.steady import newton, steady_moves, steady_state
from simulators.turbofan import Turbofan

_REACTOR, _XP = BareReactor(), NumpyNamespace()
_D, _P = np.array([BareReactor.d0]), np.array([BareReactor.p0])


def test_both_branches_of_the_reactor_are_found() -> None:
    """At 300 K of coolant the cold and the burning steady state exist; the guess says which."""
    u = np.full((2, 1), 300.0)
    d, p = np.tile(_D, (2, 1)), np.tile(_P, (2, 1))
    x = steady_state(_REACTOR, u, d, p, np.array([[0.88, 324.0], [0.05, 450.0]]))
    assert x[0, 1] == pytest.approx(324.475, abs=0.05)
    assert x[1, 1] > x[0, 1] + 30.0
    rates = np.array(_REACTOR.derivative(x.T, u.T, d.T, p.T, _XP))
    np.testing.assert_allclose(rates, 0.0, atol=1e-7)


def test_moves_for_a_target() -> None:
    x, u = steady_moves(_REACTOR, {"Ca": np.array([0.9])}, np.array([[300.0]]), _D, _P, np.array([BareReactor.x0]))
    assert x[0, 0] == pytest.approx(0.9)
    again = steady_state(_REACTOR, u, _D, _P, x + np.array([0.01, 1.0]))
    np.testing.assert_allclose(again, x, rtol=1e-8)


def test_memory_rests_where_a_tick_leaves_it() -> None:
    plant = Turbofan()
    u, d, p = np.array([[3.2]]), np.array([Turbofan.d0]), np.array([Turbofan.p0])
    x = steady_state(plant, u, d, p, np.array([Turbofan.x0]))
    np.testing.assert_allclose(x[0, -3:], 3.2)
    np.testing.assert_allclose(x, plant.initial(u, d, p), rtol=1e-7)


def test_one_hopeless_member_does_not_spoil_the_others() -> None:
    d, p, u = np.tile(_D, (2, 1)), np.tile(_P, (2, 1)), np.full((2, 1), 300.0)
    guess = np.array([[0.88, 324.0], [np.nan, 324.0]])
    x, converged = newton(_REACTOR, {}, u, d, p, guess)
    assert converged.tolist() == [True, False]
    assert x[0, 1] == pytest.approx(324.475, abs=0.05)
    with pytest.raises(SpecError, match="no steady state for 1 of 2 plants"):
        steady_state(_REACTOR, u, d, p, guess)
