"""The exothermic CSTR that can run away (Seborg, Edgar & Mellichamp; Henson & Seborg), bare and in its industrial dress.

    r   = k0 exp(-E/(R T)) Ca
    Ca' = q/V (Caf - Ca) - r
    T'  = q/V (Ti - T) + (-dH)/(rho C) r + UA/(rho C V) (Tc - T)

Time in minutes, Ca in mol/L, temperatures in K. Fouling lowers UA, catalyst decay lowers k0: both are parameters, as
factors of their clean values.
"""

from __future__ import annotations

from typing import Any

from simulators.contract import Array, Components, Names, Namespace, Simulator

_V, _RHO, _C = 100.0, 1000.0, 0.239  # L, g/L, J/(g K)
_HEAT, _E_R, _K0, _UA = 5e4, 8750.0, 7.2e10, 5e4  # J/mol, K, 1/min, J/(min K)


class BareReactor(Simulator):
    """States read directly, coolant temperature set directly: the plant of the published control scores."""

    names = Names(x=("Ca", "T"), u=("Tc",), d=("Ti", "Caf", "q"), p=("UA", "k0"), y=("Ca", "T", "Ti"))
    time_unit_s = 60.0
    step_s = 0.1  # up to the ignitions of the usual start; hotter ones need the error control
    rtol = 3e-8
    x0 = (0.87725, 324.475)
    u0 = (300.0,)
    d0 = (350.0, 1.0, 100.0)
    p0 = (1.0, 1.0)
    d_range = {"Ti": (280.0, 420.0), "Caf": (0.0, 3.0), "q": (0.0, 300.0)}  # noqa: RUF012
    p_range = {"UA": (0.2, 3.0), "k0": (0.0, 3.0)}  # noqa: RUF012

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        return {
            "negative concentration": x[0] + 1e-3,
            "temperature below 250 K": x[1] - 250.0,
            "temperature above 650 K": 650.0 - x[1],
        }

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return self._reaction(x[0], x[1], u[0], d, p, xp)

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return x[0], x[1], d[0]

    @staticmethod
    def _reaction(ca: Any, t: Any, tc: Any, d: Components, p: Components, xp: Namespace) -> tuple:
        ti, caf, q = d
        r = p[1] * _K0 * xp.exp(-_E_R / t) * ca
        return (
            q / _V * (caf - ca) - r,
            q / _V * (ti - t) + _HEAT / (_RHO * _C) * r + p[0] * _UA / (_RHO * _C * _V) * (tc - t),
        )


class DressedReactor(BareReactor):
    """The same reactor as a plant: the coolant follows its set-point through a valve with a lag and a slew limit, and the
    analyser reports what was in the reactor 26 s ago."""

    names = Names(
        x=("Ca", "T", "Tc"), u=("TC101",), d=("Ti", "Caf", "q"), p=("UA", "k0"),
        y=("AI101", "TI101", "TI102", "TI100", "FI100"),
    )  # fmt: skip
    x0 = (0.87725, 324.475, 300.0)
    dead_time_s = {"AI101": 26.0}  # noqa: RUF012
    valve_lag_min = 0.1
    valve_slew_K_per_min = 60.0

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        slew = self.valve_slew_K_per_min
        valve = xp.minimum(xp.maximum((u[0] - x[2]) / self.valve_lag_min, -slew), slew)
        return (*self._reaction(x[0], x[1], x[2], d, p, xp), valve)

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return x[0], x[1], x[2], d[0], d[2]

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        """The usual state, the coolant at its set-point."""
        x = super().initial(u, d, p)
        x[:, 2] = u[:, 0]
        return x
