"""The van de Vusse reactor against SciPy's DOP853 at 1e-12: 100 input sequences, do-mpc's own error beside ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import Report
from benchmarks.validation.sequences import Sequences, held, relative_error
from plant.spec import load_spec
from simulators.compiled import Kernel
from simulators.stepping import ErrorControlled, Stepper, stepper_of
from simulators.vandevusse import VanDeVusse

BAR_RELATIVE = 1e-6
REQUIREMENTS = ["do-mpc==5.1.2"]
_SAMPLES = 50  # the length of do-mpc's own example
_RK4_STEPS_S = (18.0, 9.0, 4.5, 3.0, 2.0, 1.5, 1.0, 0.5)
_RTOLS = (1e-6, 1e-8)


def sequences(count: int = 100, seed: int = 21) -> Sequences:
    """Moves anywhere inside their limits, feed within 10 % and 5 K, kinetics as uncertain as do-mpc's example has them;
    from its start."""
    rng = np.random.default_rng(seed)
    u = np.stack([held(rng, _SAMPLES, count, 5.0, 100.0, 4), held(rng, _SAMPLES, count, -8500.0, 0.0, 4)], -1)
    d = np.stack([held(rng, _SAMPLES, count, 4.6, 5.6, 15), held(rng, _SAMPLES, count, 125.0, 135.0, 15)], -1)
    p = np.column_stack([rng.uniform(0.95, 1.05, count), rng.uniform(0.9, 1.1, count)])
    return Sequences(load_spec("vandevusse"), np.tile([0.8, 0.5, 134.14, 130.0], (count, 1)), u, d, p)


def validate(report: Report, data: Path, quick: bool, peers: bool = True) -> None:
    """Add the tables and bars to `report`. With `peers` do-mpc replays the same sequences (`SpecError` if its environment
    cannot be made). `data` is not needed."""
    case = sequences()
    truth = case.reference(VanDeVusse()).states
    ours = _row(case, truth, stepper_of(VanDeVusse), f"ours, default: RK4, {VanDeVusse.step_s:g} s")
    rows = [ours]
    for h in () if quick else _RK4_STEPS_S:
        rows.append(_row(case, truth, Kernel(type("Varied", (VanDeVusse,), {"step_s": h})()), f"RK4, {h:g} s"))
    for rtol in () if quick else _RTOLS:
        kernel = Kernel(type("Varied", (VanDeVusse,), {"rtol": rtol})())
        rows.append(_row(case, truth, kernel, f"Dormand-Prince 5(4), rtol {rtol:g}"))
    if not quick:
        numpy = ErrorControlled(VanDeVusse())
        rows.append(_row(case, truth, numpy, "Dormand-Prince 5(4) in numpy, rtol 1e-07, one step for all"))
    if peers:
        with tempfile.TemporaryDirectory() as folder:
            found = case.by_peer("dompc", REQUIREMENTS, "dompc_vandevusse.py", Path(folder))
        rows += [[f"do-mpc 5.1.2, {k}", float(relative_error(v, truth).max()), "", ""] for k, v in found.items()]
    hot = truth[:, :, 2]
    report.table(
        f"vandevusse: {len(case)} random input sequences of {_SAMPLES} samples, T_R {hot.min():.0f}..{hot.max():.0f} degC",
        ["integrator", "relative error", "ended", "ns a plant-step of 18 s (batch 1,000, all cores)"], rows,
    )  # fmt: skip
    report.bar("vandevusse: relative error", float(str(ours[1])), BAR_RELATIVE, at_least=False)


def _row(case: Sequences, truth: np.ndarray, stepper: Stepper, label: str) -> list[object]:
    states, plant = case.lived(stepper)
    lives = plant.ended == 0
    error = relative_error(states, truth)[:, lives]
    worst = float(error.max()) if error.size else float("nan")
    return [label, worst, int((~lives).sum()), case.cost_ns(stepper)]
