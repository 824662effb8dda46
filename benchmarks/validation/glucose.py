"""The glucose plant against simglucose 0.2.11, at rest, against published facts, and under its baseline controllers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Report
from controllers.baselines.clinical import TUNED, BasalBolus, Clinical, PdGains, PdInsulinFeedback
from controllers.evaluation.glucose import live
from plant.spec import load_spec
from simulators.compiled import Kernel
from simulators.glucose import Glucose
from simulators.glucose.meals import Announcing, Meals, meals
from simulators.glucose.patients import PARAMETERS, Cohort, Patients, Split, Therapy, basal_U_per_h, draw, fasting

Array = NDArray[np.float64]

REQUIREMENTS = ["simglucose==0.2.11", "setuptools<81"]
_TRACE_SCRIPT = Path(__file__).parents[1] / "peers" / "simglucose_trace.py"
_STEPS_S = (60.0, 30.0, 20.0, 15.0, 7.5)
_HOURS = 48
_SHOWN = ("tir", "tbr70", "tbr54", "tar180", "tar250", "cv", "lbgi", "hbgi", "gri")
_PD_TARGET, _BOLUS_TARGET = 110.0, 140.0


def validate(report: Report, data: Path, quick: bool, traces: Path | None) -> None:
    """Add the glucose tables and bars to `report`. `traces`: a folder outside the repository for the recording of
    simglucose's closed loops, made there when missing (None: that comparison is left out, and said so)."""
    report.note(Glucose.disclaimer)
    if traces is None:
        report.note("glucose: simglucose was not replayed; no folder for its traces was given.")
    else:
        _replay(report, _trace(traces), quick)
    _rest(report, 40 if quick else 400)
    _facts(report, 40 if quick else 400)
    _controllers(report, 20 if quick else 100)
    if not quick:
        _tuning(report)


def _trace(folder: Path) -> dict[str, Any]:
    path = folder / "simglucose.npz"
    if not path.exists():
        from benchmarks.peers.environment import environment

        folder.mkdir(parents=True, exist_ok=True)
        python = environment("simglucose", REQUIREMENTS)
        subprocess.run([str(python), "-W", "ignore", str(_TRACE_SCRIPT), str(path), "--hours", str(_HOURS)], check=True)
    with np.load(path) as stored:
        return dict(stored)


def _kernel(step_s: float) -> Kernel:
    return Kernel(type("Glucose", (Glucose,), {"step_s": step_s})())


def _lived(kernel: Kernel, x: Array, p: Array, insulin_U_per_h: Array, eaten: Array) -> Array:
    """Subcutaneous glucose (batch x minutes + 1) under insulin and intake (batch x minutes each)."""
    glucose, codes = [x[:, 12]], np.zeros(len(x), np.int64)
    d = np.tile(Glucose.d0, (len(x), 1))
    for u, d[:, 0] in zip(insulin_U_per_h.T, eaten.T, strict=True):
        x, codes = kernel.advance(x, u[:, None], d, p, 60.0, codes)
        glucose.append(x[:, 12])
    assert not codes.any(), "a patient left the envelope"
    return np.array(glucose).T / p[:, PARAMETERS.index("Vg")][:, None]


def _reference_patients(trace: dict[str, Any]) -> tuple[Array, Array]:
    """p and x0 of the recorded patients."""
    names = list(trace["names"])
    p = np.stack([trace["parameters"][:, names.index(name)] for name in PARAMETERS], 1)
    return p, np.concatenate([trace["x0"], np.zeros((len(p), 2))], 1)


def _replay(report: Report, trace: dict[str, Any], quick: bool) -> None:
    p, x0 = _reference_patients(trace)
    insulin, eaten, expected = 60.0 * trace["insulin"], trace["carbohydrate"], trace["glucose"]
    rows, at_default = [], np.inf
    for step_s in (Glucose.step_s,) if quick else _STEPS_S:
        kernel = _kernel(step_s)
        error = np.abs(_lived(kernel, x0, p, insulin, eaten) - expected)
        wide = [np.tile(a, (32, 1)) for a in (x0, insulin[:, :1], p)]
        d = np.tile(Glucose.d0, (len(wide[0]), 1))
        began = perf_counter()
        kernel.advance(wide[0], wide[1], d, wide[2], 600.0 * 60.0)
        cost_ns = 1e9 * (perf_counter() - began) / (600 * len(wide[0]))
        rows.append([step_s, float(error.max()), float(np.sqrt((error**2).mean())), cost_ns])
        if step_s == Glucose.step_s:
            at_default = float(error.max())
    report.table(
        f"glucose: {len(p)} simglucose patients, {expected.shape[1] // 60} h of its own insulin and meals replayed "
        f"({expected.min():.0f}..{expected.max():.0f} mg/dL)",
        ["RK4 step s", "max error mg/dL", "rms error mg/dL", "ns a patient-minute (batch 960)"],
        rows,
    )
    redrawn = int((trace["seed"] > 100).sum())
    report.note(
        f"simglucose closed its own loop (Dexcom CGM, Insulet pump, random meals); {redrawn} patients had their days drawn "
        "again because the first draw took them below 20 mg/dL, where simglucose holds states and ours have ended."
    )
    report.bar("glucose: error against simglucose at the default step, mg/dL", at_default, 0.05, at_least=False)
    therapy = Therapy(basal_U_per_h(p), 500.0 / trace["ratio"], trace["ratio"], trace["correction"])
    spec, rows = load_spec("glucose"), []
    for cohort, published in (("adult", "95.2/2.0"), ("adolescent", "83.0/3.1"), ("child", "67.9/23.5")):
        of = np.array([str(name).startswith(cohort) for name in trace["patient"]])
        copies = 2 if quick else 10
        own = Therapy(*(np.tile(v[of], copies) for v in vars(therapy).values()))
        patients = np.tile(p[of], (copies, 1))
        days = meals("S3", 2, len(patients), 3)
        result = live(spec, BasalBolus(spec, own), patients, days)
        rows.append([cohort, *(result.metrics.means()[k] for k in _SHOWN), int(result.ended.sum()), published])
    report.table(
        "glucose: simglucose's patients and its ratios on our plant, S3 + CGM noise, basal-bolus, every meal announced",
        ["cohort", *_SHOWN, "left 20..600 mg/dL", "design's TIR/TBR70"],
        rows,
    )


def _rest(report: Report, count: int) -> None:
    kernel, rows, worst = _kernel(Glucose.step_s), [], 0.0
    for cohort, split in product(Cohort, Split):
        patients = draw(cohort, split, count)
        drift, steady = _drift(kernel, patients)
        rows.append([cohort.value, split.value, count, drift, steady])
        worst = max(worst, drift)
    columns = ["cohort", "split", "patients", "max drift mg/dL", "identities: max relative error"]
    report.table(f"glucose: fasting on the basal rate for {_HOURS} h", columns, rows)
    report.bar("glucose: fasting drift of every generated patient, mg/dL", worst, 0.01, at_least=False)


def _drift(kernel: Kernel, patients: Patients) -> tuple[float, float]:
    p = patients.p
    d, u = np.tile(Glucose.d0, (len(p), 1)), patients.therapy.basal_U_per_h[:, None]
    x = start = Glucose().initial(u, d, p)
    drift, codes = 0.0, np.zeros(len(p), np.int64)
    for _ in range(_HOURS):
        x, codes = kernel.advance(x, u, d, p, 3600.0, codes)
        drift = max(drift, float(np.abs((x - start)[:, [3, 12]] / p[:, [PARAMETERS.index("Vg")]]).max()))
    assert not codes.any(), "a fasting patient left the envelope"
    v = fasting(p)
    vm0 = (v["EGPb"] - v["Fsnc"]) * (v["Km0"] + v["Gtb"]) / v["Gtb"]
    return drift, float(np.abs(vm0 / v["Vm0"] - 1.0).max())


def _facts(report: Report, count: int) -> None:
    kernel, rows = _kernel(Glucose.step_s), []
    for cohort in Cohort:
        patients = draw(cohort, Split.TRAINING, count)
        p, basal = patients.p, np.tile(patients.therapy.basal_U_per_h[:, None], (1, 720))
        x = Glucose().initial(basal[:, :1], np.empty(0), p)
        served = np.zeros((count, 720))
        served[:, 0] = 0.64 * p[:, PARAMETERS.index("BW")]
        peak = _lived(kernel, x, p, basal, Meals(served, 0.0 * served).intake()).max(1)
        once = basal.copy()
        once[:, 0] += 60.0 * basal[:, 0]
        glucose = _lived(kernel, x, p, once, np.zeros((count, 720)))
        fall = glucose[:, 0] - glucose.min(1)
        rows.append([cohort.value, _quartiles(peak), _quartiles(fall)])
    report.table(
        f"glucose: {count} generated patients a cohort, median [quartiles], mg/dL (design, adults: 242 and 18; simglucose's "
        "ten: 245 and 14)",
        ["cohort", "peak after 0.64 g/kg on basal", "fall after one hour of basal as a bolus"],
        rows,
    )


def _quartiles(values: Array) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.0f} [{low:.0f}-{high:.0f}]"


def _controllers(report: Report, count: int) -> None:
    spec, rows = load_spec("glucose"), []
    untold, forgetful = Announcing(told=False), Announcing(missed=1 / 3)
    for cohort in Cohort:
        patients = draw(cohort, Split.HELD_OUT, count)
        clinic, gains = patients.therapy, TUNED[cohort]
        cases: Iterable[tuple[str, Clinical, Announcing, float]] = (
            ("basal-bolus, announced", BasalBolus(spec, clinic), Announcing(), _BOLUS_TARGET),
            ("the same + predictive suspend", BasalBolus(spec, clinic, 80.0), Announcing(), _BOLUS_TARGET),
            ("the same, counting error 30 %", BasalBolus(spec, clinic), Announcing(counting_sd=0.3), _BOLUS_TARGET),
            ("a third of the boluses missed", BasalBolus(spec, clinic), forgetful, _BOLUS_TARGET),
            ("unannounced, PD + insulin feedback", PdInsulinFeedback(spec, clinic, gains), untold, _PD_TARGET),
        )
        for name, controller, telling, target in cases:
            days = meals("S3", 3, count, 1, telling)
            result = live(spec, controller, patients.p, days, seed=1, target_mg_dL=target)
            means, well = result.metrics.means(), 100.0 * float(result.metrics.on_target().mean())
            rows.append([cohort.value, name, *(means[k] for k in _SHOWN), well, int(result.ended.sum())])
    report.table(
        f"glucose: {count} held-out patients a cohort by the 500/1800 rules, 3 days of S3 + CGM noise",
        ["cohort", "controller", *_SHOWN, "% on all targets", "left 20..600 mg/dL"],
        rows,
    )


def _tuning(report: Report) -> None:
    rows = []
    for cohort in Cohort:
        sets, result = tune(cohort)
        order = np.argsort(result["gri"])
        for i in order[:3]:
            mark = "chosen" if sets[i] == TUNED[cohort] else ""
            rows.append([cohort.value, *vars(sets[i]).values(), *(float(result[k][i]) for k in _SHOWN), mark])
    report.table(
        "glucose: PD + insulin feedback, the best three of 48 gain sets on 40 training patients a cohort (least mean GRI)",
        ["cohort", "lead min", "feedback", "within h", "most x basal", *_SHOWN, ""],
        rows,
    )


def tune(cohort: Cohort, count: int = 40) -> tuple[list[PdGains], dict[str, Array]]:
    """48 gain sets on training patients, all in one batch: the sets, and each metric's mean over the patients (48,)."""
    spec, patients = load_spec("glucose"), draw(cohort, Split.TRAINING, count)
    sets = [PdGains(*s) for s in product((15.0, 30.0, 60.0, 90.0), (0.5, 0.75, 1.0, 1.25), (0.25, 0.5, 1.0))]

    def spread(a: Array) -> Array:
        return np.tile(a, (len(sets), *[1] * (a.ndim - 1)))

    days = meals("S3", 3, count, 11, Announcing(told=False))
    gains = PdGains(*(np.repeat([vars(s)[k] for s in sets], count) for k in ("lead_min", "feedback", "within_h")))
    controller = PdInsulinFeedback(spec, Therapy(*map(spread, vars(patients.therapy).values())), gains)
    eaten = Meals(spread(days.served), spread(days.announced))
    result = live(spec, controller, spread(patients.p), eaten, seed=11, target_mg_dL=_PD_TARGET).metrics
    return sets, {k: v.reshape(len(sets), count).mean(1) for k, v in vars(result).items()}
