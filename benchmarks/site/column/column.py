"""Skogestad's distillation column A in the LV configuration (Skogestad, Trans. IChemE 75A, 1997, "Dynamics and control of
distillation columns"; his model files `colamod` and `cola_lv`): a binary split with relative volatility 1.5 over 41 stages, reboiler
and total condenser counted, liquid holdup and composition of each.

    d(M_i)/dt     = L_{i+1} - L_i + V_{i-1} - V_i
    d(M_i x_i)/dt = L_{i+1} x_{i+1} - L_i x_i + V_{i-1} y_{i-1} - V_i y_i,   y = alpha x / (1 + (alpha - 1) x)
    L_i = L0_i + (M_i - M0) / tau_L

Reflux L and boil-up V are the moves; D and B hold the levels of drum and sump by proportional loops, as in the paper. Time in
minutes, flows in kmol/min, holdups in kmol, compositions as mole fraction of the light component. The relative volatility and the
pressure are constant, so a stage's temperature is that of the mixture's boiling point between those of the pure components.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from benchmarks.site.sensors import Analyser
from homeostat import Names, Simulator
from simulators.contract import Array, Components, Namespace
from simulators.sensors import Sensor
from simulators.steady import steady_state

STAGES, FEED = 41, 21  # the reboiler is stage 1, the condenser stage 41
ALPHA, HOLDUP, TAU_L = 1.5, 0.5, 0.063
REFLUX, BOIL_UP, FEED_FLOW, PRODUCT = 2.70629, 3.20629, 1.0, 0.5
LEVEL_GAIN = 10.0  # of the loops under the column, kmol/min a kmol
LIGHT_K, HEAVY_K = 341.9, 355.4  # boiling points that belong to a relative volatility of 1.5 (Skogestad 1997, eq. 4)
TRAYS = (5, 12, 21, 30, 37)  # with a thermometer
DROP_MBAR = 100.0 / BOIL_UP**2  # pressure drop over the column: 100 mbar at the usual boil-up
PERIOD_S, DEAD_TIME_S = 180.0, 240.0  # of the analysers of the products


class ColumnA(Simulator):
    """x: compositions from the bottom up, then holdups."""

    names = Names(
        x=tuple(f"x{i}" for i in range(1, STAGES + 1)) + tuple(f"M{i}" for i in range(1, STAGES + 1)),
        u=("L", "V"),
        d=("F", "zF", "qF"),
        p=("alpha",),  # as a factor of 1.5
        y=("XD", "XB", *(f"TI{i:02d}" for i in TRAYS), "PDI", "LID", "LIB", "FD", "FB", "FF", "ZF"),
    )
    time_unit_s = 60.0
    step_s = (
        3.0  # the fastest stage settles in about 2 s; halving it changes the products' purities by 1e-6 of themselves
    )
    u0, d0, p0 = (REFLUX, BOIL_UP), (FEED_FLOW, 0.5, 1.0), (1.0,)
    d_range = {"F": (0.7, 1.3), "zF": (0.35, 0.65), "qF": (0.8, 1.2)}  # noqa: RUF012
    p_range = {"alpha": (0.97, 1.03)}  # noqa: RUF012
    dead_time_s = {"XD": DEAD_TIME_S, "XB": DEAD_TIME_S}  # noqa: RUF012
    # Near the steady state, which `initial` finds: straight lines between the products and the feed.
    x0 = (
        *np.linspace(0.01, 0.5, FEED).tolist(),
        *np.linspace(0.5, 0.99, STAGES - FEED + 1).tolist()[1:],
        *[HOLDUP] * STAGES,
    )

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        z, m = x[:STAGES], x[STAGES:]
        feed, of_feed, liquid = d
        alpha = ALPHA * p[0]
        y = [alpha * c / (1.0 + (alpha - 1.0) * c) for c in z[:-1]]
        up = [u[1] + (1.0 - liquid) * feed if i + 1 >= FEED else u[1] for i in range(STAGES - 1)]
        base = [REFLUX + FEED_FLOW if i + 1 <= FEED else REFLUX for i in range(STAGES)]
        down = [None, *(base[i] + (m[i] - HOLDUP) / TAU_L for i in range(1, STAGES - 1)), u[0]]
        top, bottom = self._products(m)
        held, light = [], []
        for i in range(STAGES):
            inflow = [(down[i + 1], z[i + 1])] if i + 1 < STAGES else []
            outflow = [(down[i], z[i])] if i > 0 else [(bottom, z[0])]
            if i > 0:
                inflow.append((up[i - 1], y[i - 1]))
            if i + 1 < STAGES:
                outflow.append((up[i], y[i]))
            else:
                outflow.append((top, z[i]))
            if i + 1 == FEED:
                inflow.append((feed, of_feed))
            held.append(sum(f for f, _ in inflow) - sum(f for f, _ in outflow))
            light.append(sum(f * (c - z[i]) for f, c in inflow) - sum(f * (c - z[i]) for f, c in outflow))
        return (*(rate / held_up for rate, held_up in zip(light, m, strict=True)), *held)

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        z, m = x[:STAGES], x[STAGES:]
        temperatures = [HEAVY_K - (HEAVY_K - LIGHT_K) * z[i - 1] for i in TRAYS]
        top, bottom = self._products(m)
        drop = DROP_MBAR * u[1] * u[1]
        return (z[-1], z[0], *temperatures, drop, m[-1], m[0], top, bottom, d[0], d[1])

    @staticmethod
    def _products(m: Components) -> tuple[Any, Any]:
        """D and B as the level loops set them."""
        return tuple(PRODUCT + LEVEL_GAIN * (m[i] - HOLDUP) for i in (STAGES - 1, 0))  # type: ignore[return-value]

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        return {
            "a stage runs dry": _least(x[STAGES:], xp) - 0.05,
            "a stage floods": 2.0 + _least([-held for held in x[STAGES:]], xp),
        }

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        """At rest: where the levels, and with them the products, have settled."""
        return steady_state(self, u, d, p, np.tile(_usual_state(), (len(p), 1)))

    def sensor(self, output: str, sigma: float) -> Sensor:
        if output in self.dead_time_s:
            return Analyser(sigma, PERIOD_S, self.dead_time_s[output])
        return super().sensor(output, sigma)


@cache
def _usual_state() -> Array:
    """The usual column at rest (n_x,)."""
    column = ColumnA()
    u, d, p = (np.array([v], float) for v in (column.u0, column.d0, column.p0))
    return steady_state(column, u, d, p, np.array([_profile()]))[0]


def _profile() -> list[float]:
    """Compositions and holdups of the usual column by stepping along the operating lines from the bottom up."""
    z, b = [0.01], PRODUCT
    for i in range(1, STAGES):
        y = ALPHA * z[-1] / (1 + (ALPHA - 1) * z[-1])
        if i < FEED:
            z.append((BOIL_UP * y + b * 0.01) / (REFLUX + FEED_FLOW))
        else:
            z.append((BOIL_UP * y - PRODUCT * 0.99) / REFLUX)
    z[-1] = 0.99
    return [*z, *([HOLDUP] * STAGES)]


def _least(values: Any, xp: Namespace) -> Any:
    least = values[0]
    for v in values[1:]:
        least = xp.minimum(least, v)
    return least
