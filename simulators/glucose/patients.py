"""Virtual patients: the parameters of the UVA/Padova equations, the identities between them, and generated cohorts.

A cohort is drawn from the statistics in `cohorts.json` (means and deviations of the transformed free parameters of each
cohort, one correlation); the identities give each patient an exact fasting steady state. Training and held-out patients
come from seed sequences of their own, so no patient is ever in both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError

Array = NDArray[np.float64]

# What the equations need, in the order of p. BW kg; Gb mg/dL; Ib pmol/L; Vg dL/kg; Vi L/kg; kabs, kmax, kmin, k1, k2,
# p2u, m1, m2, m4, m30, ki, kd, ka1, ka2, ksc, ke1 1/min; kp1, Fsnc, Vm0 mg/kg/min; kp2 1/min; kp3 mg/kg/min per pmol/L;
# Vmx mg/kg/min per pmol/L; Km0, ke2 mg/kg; b, d, f fractions.
PARAMETERS = (
    "BW", "Gb", "Ib", "kabs", "kmax", "kmin", "b", "d", "f", "Vg", "Vi", "k1", "k2", "kp1", "kp2", "kp3", "ki", "Fsnc",
    "ke1", "ke2", "Vm0", "Vmx", "Km0", "p2u", "m1", "m2", "m4", "m30", "ka1", "ka2", "kd", "ksc",
)  # fmt: skip

# Outside the published populations by a factor of about two: a patient beyond is a mistake.
P_RANGE = {
    "BW": (10.0, 200.0), "Gb": (70.0, 250.0), "Ib": (20.0, 400.0), "kabs": (0.004, 3.0), "kmax": (0.005, 0.2),
    "kmin": (0.0005, 0.08), "b": (0.2, 0.999), "d": (0.03, 0.6), "f": (0.5, 1.0), "Vg": (1.0, 3.5), "Vi": (0.01, 0.2),
    "k1": (0.01, 0.3), "k2": (0.01, 0.7), "kp1": (1.5, 30.0), "kp2": (0.0005, 0.06), "kp3": (0.001, 0.08),
    "ki": (0.0005, 0.1), "Fsnc": (0.5, 2.0), "ke1": (0.0, 0.01), "ke2": (200.0, 600.0), "Vm0": (0.1, 40.0),
    "Vmx": (0.002, 0.5), "Km0": (80.0, 600.0), "p2u": (0.003, 0.3), "m1": (0.03, 1.0), "m2": (0.03, 2.0),
    "m4": (0.01, 0.8), "m30": (0.03, 2.0), "ka1": (0.0003, 0.03), "ka2": (0.002, 0.1), "kd": (0.004, 0.06),
    "ksc": (0.01, 0.5),
}  # fmt: skip

_BASAL_SHARE = 0.48  # basal insulin's share of the total daily dose, from the design's rule
_BLOCK = 256  # candidates drawn at a time; patient i does not depend on how many are asked for


class Cohort(StrEnum):
    """Whose statistics."""

    ADULT = "adult"
    ADOLESCENT = "adolescent"
    CHILD = "child"


class Split(StrEnum):
    """What a patient may be used for."""

    TRAINING = "training"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class Therapy:
    """What a clinic would write down for each patient (n,): the basal rate U/h, the total daily dose U, the carbohydrate
    ratio g/U and the correction factor mg/dL per U."""

    basal_U_per_h: Array
    daily_U: Array
    ratio_g_per_U: Array
    correction_mg_dL_per_U: Array

    @staticmethod
    def by_rules(basal_U_per_h: Array) -> Therapy:
        """The 500 and 1800 rules on a total daily dose of which each patient's basal rate (n,) is 48 %."""
        daily = 24.0 * basal_U_per_h / _BASAL_SHARE
        return Therapy(basal_U_per_h, daily, 500.0 / daily, 1800.0 / daily)


@dataclass(frozen=True)
class Patients:
    """`p` (n x n_p) in the order of `PARAMETERS`, and what each patient's clinic would have set."""

    cohort: Cohort
    split: Split
    p: Array
    therapy: Therapy


def complete(free: Mapping[str, Any]) -> dict[str, Any]:
    """The derived parameters and the fasting state from the free ones (any array shape), by the identities that make
    fasting a steady state: Gpb, Gtb, Ipb, Ilb, m4, m30, kp1, Vm0, Isc1ss, Isc2ss, u2ss and basal_U_per_h, beside `free`.

    Dalla Man, Rizza & Cobelli, IEEE Trans. Biomed. Eng. 54 (2007) 1740, at rest; m4 = 0.4 m2 and constant hepatic
    extraction HEb as in the type-1 simulators of this family.
    """
    v = dict(free)
    v["Gpb"], v["Ipb"] = v["Gb"] * v["Vg"], v["Ib"] * v["Vi"]
    v["m30"], v["m4"] = v["m1"] * v["HEb"] / (1.0 - v["HEb"]), 0.4 * v["m2"]
    v["kp1"] = v["EGPb"] + v["kp2"] * v["Gpb"] + v["kp3"] * v["Ib"]
    v["Gtb"] = (v["Fsnc"] - v["EGPb"] + v["k1"] * v["Gpb"]) / v["k2"]
    v["Vm0"] = (v["EGPb"] - v["Fsnc"]) * (v["Km0"] + v["Gtb"]) / v["Gtb"]
    return v | _insulin_at_rest(v)


def fasting(p: Array) -> dict[str, Array]:
    """The same fasting state from a patient's parameters `p` (n x n_p) alone, (n,) each."""
    v: dict[str, Any] = dict(zip(PARAMETERS, np.asarray(p, float).T, strict=True))
    v["Gpb"], v["Ipb"] = v["Gb"] * v["Vg"], v["Ib"] * v["Vi"]
    v["EGPb"] = v["kp1"] - v["kp2"] * v["Gpb"] - v["kp3"] * v["Ib"]
    v["Gtb"] = (v["Fsnc"] - v["EGPb"] + v["k1"] * v["Gpb"]) / v["k2"]
    return v | _insulin_at_rest(v)


def _insulin_at_rest(v: dict[str, Any]) -> dict[str, Any]:
    liver = v["m2"] * v["Ipb"] / (v["m1"] + v["m30"])
    absorbed = (v["m2"] + v["m4"]) * v["Ipb"] - v["m1"] * liver  # u2ss, pmol/kg/min
    first = absorbed / (v["kd"] + v["ka1"])
    return {
        "Ilb": liver, "u2ss": absorbed, "Isc1ss": first, "Isc2ss": v["kd"] * first / v["ka2"],
        "basal_U_per_h": absorbed * v["BW"] / 100.0,
    }  # fmt: skip


def basal_U_per_h(p: Array) -> Array:
    """The insulin rate (n,) that holds each patient `p` (n x n_p) at its fasting glucose, U/h."""
    return fasting(p)["basal_U_per_h"]


def check(p: Array, where: str = "patients") -> Array:
    """`p` as an (n x n_p) array; `SpecError` for a wrong shape, or for a parameter out of `P_RANGE` or not finite."""
    p = np.asarray(p, float)
    if p.ndim != 2 or p.shape[1] != len(PARAMETERS):
        raise SpecError(
            f"shape {p.shape}", where, f"A patient a row: (n, {len(PARAMETERS)}), in the order of PARAMETERS."
        )
    for name, column in zip(PARAMETERS, p.T, strict=True):
        low, high = P_RANGE[name]
        wrong = ~((column >= low) & (column <= high))
        if wrong.any():
            i = int(wrong.argmax())
            raise SpecError(f"{name} = {column[i]:g} of patient {i}", where, f"Stay in [{low:g}, {high:g}].")
    return p


@cache
def _statistics() -> dict[str, Any]:
    text = resources.files("simulators.glucose").joinpath("cohorts.json").read_text(encoding="utf-8")
    return json.loads(text)


def draw(cohort: Cohort | str, split: Split | str, count: int, seed: int = 0) -> Patients:
    """`count` generated patients. The same cohort, split and seed give the same patients in the same order, however many
    are asked for; two splits share none. `SpecError` for an unknown cohort or split, or a count below 1."""
    try:
        cohort, split = Cohort(cohort), Split(split)
    except ValueError as e:
        known = f"Cohorts: {', '.join(Cohort)}; splits: {', '.join(Split)}."
        raise SpecError(str(e), "patients", known) from None
    if count < 1 or seed < 0:
        raise SpecError(f"count {count}, seed {seed}", "patients", "Ask for at least one patient and a seed from 0 up.")
    facts = _statistics()
    names, mean, sd = facts["parameters"], *(np.array(facts["cohorts"][cohort][k]) for k in ("mean", "sd"))
    root = np.linalg.cholesky(np.array(facts["correlation"]))
    log = np.array([facts["transform"][name] == "log" for name in names])
    key = [seed, list(Cohort).index(cohort), list(Split).index(split)]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    kept: list[Array] = []
    while sum(map(len, kept)) < count:
        y = mean + 0.8 * sd * np.clip(rng.standard_normal((_BLOCK, len(names))) @ root.T, -2.0, 2.0)
        free = np.where(log, np.exp(np.where(log, y, 0.0)), 1.0 / (1.0 + np.exp(-y)))
        v = complete({**dict(zip(names, free.T, strict=True)), **facts["constants"]})
        good = (v["EGPb"] > 1.1 * v["Fsnc"]) & (v["Gtb"] > 20.0) & (v["Vm0"] > 0.0)
        good &= (v["kmin"] < v["kmax"]) & (v["d"] < v["b"])
        kept.append(np.stack([np.broadcast_to(v[name], (_BLOCK,)) for name in PARAMETERS], 1)[good])
    p = check(np.concatenate(kept)[:count])
    return Patients(cohort, split, p, Therapy.by_rules(basal_U_per_h(p)))
