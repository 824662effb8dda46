"""Integrators for a batch of plants: fixed-step RK4 for any namespace, error-controlled Dormand-Prince 5(4) for numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Field = Callable[[Array], Array]

# Dormand & Prince (1980), table 2.
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def rk4(field: Callable[[Sequence[Any]], Sequence[Any]], x: Sequence[Any], dt: Any, steps: int = 1) -> tuple:
    """Classical Runge-Kutta over `dt` in `steps` equal steps. `field(x) -> dx/dt`, components in, components out."""
    h = dt / steps
    for _ in range(steps):
        k1 = field(x)
        k2 = field([a + h / 2 * k for a, k in zip(x, k1, strict=True)])
        k3 = field([a + h / 2 * k for a, k in zip(x, k2, strict=True)])
        k4 = field([a + h * k for a, k in zip(x, k3, strict=True)])
        x = [a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(x, k1, k2, k3, k4, strict=True)]
    return tuple(x)


def dopri5(
    field: Field,
    x: Array,
    dt: float,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    watch: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array | None]:
    """Integrate `field` over `dt` with one step size for the whole batch, set by its worst member.

    **Arguments:** `x` (batch x n_x), `field(x) -> dx/dt` of the same shape, `watch(x) -> (batch,)` a quantity whose
    running maximum is wanted.

    **Returns:** `(x_end, maximum)`, the second (batch,) over every accepted step, or None. A member whose state is no
    longer finite is returned as NaN and no longer holds the others back.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a rejected step may overflow
        return _dopri5(field, x, dt, rtol, atol, watch)


def _dopri5(
    field: Field, x: Array, dt: float, rtol: float, atol: float, watch: Callable[[Array], Array] | None
) -> tuple[Array, Array | None]:
    t, h = 0.0, dt
    k = [field(x)]
    top = None if watch is None else watch(x)
    while t < dt * (1 - 1e-12):
        h = min(h, dt - t)
        for row in _A:
            k.append(field(x + h * sum(a * ki for a, ki in zip(row, k, strict=True) if a)))
        new = x + h * sum(a * ki for a, ki in zip(_A[-1], k, strict=False) if a)
        error = h * sum(e * ki for e, ki in zip(_E, k, strict=True) if e)
        ratio = np.abs(error) / (atol + rtol * np.maximum(np.abs(x), np.abs(new)))
        alive = np.isfinite(x).all(1)
        broken: NDArray[np.bool_] = np.logical_and(alive, ~np.isfinite(ratio).all(axis=1))
        worst = float(ratio[alive & ~broken].max(initial=0.0))
        if broken.any() and h > 1e-9 * dt:
            worst = np.inf
        if worst <= 1.0:
            t += h
            x = np.where(broken[:, None], np.nan, new)
            k = [k[-1]]
            if watch is not None and top is not None:
                top = np.fmax(top, watch(x))
        else:
            k = k[:1]
        h *= 0.2 if not np.isfinite(worst) else float(np.clip(0.9 * (worst + 1e-12) ** -0.2, 0.2, 5.0))
    return x, top
