"""Faults injected into simulated plants for `benchmarks.surprise`: what breaks, by how much, and a twin that stays sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.world_model_data import _Witnessed, runs_of
from homeostat.lockstep import excited, record
from models.windows import Run
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario, load_scenario

Array = NDArray[np.float64]
DRIFT_SAMPLES, SPIKE_EVERY = 30, 8


@dataclass(frozen=True, eq=False)
class Fault:
    """One thing that breaks. `tag` with `sensor` (bias, drift, freeze, noise, spikes) of `size`, in deviations of the sensor's
    noise; or a process fault: factors on `parameters` and true `disturbances`, on what an actuator makes of a `move` (0: it
    is stuck where it was), of which `hidden` readings are not told. `says`: the size, for the table."""

    name: str
    says: str
    tag: str = ""
    sensor: str = ""
    size: float = 0.0
    parameters: dict[str, float] = field(default_factory=dict)
    disturbances: dict[str, float] = field(default_factory=dict)
    move: tuple[str, float] = ("", 1.0)
    hidden: dict[str, Callable[[Array], Array]] = field(default_factory=dict)


def sensor_faults(tag: str, sigmas: float = 10.0) -> tuple[Fault, ...]:
    """The five ways in which the sensor of `tag` breaks; a drift reaches the size of the bias in `DRIFT_SAMPLES` samples."""
    return (
        Fault("bias", f"{tag}, {sigmas:g} sigma", tag, "bias", sigmas),
        Fault("drift", f"{tag}, {sigmas:g} sigma in {DRIFT_SAMPLES} samples, then on", tag, "drift", sigmas),
        Fault("freeze", tag, tag, "freeze"),
        Fault("noise x 3", tag, tag, "noise", np.sqrt(8.0)),
        Fault("spike train", f"{tag}, {2 * sigmas:g} sigma every {SPIKE_EVERY} samples", tag, "spikes", 2 * sigmas),
    )


# Sizes were chosen for what an engineer would want to be told of, before any score was looked at.
FAULTS: dict[str, tuple[Fault, ...]] = {
    "reactor": (
        *sensor_faults("TI101"),
        Fault("fouling step", "UA -15 %", parameters={"UA": 0.85}),
        Fault("feed step", "Caf -5 %, not measured", disturbances={"Caf": 0.95}),
        Fault("valve stuck", "TC101 where it was", move=("TC101", 0.0)),
        Fault("catalyst loss", "k0 -10 %", parameters={"k0": 0.9}),
        Fault("leak", "5 % of the feed past its meter", disturbances={"q": 0.95}, hidden={"FI100": lambda v: v / 0.95}),
    ),
    "vandevusse": (
        *sensor_faults("T_R"),
        Fault("fouling step", "jacket passes 10 % less duty", move=("Qdot", 0.9)),
        Fault("feed step", "Ca_in +5 %, analyser does not see it", disturbances={"Ca_in": 1.05},
              hidden={"Ca_in": lambda v: v / 1.05}),
        Fault("valve stuck", "F where it was", move=("F", 0.0)),
        Fault("catalyst loss", "beta -10 %", parameters={"beta": 0.9}),
        Fault("leak", "10 % of the feed past its meter", move=("F", 0.9)),
    ),
    "turbofan": (
        *sensor_faults("T45"),
        Fault("fouling step", "hpc_eff and hpc_flow -2 %", parameters={"hpc_eff": 0.98, "hpc_flow": 0.98}),
        Fault("feed step", "day 10 degR hotter, not measured", hidden={"DT": lambda v: v - 10.0}, disturbances={"DT": 10.0}),
        Fault("valve stuck", "FUEL where it was", move=("FUEL", 0.0)),
        Fault("efficiency loss", "hpt_eff -2 %", parameters={"hpt_eff": 0.98}),
        Fault("leak", "3 % of the fuel behind its meter", move=("FUEL", 0.97), hidden={"WF": lambda v: v / 0.97}),
    ),
    "glucose": (
        *sensor_faults("CGM", 5.0),
        Fault("fouling step", "kd, ka1, ka2 -40 % (infusion site)", parameters={"kd": 0.6, "ka1": 0.6, "ka2": 0.6}),
        Fault("feed step", "60 g unannounced in 15 min", disturbances={"CHO": 4.0}),
        Fault("valve stuck", "INS where it was", move=("INS", 0.0)),
        Fault("efficiency loss", "insulin sensitivity -40 %", disturbances={"S": 0.6}),
        Fault("leak", "40 % of the insulin beside the skin", move=("INS", 0.6)),
    ),
}  # fmt: skip
_ADDED = {"DT", "CHO"}  # disturbances whose usual level may be zero: the fault adds
_LASTS_S = {"CHO": 900.0}


class Broken(Drawn):
    """A scenario in which `fault` strikes every plant at `onset_s`. Without one it draws exactly the same conditions."""

    def __init__(self, scenario: Scenario, spec: PlantSpec, fault: Fault | None, onset_s: float, seed: int) -> None:
        super().__init__(scenario)
        self._fault, self._onset_s, self._spec = fault, onset_s, spec
        self._own = np.random.default_rng(np.random.SeedSequence([seed, 0xFA]))
        self._struck, self._last, self._stuck = False, {}, None

    @property
    def _on(self) -> bool:
        return self._fault is not None and self.time_s >= self._onset_s - 1e-6

    def advance(self, dt_s: float) -> None:
        super().advance(dt_s)
        if self._fault is None or not self._on:
            return
        names = self._simulator.names
        if not self._struck:
            for name, factor in self._fault.parameters.items():
                self.p[:, names.p.index(name)] *= factor
            self._struck, self._usual = True, self.d.copy()
        for name, size in self._fault.disturbances.items():
            i = names.d.index(name)
            if self.time_s >= self._onset_s + _LASTS_S.get(name, np.inf):
                continue
            base = self.d[:, i] if i in self._paths else self._usual[:, i]
            self.d[:, i] = base + size if name in _ADDED else base * size

    def actuated(self, asked: Array, dt_s: float) -> Array:
        moves = super().actuated(asked, dt_s)
        name, factor = self._fault.move if self._fault else ("", 1.0)
        if name:
            i = self._simulator.names.u.index(name)
            if self._on and self._stuck is not None:
                moves[:, i] = self._stuck if factor == 0.0 else factor * moves[:, i]
            else:
                self._stuck = moves[:, i].copy()
        return moves

    def readings(self, sensed: dict[str, Array]) -> dict[str, Array]:
        shown, fault = super().readings(sensed), self._fault
        if fault is None:
            return shown
        if self._on:
            for tag, change in fault.hidden.items():
                shown[tag] = change(shown[tag])
        if fault.tag:
            shown[fault.tag] = self._shown(shown[fault.tag], self._spec.tag(fault.tag).noise)
        return shown

    def _shown(self, value: Array, noise: float) -> Array:
        fault = cast(Fault, self._fault)
        after = (
            round((self.time_s - self._onset_s) / self._spec.scan_time_s)
            * self._spec.scan_time_s
            / self._spec.sample_time_s
        )
        if not self._on:
            self._last = {fault.tag: value}
            return value
        match fault.sensor:
            case "bias":
                return value + fault.size * noise
            case "drift":
                return value + fault.size * noise * after / DRIFT_SAMPLES
            case "freeze":
                return self._last[fault.tag]
            case "noise":
                return value + fault.size * noise * self._own.standard_normal(len(value))
            case _:
                return value + fault.size * noise * (int(after) % SPIKE_EVERY == 0)


@dataclass(frozen=True)
class Recorded:
    """Runs, and what a sound plant with perfect instruments would have shown in each (n x n_measured + n_dv)."""

    runs: list[Run]
    sound: list[Array]


def broken_runs(spec: PlantSpec, fault: Fault | None, batch: int, samples: int, onset: int, seed: int) -> Recorded:
    """`batch` runs of `samples` samples of excitation in which `fault` strikes at sample `onset`; those that end before it
    are left out."""
    scenario = load_scenario("excitation", spec)
    plants = []
    for some, noise in ((fault, 1.0), (None, 0.0)):
        plain = excited(spec, scenario, batch, seed, noise)
        conditions = Broken(scenario, spec, some, onset * spec.sample_time_s, seed)
        plants.append(SimulatedPlant(spec, seed, batch, conditions, noise, moves=plain.moves))
    both = _Witnessed(*plants)
    recording = record(spec, cast(SimulatedPlant, both), samples, seed, "excitation")
    scans = round(spec.sample_time_s / spec.scan_time_s)
    shown = both.shown[::scans]
    runs, sound = [], []
    for i, run in enumerate(runs_of(spec, recording)):
        if len(run) > onset + 1 or fault is None:
            runs.append(run)
            sound.append(np.stack([[s[t.name][i] for t in (*spec.measured, *spec.dvs)] for s in shown[: len(run)]]))
    return Recorded(runs, sound)
