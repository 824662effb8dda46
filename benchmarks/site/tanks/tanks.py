"""Four interconnected tanks, two pumps (Johansson 2000, IEEE Trans. Control Systems Technology 8(3), equations 1 to 4 and table I),
in the paper's two settings: the minimum phase one, and the other, in which every move first goes the wrong way.

    A_i h_i' = -a_i sqrt(2 g h_i) + what flows in

Each pump feeds a lower tank with a share `split` of its flow and the upper tank above the other one with the rest. The flow of a pump
is its gain times its voltage, times how well it still works and the supply pressure it sucks from, both usually 1. Levels in cm,
flows in cm3/s, voltages in V.
"""

from __future__ import annotations

from typing import Any

from homeostat import Names, Simulator
from simulators.contract import Array, Components, Namespace
from simulators.steady import steady_state

AREA_CM2 = (28.0, 32.0, 28.0, 32.0)
HOLE_CM2 = (0.071, 0.057, 0.071, 0.057)
G_CM_S2 = 981.0
BRIM_CM = 20.0


class MinimumPhase(Simulator):
    """The setting in which each pump mostly feeds the tank it holds."""

    names = Names(
        x=("h1", "h2", "h3", "h4"),
        u=("P1", "P2"),
        d=("supply", "inflow3", "inflow4", "leak1", "wear1", "wear2"),
        p=("gain1", "gain2", "split1", "split2"),
        y=("LT1", "LT2", "LT3", "LT4", "FT1", "FT2", "FT3", "FT4", "FO1", "FO2", "PT0", "FI3"),
    )
    time_unit_s, step_s = 1.0, 2.5
    x0, u0 = (12.4, 12.7, 1.8, 1.4), (3.0, 3.0)
    d0, p0 = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0), (3.33, 3.35, 0.7, 0.6)
    d_range = {  # noqa: RUF012
        "supply": (0.7, 1.3), "inflow3": (0.0, 3.0), "inflow4": (0.0, 3.0), "leak1": (0.0, 3.0), "wear1": (0.7, 1.1),
        "wear2": (0.7, 1.1),
    }  # fmt: skip
    p_range = {"split1": (0.35, 0.8), "split2": (0.28, 0.8)}  # noqa: RUF012

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        first, second, out = self._flows(x, u, d, p, xp)
        inflow = (
            out[2] + p[2] * first - d[3] * xp.minimum(xp.maximum(x[0], 0.0), 1.0),
            out[3] + p[3] * second,
            (1.0 - p[3]) * second + d[1],
            (1.0 - p[2]) * first + d[2],
        )
        return tuple((i - o) / area for i, o, area in zip(inflow, out, AREA_CM2, strict=True))

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        first, second, out = self._flows(x, u, d, p, xp)
        return (*x, first, second, (1.0 - p[3]) * second, (1.0 - p[2]) * first, out[0], out[1], d[0], d[1])

    @staticmethod
    def _flows(x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple[Any, Any, list[Any]]:
        """Of both pumps, and out of each tank."""
        out = [a * xp.sqrt(2.0 * G_CM_S2 * xp.maximum(h, 1e-6)) for a, h in zip(HOLE_CM2, x, strict=True)]
        return p[0] * d[0] * d[4] * u[0], p[1] * d[0] * d[5] * u[1], out

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        """At rest."""
        return steady_state(self, u, d, p, super().initial(u, d, p))

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        return {f"tank {i + 1} overflows": BRIM_CM - h for i, h in enumerate(x)}


class NonminimumPhase(MinimumPhase):
    """The setting in which each pump mostly feeds the upper tanks, and so the lower tank across."""

    x0, u0 = (12.6, 13.0, 4.8, 4.9), (3.15, 3.15)
    p0 = (3.14, 3.29, 0.43, 0.34)
