"""The reactor against SciPy's DOP853 at 1e-12: 100 input sequences, many of which ignite, pc-gym's error beside ours."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Report
from benchmarks.validation.sequences import Array, Reference, Sequences, crossing_s, held, relative_error
from plant.spec import load_spec
from simulators.compiled import Kernel
from simulators.reactor import BareReactor
from simulators.stepping import Stepper, stepper_of

BAR_RELATIVE, BAR_IGNITION_S, BAR_PEAK_K, LEAST_IGNITIONS = 1e-5, 0.1, 0.5, 10
REQUIREMENTS = ["pcgym==0.1.8", "numpy<2.4"]
IGNITED_K = 350.0
_SAMPLES, _GRID_S, _SETTLED_S = 60, 0.26, 120.0
_RK4_STEPS_S = (2.6, 1.3, 0.52, 0.26, 0.1, 0.05)
_RTOLS = (1e-5, 1e-6, 1e-7, 3e-8, 1e-8)


def sequences(count: int = 100, seed: int = 20) -> Sequences:
    """Coolant 288..306 K and feed 345..358 K, each level held for a while; starts spread over the operating
    region."""
    rng = np.random.default_rng(seed)
    u = held(rng, _SAMPLES, count, 288.0, 306.0, 4)[:, :, None]
    feed = held(rng, _SAMPLES, count, 345.0, 358.0, 15)
    d = np.stack([feed, np.ones_like(feed), np.full_like(feed, 100.0)], -1)
    x0 = np.column_stack([rng.uniform(0.75, 0.95, count), rng.uniform(312.0, 331.0, count)])
    return Sequences(load_spec("reactor_bare"), x0, u, d, np.ones((count, 2)))


@dataclass(frozen=True)
class Truth:
    """The reference, and what is asked of it: when each run first passes 350 K (s, NaN: never) and its hottest (K)."""

    reference: Reference
    ignition_s: Array
    peak_K: Array

    @classmethod
    def of(cls, reference: Reference) -> Truth:
        hot = reference.path[:, :, 1]
        return cls(reference, crossing_s(reference.times_s, hot, IGNITED_K), hot.max(0))

    @property
    def ignites(self) -> NDArray[np.bool_]:
        return np.isfinite(self.ignition_s)

    def away(self, dt_s: float) -> NDArray[np.bool_]:
        """(samples + 1 x n): away from ignition, which is before the run first passes 350 K."""
        return np.arange(len(self.reference.states))[:, None] * dt_s < np.where(self.ignites, self.ignition_s, np.inf)

    def settled(self, dt_s: float) -> NDArray[np.bool_]:
        """(samples + 1 x n): burning since two minutes or more."""
        return np.arange(len(self.reference.states))[:, None] * dt_s > self.ignition_s + _SETTLED_S


def validate(report: Report, data: Path, quick: bool, peers: bool = True) -> None:
    """Add the reactor's tables and bars to `report`. With `peers` pc-gym replays the same sequences (`SpecError` if its
    environment cannot be made). `data` is not needed."""
    case = sequences()
    truth = Truth.of(case.reference(BareReactor(), 1e-12 if quick else 1e-13))
    columns = [
        "integrator", "error away from ignition", "burning >= 2 min", "ignition time, s", "peak, K", "ended",
        "ns a plant-step of 26 s",
    ]  # fmt: skip
    rows: list[list[object]] = []
    default = stepper_of(BareReactor)
    ours = _row(case, truth, default, f"ours, default: rtol {BareReactor.rtol:g}")
    rows.append(ours)
    kinds: list[tuple[str, dict]] = [(f"Dormand-Prince 5(4), rtol {r:g}", {"rtol": r}) for r in _RTOLS]
    kinds += [(f"RK4, {h:g} s", {"rtol": None, "step_s": h}) for h in _RK4_STEPS_S]
    for label, change in () if quick else kinds:
        rows.append(_row(case, truth, Kernel(type("Varied", (BareReactor,), change)()), label))
    if peers:
        rows += _peer(case, truth, 10 if quick else len(case))
    ignites = int(truth.ignites.sum())
    report.table(f"reactor: {len(case)} random input sequences of 26 min, {ignites} ignite", columns, rows)
    report.note(
        f"reactor: errors are the largest over all runs; relative to DOP853 (rtol {1e-12 if quick else 1e-13:g}), worst "
        "component. Away from ignition: every sample of a run before it first passes 350 K. Ended: a fixed step that is too "
        "long for an ignition leaves the envelope. Ignition time and peak are read between samples, where every sample is run "
        f"again from its own state on a grid of {_GRID_S:g} s, or {_GRID_S / 13:g} s near a flame. Cost: batch "
        f"{10 * len(case)}, all cores."
    )
    away, _, ignition, peak = (float(str(v)) for v in ours[1:5])
    report.bar("reactor: relative error away from ignition", away, BAR_RELATIVE, at_least=False)
    report.bar("reactor: ignition time, s", ignition, BAR_IGNITION_S, at_least=False)
    report.bar("reactor: peak temperature, K", peak, BAR_PEAK_K, at_least=False)
    report.bar("reactor: runs that ignite", ignites, LEAST_IGNITIONS, at_least=True)


def _row(case: Sequences, truth: Truth, stepper: Stepper, label: str) -> list[object]:
    states, plant = case.lived(stepper)
    lives = plant.ended == 0
    times, hot = _within(case, states, stepper)
    dt_s = case.spec.sample_time_s
    error = relative_error(states, truth.reference.states)
    timing = np.abs(crossing_s(times, hot, IGNITED_K) - truth.ignition_s)[truth.ignites & lives]
    peak = np.abs(hot.max(0) - truth.peak_K)[truth.ignites & lives]
    return [
        label, *(_worst(error[where & lives]) for where in (truth.away(dt_s), truth.settled(dt_s))), _worst(timing),
        _worst(peak), int((~lives).sum()), case.cost_ns(stepper),
    ]  # fmt: skip


def _within(case: Sequences, states: Array, stepper: Stepper) -> tuple[Array, Array]:
    """Temperatures (times x n) on a grid inside each sample, every sample started from its own state in `states`; the grid
    is finer where a run may peak (a flame's last rise takes a tenth of a second)."""
    times, hot = [0.0], [states[0, :, 1]]
    for k, (u, d) in enumerate(zip(case.u, case.d, strict=True)):
        x, dt_s = states[k], case.spec.sample_time_s
        rising = (np.maximum(x[:, 1], states[k + 1, :, 1]) > 335.0) & (x[:, 1] < 400.0)
        parts = 13 * round(dt_s / _GRID_S) if rising.any() else round(dt_s / _GRID_S)
        codes = np.zeros(len(x), np.int64)
        for part in range(1, parts + 1):
            x, codes = stepper.advance(x, u, d, case.p, dt_s / parts, codes)
            times.append(k * dt_s + part * dt_s / parts)
            hot.append(x[:, 1])
    return np.array(times), np.array(hot)


def _peer(case: Sequences, truth: Truth, count: int) -> list[list[object]]:
    first = Sequences(case.spec, case.x0[:count], case.u[:, :count], case.d[:, :count], case.p[:count])
    with tempfile.TemporaryDirectory() as folder:
        found = first.by_peer("pcgym", REQUIREMENTS, "pcgym_reactor.py", Path(folder))
    rows: list[list[object]] = []
    for method, states in found.items():
        n, dt_s = states.shape[1], case.spec.sample_time_s
        error = relative_error(states, truth.reference.states[:, :n])
        away, settled = truth.away(dt_s)[:, :n], truth.settled(dt_s)[:, :n]
        rows.append([f"pc-gym 0.1.8, {method} ({n} runs)", _worst(error[away]), _worst(error[settled]), "", "", "", ""])
    return rows


def _worst(values: Array) -> float:
    return float(values.max()) if values.size else float("nan")
