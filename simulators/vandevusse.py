"""The van de Vusse reactor of Klatt & Engell (1998), with the numbers of do-mpc's CSTR example: A -> B -> C, 2 A -> D.

    k1 = beta k0 exp(-E1/T),  k2 = k0 exp(-E1/T),  k3 = k03 exp(-alpha E3/T),  T = T_R + 273.15
    Ca'  = F (Ca_in - Ca) - k1 Ca - k3 Ca^2
    Cb'  = -F Cb + k1 Ca - k2 Cb
    T_R' = -(k1 Ca H1 + k2 Cb H2 + k3 Ca^2 H3)/(rho cp) + F (T_in - T_R) + K A/(rho cp V) (T_K - T_R)
    T_K' = (Q + K A (T_R - T_K))/(m cp_K)

Time in hours, concentrations in mol/L, temperatures in degC, F in 1/h, Q in kJ/h (negative: heat taken out). The yield of
B turns over: beyond a flow, more feed gives less of it. alpha and beta are the uncertain kinetics.
"""

from __future__ import annotations

from typing import Any

from simulators.contract import Components, Names, Namespace, Simulator

_K0, _E1, _K03, _E3 = 1.287e12, 9758.3, 9.043e9, 8560.0  # 1/h, K, L/(mol h), K
_H1, _H2, _H3 = 4.2, -11.0, -41.85  # kJ/mol
_RHO_CP = 0.9342 * 3.01  # kg/L * kJ/(kg K)
_KA, _V, _JACKET = 4032.0 * 0.215, 10.01, 5.0 * 2.0  # kJ/(h K), L, kJ/K


class VanDeVusse(Simulator):
    """States read directly; flow and heat duty set directly."""

    names = Names(
        x=("Ca", "Cb", "T_R", "T_K"), u=("F", "Qdot"), d=("Ca_in", "T_in"), p=("alpha", "beta"),
        y=("Ca", "Cb", "T_R", "T_K", "Ca_in", "T_in"),
    )  # fmt: skip
    time_unit_s = 3600.0
    step_s = 1.0  # 1e-7 relative; 2.0 no longer keeps 1e-6
    x0 = (1.234406, 0.899824, 134.148957, 128.962887)
    u0 = (18.83, -4495.7)
    d0 = (5.1, 130.0)
    p0 = (1.0, 1.0)
    d_range = {"Ca_in": (0.0, 10.0), "T_in": (80.0, 160.0)}  # noqa: RUF012
    p_range = {"alpha": (0.8, 1.2), "beta": (0.5, 1.5)}  # noqa: RUF012

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        ca, cb, t_r, t_k = x
        flow, heat = u
        per_t = -1.0 / (t_r + 273.15)
        k2 = _K0 * xp.exp(_E1 * per_t)
        r1, r2 = p[1] * k2 * ca, k2 * cb
        r3 = _K03 * xp.exp(_E3 * p[0] * per_t) * ca * ca
        through = _KA * (t_r - t_k)  # kJ/h, reactor to jacket
        return (
            flow * (d[0] - ca) - r1 - r3,
            r1 - r2 - flow * cb,
            flow * (d[1] - t_r) - (_H1 * r1 + _H2 * r2 + _H3 * r3) / _RHO_CP - through / (_RHO_CP * _V),
            (heat + through) / _JACKET,
        )

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return (*x, *d)

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        return {
            "negative concentration": xp.minimum(x[0], x[1]) + 1e-3,
            "reactor below 20 degC": x[2] - 20.0,
            "reactor above 300 degC": 300.0 - x[2],
            "jacket below 20 degC": x[3] - 20.0,
            "jacket above 300 degC": 300.0 - x[3],
        }
