"""Integrators against scipy's stiff solvers, calm and through an ignition, and with a member that breaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from simulators.integrators import dopri5, rk4
from simulators.namespaces import NumpyNamespace
from simulators.reactor import BareReactor

REACTOR, XP = BareReactor(), NumpyNamespace()


def field(x: Any, tc: Any) -> Any:
    return np.stack(REACTOR.derivative(x.T, (tc,), REACTOR.d0, REACTOR.p0, XP), axis=1)


def reference(tc: float, minutes: float, method: str) -> Any:
    answer = solve_ivp(
        lambda _, x: np.array(REACTOR.derivative(x, (tc,), REACTOR.d0, REACTOR.p0, XP)),
        (0.0, minutes), REACTOR.x0, method=method, rtol=1e-12, atol=1e-13,
    )  # fmt: skip
    assert answer.success
    return answer.y[:, -1]


@pytest.mark.parametrize("method", ["LSODA", "Radau"])
@pytest.mark.parametrize(
    ("tc", "minutes", "within"),
    # An ignition multiplies every error on its way, the reference's own (about 3e-9 at 304 K) included.
    [(295.0, 5.0, 1e-10), (302.0, 5.0, 1e-10), (304.0, 4.2, 1e-8), (310.0, 1.1, 1e-8), (310.0, 4.0, 1e-8)],
    ids=["calm", "warm", "igniting", "ignition", "burnt out"],
)  # fmt: skip
def test_dopri5_against_scipy(tc: float, minutes: float, within: float, method: str) -> None:
    x, _ = dopri5(lambda x: field(x, np.array([tc])), np.array([REACTOR.x0]), minutes, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(x[0], reference(tc, minutes, method), rtol=within)


def test_dopri5_error_follows_its_tolerance() -> None:
    exact = reference(304.0, 4.2, "Radau")
    errors = []
    for rtol in (1e-5, 1e-7, 1e-9):
        x, _ = dopri5(lambda x: field(x, np.array([304.0])), np.array([REACTOR.x0]), 4.2, rtol=rtol, atol=rtol)
        errors.append(np.abs(x[0] / exact - 1).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_dopri5_on_a_problem_with_a_known_answer() -> None:
    x, top = dopri5(
        lambda x: np.stack([x[:, 1], -x[:, 0]], 1), np.array([[1.0, 0.0], [0.0, 2.0]]), 2 * np.pi, 1e-11, 1e-12,
        watch=lambda x: x[:, 0],
    )  # fmt: skip
    np.testing.assert_allclose(x, [[1.0, 0.0], [0.0, 2.0]], atol=1e-9)
    np.testing.assert_allclose(top, [1.0, 2.0], rtol=0.02)  # the second is reached inside, not at an end


def broken(x: Any) -> Any:
    """Decay for every member; the second grows beyond every bound in finite time."""
    rate = -x
    rate[1] = x[1] ** 3
    return rate


def test_broken_member_becomes_nan_alone() -> None:
    x0 = np.array([[1.0], [2.0], [3.0]])
    x, top = dopri5(broken, x0, 1.0, watch=lambda x: x[:, 0])
    assert np.isnan(x[1]).all()
    np.testing.assert_allclose(x[[0, 2], 0], np.exp(-1.0) * x0[[0, 2], 0], rtol=1e-6)
    assert top is not None
    np.testing.assert_allclose(top[[0, 2]], [1.0, 3.0])


def test_member_that_starts_as_nan_holds_nobody_back() -> None:
    x, _ = dopri5(lambda x: -x, np.array([[1.0], [np.nan]]), 1.0)
    np.testing.assert_allclose(x[0], np.exp(-1.0), rtol=1e-6)
    assert np.isnan(x[1]).all()


def test_batch_members_do_not_mix() -> None:
    tc = np.array([295.0, 303.0, 310.0])
    together, _ = dopri5(lambda x: field(x, tc), np.tile(REACTOR.x0, (3, 1)), 2.0, 1e-11, 1e-12)
    for i, one in enumerate(tc):
        alone, _ = dopri5(lambda x, one=one: field(x, np.array([one])), np.array([REACTOR.x0]), 2.0, 1e-11, 1e-12)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-8)


def test_rk4_is_of_fourth_order() -> None:
    exact = reference(302.0, 2.0, "Radau")
    errors = []
    for steps in (20, 40, 80):
        x = rk4(lambda x: REACTOR.derivative(x, (302.0,), REACTOR.d0, REACTOR.p0, XP), REACTOR.x0, 2.0, steps)
        errors.append(abs(x[1] - exact[1]))
    assert 10 < errors[0] / errors[1] < 25
    assert 10 < errors[1] / errors[2] < 25
