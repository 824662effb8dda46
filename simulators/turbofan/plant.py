"""`Turbofan`: the engine as a plant. The fuel command arrives late at a metering valve, and sensors lag."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.contract import Array, Components, Names, Namespace
from simulators.namespaces import NumpyNamespace
from simulators.turbofan.engine import Engine, inlet_ratios

# Sensor lags, s, of NASA's AGTF30 control model; each reads the component of the engine's outputs of that index. Fuel flow
# is read off the metering valve.
_SENSORS = (
    ("N1", 0, 0.02), ("N2", 1, 0.02), ("T24", 2, 0.70), ("P24", 3, 0.04), ("T3", 4, 0.70), ("PS3", 5, 0.04),
    ("T45", 6, 0.70), ("T5", 7, 0.70),
)  # fmt: skip
_N, _M = len(Engine.names.x), len(_SENSORS)


class Turbofan(Engine):
    """The engine with its fuel valve (lag 0.1 s, 90 % of its range a second), the 40 ms that a command takes to reach it, and
    sensor lags. u: `FUEL`, the command, lbm/s. The rest as in `Engine`; true values carry `_true`.

    A command is held for three ticks' places: it enters the first at a tick and drives the valve from the third.
    """

    names = Names(
        x=(*Engine.names.x, *(f"{name}_sensor" for name, _, _ in _SENSORS), "FUEL_0", "FUEL_20ms", "FUEL_40ms"),
        u=Engine.names.u, d=Engine.names.d, p=Engine.names.p,
        y=(*(name for name, _, _ in _SENSORS), "WF", *Engine.names.d, *Engine.names.y),
    )  # fmt: skip
    x0 = (*Engine.x0, 3059.626, 7511.1, 737.499, 36.88178, 1237.065, 182.9913, 1787.37, 1328.052, 2.73, 2.73, 2.73)
    tick_s = 0.02
    valve_range = (0.0, 6.0)  # lbm/s
    valve_slew_per_s = 0.9 * 6.0

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        path = self._path(x, d, p, xp)
        true = self._sensed(path, x)
        slew = self.valve_slew_per_s
        valve = xp.minimum(xp.maximum((x[-1] - x[10]) * (1.0 / self.valve_lag_s), -slew), slew)
        lagged = ((true[i] - x[_N + k]) * (1.0 / lag) for k, (_, i, lag) in enumerate(_SENSORS))
        return (*self._engine(path, x, xp), valve, *lagged, 0.0, 0.0, 0.0)

    def on_sample(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        low, high = self.valve_range
        asked = xp.minimum(xp.maximum(u[0], low), high)
        return (*(x[i] for i in range(_N + _M)), asked, x[_N + _M], x[_N + _M + 1])

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        readings = (x[_N + k] for k in range(_M))
        return (*readings, x[10], *(d[i] for i in range(3)), *super().outputs(x, u, d, p, xp))

    def usual_moves(self, d: Array, p: Array) -> Array:
        """The usual fuel in corrected terms: the same fraction of what the engine can burn up there."""
        theta, delta = inlet_ratios(np.asarray(d, float))
        theta_0, delta_0 = inlet_ratios(np.array([self.d0]))
        return (self.u0[0] * delta * np.sqrt(theta) / (delta_0 * np.sqrt(theta_0)))[:, None]

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        u = np.clip(u, *self.valve_range)
        x = super().initial(u, d, p)
        true: Any = super().outputs(x.T, u.T, d.T, p.T, NumpyNamespace())
        return np.concatenate([x, np.stack([true[i] for _, i, _ in _SENSORS], 1), u, u, u], 1)
