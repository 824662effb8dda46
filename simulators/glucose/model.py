"""The UVA/Padova S2008 equations of type-1 diabetes (Dalla Man, Rizza & Cobelli 2007; Dalla Man et al. 2007; Kovatchev et
al. 2009), with the meal's onset kept as the simulators of this family keep it, once a minute.

Minutes. Qsto1, Qsto2, Qgut mg in stomach (solid, liquid) and gut; Gp, Gt mg/kg plasma and tissue glucose; Ip, Il pmol/kg
plasma and liver insulin; X, I1, XL pmol/L insulin action and its delay; Isc1, Isc2 pmol/kg under the skin; Gs mg/kg
subcutaneous glucose. Two memories jump: Dbar mg, what was in the stomach at the meal's onset plus all eaten since, and
CHO_last g/min, the intake of the minute before.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from plant.errors import SpecError
from simulators.contract import Array, Components, Names, Namespace, Simulator
from simulators.glucose.cgm import Cgm, DexcomG6, Faults
from simulators.glucose.meals import Announcing, meals
from simulators.glucose.patients import (
    P_RANGE,
    PARAMETERS,
    Cohort,
    Split,
    basal_U_per_h,
    check,
    complete,
    draw,
    fasting,
)
from simulators.sensors import Sensor

DISCLAIMER = (
    "Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM."
)

# The adult cohort's medians, rounded: nobody's parameters.
_TYPICAL = complete(
    {
        "BW": 84.6, "EGPb": 2.49, "Gb": 142.6, "Ib": 107.2, "kabs": 0.134, "kmax": 0.0371, "kmin": 0.00649, "b": 0.815,
        "d": 0.170, "Vg": 1.843, "Vi": 0.0509, "Vmx": 0.0458, "Km0": 235.7, "k1": 0.0601, "k2": 0.1198, "p2u": 0.0322,
        "m1": 0.1892, "m2": 0.2670, "ki": 0.00748, "kp2": 0.00388, "kp3": 0.00843, "kd": 0.01582, "ksc": 0.0921,
        "ka1": 0.00328, "ka2": 0.01526, "HEb": 0.6, "f": 0.9, "ke1": 0.0005, "ke2": 339.0, "Fsnc": 1.0,
    }
)  # fmt: skip
_SATURATED = 40.0  # exp(40) + 1 is exp(40) in either precision, and float32 overflows at 88


class Glucose(Simulator):
    """One patient with type-1 diabetes on an insulin pump and a CGM.

    u: `INS` insulin delivered, U/h. d: `CHO` carbohydrate eaten, g/min; `S` insulin sensitivity as a factor on insulin's
    action on production and use; `ANN` carbohydrate announced to the controller in the last sample, g, which touches no
    state. p: `PARAMETERS`. y: `CGM` subcutaneous glucose, what the CGM sees, and `PG` plasma glucose, mg/dL; `IOB`
    insulin under the skin, U; `CHO` the announcement; `PI` plasma insulin, pmol/L; `RA` glucose appearing from the gut,
    mg/kg/min.
    """

    names = Names(
        x=("Qsto1", "Qsto2", "Qgut", "Gp", "Gt", "Ip", "X", "I1", "XL", "Il", "Isc1", "Isc2", "Gs", "Dbar", "CHO_last"),
        u=("INS",), d=("CHO", "S", "ANN"), p=PARAMETERS, y=("CGM", "IOB", "CHO", "PG", "PI", "RA"),
    )  # fmt: skip
    time_unit_s = 60.0
    step_s = 15.0
    tick_s = 60.0
    u0 = (float(_TYPICAL["basal_U_per_h"]),)
    d0 = (0.0, 1.0, 0.0)
    p0 = tuple(float(_TYPICAL[name]) for name in PARAMETERS)
    x0 = tuple(
        float(_TYPICAL[name]) if name else 0.0
        for name in ("", "", "", "Gpb", "Gtb", "Ipb", "", "Ib", "Ib", "Ilb", "Isc1ss", "Isc2ss", "Gpb", "", "")
    )
    d_range = {"CHO": (0.0, 50.0), "S": (0.2, 3.0), "ANN": (0.0, 300.0)}  # noqa: RUF012
    p_range = P_RANGE
    disclaimer = DISCLAIMER

    def __init__(self, cgm: type[Cgm] = DexcomG6, faults: Faults | None = None) -> None:
        self._cgm, self._faults = cgm, faults or Faults()

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        solid, liquid, gut, gp, gt, ip, action, delayed, liver_action, il, isc1, isc2, gs, dbar, _ = x
        (
            bw, _gb, ib, kabs, kmax, kmin, b, d_par, f, _vg, vi, k1, k2, kp1, kp2, kp3, ki, fsnc,
            ke1, ke2, vm0, vmx, km0, p2u, m1, m2, m4, m30, ka1, ka2, kd, ksc,
        ) = p  # fmt: skip
        # Gastric emptying: (tanh(a) - tanh(c) + 2) / 2 = 1 - 1/(1 + exp 2a) + 1/(1 + exp 2c), over one denominator. An
        # empty stomach (Dbar = 0) runs into the saturation, which is kmax, as it should be.
        full = (solid + liquid) / xp.maximum(dbar, 1e-3)
        rise = 1.0 + xp.exp(xp.minimum(5.0 * (full - b) / (1.0 - b), _SATURATED))
        fall = 1.0 + xp.exp(xp.minimum(5.0 * (full - d_par) / d_par, _SATURATED))
        kgut = kmin + (kmax - kmin) * (1.0 + (rise - fall) / (rise * fall))

        emptied, ground, absorbed = kgut * liquid, kmax * solid, kabs * gut
        insulin = ip / vi
        produced = xp.maximum(kp1 - kp2 * gp - kp3 * d[1] * liver_action, 0.0)
        excreted = xp.maximum(ke1 * (gp - ke2), 0.0)
        used = (vm0 + vmx * d[1] * action) * gt / (km0 + gt)
        out, back = k1 * gp, k2 * gt
        seep1, spread, seep2 = ka1 * isc1, kd * isc1, ka2 * isc2
        return (
            1000.0 * d[0] - ground,
            ground - emptied,
            emptied - absorbed,
            produced + f * absorbed / bw - fsnc - excreted - out + back,
            out - back - used,
            m1 * il + seep1 + seep2 - (m2 + m4) * ip,
            p2u * (insulin - ib - action),
            ki * (insulin - delayed),
            ki * (delayed - liver_action),
            m2 * ip - (m1 + m30) * il,
            100.0 * u[0] / bw - seep1 - spread,  # 1 U/h = 100 pmol/min
            spread - seep2,
            ksc * (gp - gs),
            0.0,
            0.0,
        )

    def on_sample(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        """A meal begins in the minute that eats after one that did not; what a minute will eat counts from its start."""
        eating = d[0] > 0.0
        before = xp.where(x[14] > 0.0, x[13], x[0] + x[1])
        return (*(x[i] for i in range(13)), xp.where(eating, before + 1000.0 * d[0], x[13]), d[0])

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        bw, vg, vi = p[0], p[9], p[10]
        return x[12] / vg, (x[10] + x[11]) * bw / 6000.0, d[2], x[3] / vg, x[5] / vi, p[8] * p[3] * x[2] / bw

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        low, high = xp.minimum(x[3], x[12]) / p[9], xp.maximum(x[3], x[12]) / p[9]
        least = x[0]
        for i in (1, 2, 4, 5, 7, 8, 9, 10, 11):  # X, insulin's action above its rest, may be negative
            least = xp.minimum(least, x[i])
        return {
            "glucose below 20 mg/dL": low - 20.0,
            "glucose above 600 mg/dL": 600.0 - high,
            "negative amount": least + 1e-3,
        }

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        """Each patient's fasting steady state at its own basal rate; `SpecError` for parameters out of range."""
        v = fasting(check(p))
        zero = np.zeros(len(p))
        parts = (zero, zero, zero, v["Gpb"], v["Gtb"], v["Ipb"], zero, v["Ib"], v["Ib"], v["Ilb"], v["Isc1ss"])
        return np.stack([*parts, v["Isc2ss"], v["Gpb"], zero, zero], 1)

    def population(self, batch: int, rng: np.random.Generator, **facts: str) -> Array:
        """Generated patients (batch x n_p): `cohort` adult, adolescent or child, `split` training or held_out."""
        if unknown := set(facts) - {"cohort", "split"}:
            raise SpecError(f"unknown {', '.join(sorted(unknown))}", "population", "Give cohort and split.")
        cohort, split = facts.get("cohort", Cohort.ADULT), facts.get("split", Split.TRAINING)
        return draw(cohort, split, batch, int(rng.integers(2**31))).p

    def timetable(
        self, batch: int, rng: np.random.Generator, duration_s: float, **facts: str | float
    ) -> dict[str, Array]:
        """Meals by the minute: `meals` S1, S2 or S3, and how they are announced (the fields of `Announcing`)."""
        facts = dict(facts)
        pattern = str(facts.pop("meals", "S3"))
        if unknown := set(facts) - {f.name for f in fields(Announcing)}:
            known = ", ".join(f.name for f in fields(Announcing))
            raise SpecError(f"unknown {', '.join(sorted(unknown))}", "timetable", f"Give meals, {known}.")
        minutes = max(1, round(duration_s / 60.0))
        days = -(-minutes // 1440)
        how = Announcing(**{k: int(v) if k == "late_min" else v for k, v in facts.items()})  # type: ignore[arg-type]
        planned = meals(pattern, days, batch, int(rng.integers(2**31)), how)
        return {"CHO": planned.intake().T[:minutes], "ANN": planned.announcement().T[:minutes]}

    def usual_moves(self, d: Array, p: Array) -> Array:
        """Each patient's own basal rate."""
        return basal_U_per_h(check(p))[:, None]

    def settings(self, p: Array) -> dict[str, Array]:
        """Each patient's basal rate and weight, as a clinic knows them."""
        return {"basal_U_per_h": basal_U_per_h(check(p)), "weight_kg": p[:, PARAMETERS.index("BW")]}

    def sensor(self, output: str, sigma: float) -> Sensor:
        """The CGM for `CGM` (`sigma` 0: a perfect one; else its published error scaled to that deviation)."""
        if output == "CGM":
            return self._cgm(sigma, self._faults)
        return super().sensor(output, sigma)
