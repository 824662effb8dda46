"""The runs that `benchmarks.world_model` trains on and those it asks about: nominal ones and shifted ones, with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from homeostat.lockstep import Recording, excitation_run, excited, incident_run, record, split
from homeostat.recording import EXCITATION_SAMPLES, INCIDENT_SAMPLES
from models.windows import Run
from plant.errors import HomeostatError
from plant.spec import PlantSpec, Role, load_spec
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario, load_scenario, scenario_files, scenario_of

Array = NDArray[np.float64]
PLANTS = ("reactor", "vandevusse", "turbofan", "glucose")

# What each plant's `excitation` scenario is changed by. Drift: parameters beyond those of any training run. Feed: a step of
# something no sensor tells of (vandevusse measures its whole feed, so one analyser stands still there).
SHIFTS: dict[str, dict[str, dict[str, Any]]] = {
    "reactor_bare": {
        "drift": {"parameters": {"UA": {"factor": [0.85, 0.92]}, "k0": {"factor": [0.9, 0.93]}}},
        "feed": {"disturbances": {"Caf": {"steps": [[[300, 900], [0.95, 1.05]]]}}},
    },
    "reactor": {
        "drift": {"parameters": {"UA": {"factor": [0.85, 0.92]}, "k0": {"factor": [0.9, 0.93]}}},
        "feed": {"disturbances": {"Caf": {"steps": [[[300, 900], [0.95, 1.05]]]}}},
    },
    "vandevusse": {
        "drift": {"parameters": {"alpha": {"factor": [0.95, 0.97]}, "beta": {"factor": [1.06, 1.1]}}},
        "feed": {"sensors": [{"tag": "Ca_in", "fault": "freeze"}]},
    },
    "turbofan": {
        # Low down: at full fuel near the ceiling a worn engine has no rest to start from.
        "worn engine": {
            "disturbances": {"ALT": {"value": [0, 10000]}},
            "parameters": {
                "hpc_eff": {"factor": [0.97, 0.985]}, "hpc_flow": {"factor": [0.97, 0.985]},
                "fan_eff": {"factor": [0.97, 0.985]},
            }
        },
        "feed": {"sensors": [{"tag": "DT", "fault": "bias", "size": [-15, 15]}]},
    },
    "glucose": {
        "unseen patient": {"population": {"cohort": "adult", "split": "held_out"}},
        "adolescent": {"population": {"cohort": "adolescent", "split": "held_out"}},
    },
}  # fmt: skip
# Moves (in the order of the MVs) of three operating points that are open-loop stable.
OPERATING_POINTS: dict[str, tuple[tuple[float, ...], ...]] = {
    "reactor_bare": ((297.0,), (300.0,), (302.0,)),
    "reactor": ((297.0,), (300.0,), (302.0,)),
    "vandevusse": ((14.0, -4495.7), (18.83, -4495.7), (25.0, -4495.7)),
}


@dataclass(frozen=True)
class Asked:
    """Runs to predict: `runs` as instruments showed them, `truth` (n x n_measured) what perfect ones would have shown,
    `states` (n x n_x) of the simulator, or none, `hidden` tag -> (n,) what no instrument shows, of the simulator's outputs.
    """

    runs: list[Run]
    truth: list[Array]
    states: list[Array] | None = None
    hidden: list[dict[str, Array]] | None = None


@dataclass(frozen=True)
class PlantData:
    """`training`, `validation`: runs to learn from; `asked`: held-out and shifted runs by name; `probe`: runs with
    their states to fit a probe on; `hours` of training data."""

    spec: PlantSpec
    training: list[Run]
    validation: list[Run]
    probe: Asked
    asked: dict[str, Asked]
    hours: float


def missing(plant: str) -> str:
    """Why a plant cannot be measured, '' if it can."""
    try:
        spec = load_spec(plant)
        load_scenario("excitation", spec)
        excited(spec, load_scenario("excitation", spec), 1, 0)
    except (HomeostatError, ImportError) as e:
        return str(e)
    return ""


def plant_data(plant: str, runs: int, incidents: int, asked: int) -> PlantData:
    """Record everything `plant` is measured with; seeds are fixed. `asked` runs of each kind are asked about."""
    spec = load_spec(plant)
    learned = runs_of(spec, excitation_run(spec, runs, EXCITATION_SAMPLES, seed=11))
    usual = load_scenario("excitation", spec)
    sets = {
        "held-out": witnessed(spec, usual, asked, seed=21),
        **{
            name: witnessed(spec, scenario, asked, 31 if noise > 1 else 22 + i, noise)
            for i, (name, (scenario, noise)) in enumerate(shifted(spec).items())
        },
    }
    if incidents and "incident" in scenario_files(spec):
        learned += runs_of(spec, incident_run(spec, incidents, INCIDENT_SAMPLES, seed=12))
        hot = runs_of(spec, incident_run(spec, asked, INCIDENT_SAMPLES, seed=32))
        sets["incidents"] = Asked(hot, [r.measured for r in hot])
    order = np.random.default_rng(13).permutation(len(learned))
    held = {int(i) for i in order[: max(1, len(learned) // 10)]}
    return PlantData(
        spec,
        [r for i, r in enumerate(learned) if i not in held],
        [r for i, r in enumerate(learned) if i in held],
        witnessed(spec, usual, asked, seed=41),
        sets,
        sum(map(len, learned)) * spec.sample_time_s / 3600,
    )


def _merged(usual: Scenario, shifts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Changes laid over the sections of a scenario, key by key."""
    base = usual.model_dump(exclude_defaults=True)
    return {
        name: {k: {**base.get(k, {}), **v} if isinstance(v, dict) else v for k, v in changes.items()}
        for name, changes in shifts.items()
    }


class _Witnessed:
    """A plant with a twin that has perfect instruments; both meet the same conditions and moves. Keeps what the twin's
    instruments showed, the states and all outputs, scan by scan."""

    def __init__(self, plant: SimulatedPlant, twin: SimulatedPlant) -> None:
        self._plant, self._twin = plant, twin
        self.shown, self.states, self.outputs = [twin.measure()], [twin.x], [twin.true_outputs()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plant, name)

    def advance(self, moves: Array, dt_s: float) -> None:
        self._plant.advance(moves, dt_s)
        self._twin.advance(moves, dt_s)
        self.shown.append(self._twin.measure())
        self.states.append(self._twin.x)
        self.outputs.append(self._twin.true_outputs())


def shifted(spec: PlantSpec) -> dict[str, tuple[Scenario, float]]:
    """The shifts of a plant by name: the scenario and what its sensors' noise is multiplied by."""
    usual = load_scenario("excitation", spec)
    changed = _merged(usual, SHIFTS[spec.name])
    made = {name: (scenario_of(usual.model_dump(exclude_defaults=True) | c), 1.0) for name, c in changed.items()}
    return made | {"noise x 3": (usual, 3.0)}


def witnessed(
    spec: PlantSpec, scenario: Scenario, batch: int, seed: int, noise: float = 1.0, samples: int = EXCITATION_SAMPLES
) -> Asked:
    """`batch` runs of `samples` samples of excitation in `scenario`, with the truth beside them."""
    plant = _Witnessed(*(excited(spec, scenario, batch, seed, level) for level in (noise, 0.0)))
    recording = record(spec, cast(SimulatedPlant, plant), samples, seed, "excitation")
    scans = round(spec.sample_time_s / spec.scan_time_s)
    shown, states, outputs = plant.shown[::scans], plant.states[::scans], plant.outputs[::scans]
    unseen = [t.name for t in spec.with_role(Role.HIDDEN) if t.name in outputs[0]]
    runs, truth, true_states, hidden = [], [], [], []
    for i, run in enumerate(_runs(spec, recording)):
        if len(run) > 2:
            runs.append(run)
            n = len(run)
            truth.append(np.stack([[s[t.name][i] for t in spec.measured] for s in shown[:n]]))
            true_states.append(np.stack([x[i] for x in states[:n]]))
            hidden.append({tag: np.array([y[tag][i] for y in outputs[:n]]) for tag in unseen})
    return Asked(runs, truth, true_states, hidden)


def runs_of(spec: PlantSpec, recording: Recording) -> list[Run]:
    """A recording as runs, without the way through a historian; those of a sample or two are left out."""
    return [r for r in _runs(spec, recording) if len(r) > 2]


def _runs(spec: PlantSpec, recording: Recording) -> list[Run]:
    made = []
    for values in split(recording):
        n = len(next(iter(values.values())))
        nothing = np.full(n, np.nan)

        def columns(tags: Sequence[str | None], values: dict[str, Array] = values, nothing: Array = nothing) -> Array:
            chosen = [values.get(t, nothing) if t else nothing for t in tags]
            return np.stack(chosen, 1) if chosen else np.empty((len(nothing), 0))

        online = {t.name for t in spec.online}
        measured, dvs, mvs = (columns([t.name for t in tags]) for tags in (spec.measured, spec.dvs, spec.mvs))
        labels = columns([g.fallback_tag for g in spec.guardrails])
        hidden = columns([None if g.tag in online else g.tag for g in spec.guardrails])
        made.append(Run(recording.kind, 0.0, measured, dvs, mvs, labels, hidden))
    return made
