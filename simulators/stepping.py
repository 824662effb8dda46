"""`Stepper`: what moves a batch of plants through time. A compiled fixed step where there is a C compiler, else an error-
controlled one in numpy; both jump at ticks and end the members that leave the envelope."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plant.native import CompilerError
from simulators.compiled import Kernel, Watch, schedule
from simulators.contract import Simulator
from simulators.integrators import dopri5
from simulators.namespaces import NumpyNamespace

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
log = logging.getLogger(__name__)
_XP = NumpyNamespace()


class Stepper(Protocol):
    """`advance` takes x (batch x n_x) `dt_s` plant seconds on, u, d, p held, and keeps the members whose code is not 0
    where they ended; `reasons[code - 1]` says why."""

    reasons: list[str]

    def advance(
        self, x: Array, u: Array, d: Array, p: Array, dt_s: float, ended: Codes | None = None
    ) -> tuple[Array, Codes]: ...

    def outputs(self, x: Array, u: Array, d: Array, p: Array) -> Array:
        """Every output (batch x n_y), without noise and dead time."""
        ...


class ErrorControlled:
    """Dormand-Prince 5(4) in numpy, one step size for the batch: the reference, and the way without a compiler. `watch`
    as in `Kernel`."""

    def __init__(self, simulator: Simulator, rtol: float = 1e-7, atol: float = 1e-9, watch: Watch = ()) -> None:
        self._simulator, self._rtol, self._atol = simulator, rtol, atol
        self._watched = [simulator.names.y.index(output) for output, _ in watch]
        self._factors = np.array([factor for _, factor in watch])
        margins = simulator.envelope(simulator.x0, simulator.u0, simulator.d0, simulator.p0, _XP)
        self.reasons = [*margins, "a state that is not finite"]

    def advance(
        self, x: Array, u: Array, d: Array, p: Array, dt_s: float, ended: Codes | None = None
    ) -> tuple[Array, Codes]:
        codes = np.zeros(len(x), np.int64) if ended is None else ended.copy()
        return self._run(x, u, d, p, dt_s, codes, np.full(len(self._watched), np.inf))[0], codes

    def peak(self, x: Array, u: Array, d: Array, p: Array, dt_s: float, ceiling: Array) -> tuple[Array, Array]:
        """As `Kernel.peak`."""
        return self._run(x, u, d, p, dt_s, np.zeros(len(x), np.int64), ceiling)

    def _run(
        self, x: Array, u: Array, d: Array, p: Array, dt_s: float, codes: Codes, ceiling: Array
    ) -> tuple[Array, Array]:
        """x after `dt_s` and the highest values watched, up to `ceiling`; `codes` are updated in place."""
        ticks, _ = schedule(self._simulator, dt_s)
        held, top = (u.T, d.T, p.T, _XP), np.full((len(x), len(self._watched)), -np.inf)

        def watch(x: Array) -> Array:
            return self._factors * self.outputs(x, u, d, p)[:, self._watched]

        def field(x: Array) -> Array:
            moving = (codes == 0) & (self._outside(x, *held) == 0)
            if self._watched:
                moving &= (watch(x) < ceiling).any(axis=1)
            return np.where(moving[:, None], _rows(self._simulator.derivative(x.T, *held), x.shape), 0.0)

        for _ in range(ticks):
            jumped = _rows(self._simulator.on_sample(x.T, *held), x.shape)
            start = np.where((codes == 0)[:, None], jumped, x)
            span = dt_s / ticks / self._simulator.time_unit_s
            end, highest = dopri5(field, start, span, self._rtol, self._atol, watch if self._watched else None)
            top = top if highest is None else np.fmax(top, highest)
            why = self._outside(end, *held)
            why[~np.isfinite(end).all(axis=1)] = len(self.reasons)
            x = np.where(np.isfinite(end), end, start)
            codes[:] = np.where(codes == 0, why, codes)
        return x, np.minimum(top, ceiling)

    def outputs(self, x: Array, u: Array, d: Array, p: Array) -> Array:
        names = self._simulator.names
        return _rows(self._simulator.outputs(x.T, u.T, d.T, p.T, _XP), (len(x), len(names.y)))

    def _outside(self, x: Array, *held: Any) -> Codes:
        """The first reason (batch,) for which each member is outside the envelope; 0 inside."""
        code = np.zeros(len(x), np.int64)
        margins = self._simulator.envelope(x.T, *held)
        with np.errstate(invalid="ignore"):
            for k, margin in reversed(list(enumerate(margins.values(), 1))):
                code[~(margin > 0)] = k
        return code


@cache
def stepper_of(kind: type[Simulator]) -> Stepper:
    """The default stepper of a class of simulators: the compiled kernel, or without a C compiler the numpy one."""
    try:
        return Kernel(kind())
    except CompilerError as e:
        log.warning("%s runs uncompiled, more slowly: %s", kind.__name__, e)
        return ErrorControlled(kind())


@cache
def peak_of(kind: type[Simulator], watch: Watch) -> Kernel | ErrorControlled:
    """What follows some outputs to their maxima (factor 1) or minima (-1), compiled where that is possible."""
    try:
        return Kernel(kind(), watch)
    except CompilerError:
        return ErrorControlled(kind(), 1e-5, 1e-6, watch)


def _rows(components: tuple, shape: tuple[int, ...]) -> Array:
    """Components as (batch x n); a constant one is spread."""
    return np.stack([np.broadcast_to(c, shape[:1]) for c in components], axis=1)
