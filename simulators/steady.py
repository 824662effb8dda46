"""Steady states of any `Simulator`, for a batch: Newton's method on the traced equations, damped where it must be."""

from __future__ import annotations

from functools import cache

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError
from simulators.contract import Array, Simulator
from simulators.namespaces import CasadiNamespace

Members = NDArray[np.bool_]
_MAX_STEPS, _LEAST_DAMPING, _TOLERANCE = 60, 1.0 / 512.0, 1e-9


def steady_state(simulator: Simulator, u: Array, d: Array, p: Array, guess: Array) -> Array:
    """x (batch x n_x) at rest under u, d, p (batch x n each), by Newton from `guess` (batch x n_x).

    Discrete memory rests where `on_sample` leaves it unchanged. `SpecError` names the first member that finds no rest."""
    x, converged = newton(simulator, {}, u, d, p, guess)
    _require(simulator, converged, u, d)
    return x


def steady_moves(
    simulator: Simulator, targets: dict[str, Array], u: Array, d: Array, p: Array, guess: Array
) -> tuple[Array, Array]:
    """As `steady_state`, with the moves free and as many outputs at their target (batch,): x and u. `u` is the guess."""
    if len(targets) != len(simulator.names.u) or set(targets) - set(simulator.names.y):
        raise SpecError(
            f"targets {list(targets)}", f"steady state of {type(simulator).__name__}",
            f"Give {len(simulator.names.u)} of its outputs: {', '.join(simulator.names.y)}.",
        )  # fmt: skip
    z, converged = newton(simulator, targets, u, d, p, guess)
    n_u = len(simulator.names.u)
    _require(simulator, converged, z[:, -n_u:], d)
    return z[:, :-n_u], z[:, -n_u:]


def newton(
    simulator: Simulator, targets: dict[str, Array], u: Array, d: Array, p: Array, guess: Array
) -> tuple[Array, Members]:
    """States (then moves, when there are targets) and which members (batch,) converged.

    Damped by the natural monotonicity test: a step counts when the next one, with the same Jacobian, is shorter
    (Deuflhard, Newton Methods for Nonlinear Problems, 2004)."""
    residual, jacobian = _functions(type(simulator), tuple(targets))
    z = np.array(np.concatenate([guess, u], 1) if targets else guess, float)
    wanted = np.stack([*targets.values()], 1) if targets else np.empty((len(z), 0))
    scale = np.maximum(np.abs(z), 1e-3 * np.abs(z).max(axis=1, keepdims=True))
    damping, converged = np.ones(len(z)), np.zeros(len(z), np.bool_)

    def at(f: ca.Function, z: Array, rows: NDArray[np.intp]) -> Array:
        return np.asarray(f.call([ca.DM(v.T) for v in (z, u[rows], d[rows], p[rows], wanted[rows])])[0])

    for _ in range(_MAX_STEPS):
        rows = np.flatnonzero(~converged & (damping >= _LEAST_DAMPING))
        if not rows.size:
            break
        here, n = z[rows], z.shape[1]
        matrix = at(jacobian, here, rows).reshape(n, rows.size, n).transpose(1, 0, 2)
        finite = np.isfinite(matrix.sum(axis=(1, 2)))
        matrix = np.where(finite[:, None, None], matrix, np.eye(n))
        matrix = matrix * scale[rows][:, None, :]
        step = _solve(matrix, -at(residual, here, rows).T)
        length = np.sqrt((step**2).mean(1))
        new = here + damping[rows, None] * scale[rows] * step
        after = np.sqrt((_solve(matrix, -at(residual, new, rows).T) ** 2).mean(1))
        good = finite & (after <= (1.0 - 0.25 * damping[rows]) * length + _TOLERANCE)
        z[rows] = np.where(good[:, None], new, here)
        converged[rows] = good & (damping[rows] == 1.0) & (after < _TOLERANCE)
        damping[rows] = np.where(good, np.minimum(1.0, 2.0 * damping[rows]), 0.5 * damping[rows])
    return z, converged


def _solve(matrix: Array, right: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(matrix, right[..., None])[..., 0], float)
    except np.linalg.LinAlgError:  # one member's matrix is singular: the shortest step for it
        return np.asarray((np.linalg.pinv(matrix) @ right[..., None])[..., 0], float)


@cache
def _functions(kind: type[Simulator], targets: tuple[str, ...]) -> tuple[ca.Function, ca.Function]:
    """The residual (n x batch) of a state, and its Jacobian (n x batch n), with the targeted outputs below."""
    simulator, xp = kind(), CasadiNamespace()
    names = simulator.names
    x, u, d, p = (ca.SX.sym(k, len(v)) for k, v in zip("xudp", (names.x, names.u, names.d, names.p), strict=True))
    wanted = ca.SX.sym("wanted", len(targets))
    states, *held = *(ca.vertsplit(s) for s in (x, u, d, p)), xp
    jumped = simulator.on_sample(states, *held)
    rates = [ca.SX(r) for r in simulator.derivative(states, *held)]
    rest = [ca.SX(j) - x[i] if r.is_zero() else r for i, (r, j) in enumerate(zip(rates, jumped, strict=True))]
    if targets:
        y = dict(zip(names.y, simulator.outputs(states, *held), strict=True))
        rest += [y[name] - wanted[i] for i, name in enumerate(targets)]
    z, residual = (ca.vertcat(x, u) if targets else x), ca.vertcat(*rest)
    inputs = [x, u, d, p, wanted]
    matrix = ca.densify(ca.jacobian(residual, z))
    if targets:
        free = ca.SX.sym("z", x.numel() + u.numel())
        swap = [free[: x.numel()], free[x.numel() :]]
        residual, matrix = ca.substitute([residual, matrix], [x, u], swap)
        inputs[0] = free
    options = {"cse": True}
    return ca.Function("residual", inputs, [residual], options), ca.Function("jacobian", inputs, [matrix], options)


def _require(simulator: Simulator, converged: Members, u: Array, d: Array) -> None:
    if converged.all():
        return
    first = int(np.flatnonzero(~converged)[0])
    names = simulator.names
    at = ", ".join(f"{k} {v:.4g}" for k, v in zip((*names.u, *names.d), (*u[first], *d[first]), strict=True))
    raise SpecError(
        f"no steady state for {int((~converged).sum())} of {len(converged)} plants, first for {at}",
        type(simulator).__name__, "Start closer, or ask for a point inside the envelope.",
    )  # fmt: skip
