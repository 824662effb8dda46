"""Runs to learn from and loops to close, the same for every baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from controllers.contracts import Controller, Observation, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from homeostat.lockstep import excitation_run, split
from models.config import ModelConfig, TrainingConfig
from models.rivals.contract import Forecaster
from models.rivals.registry import train_rival
from models.windows import Run
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

CONFIG = ModelConfig(window=6, horizon=15)
STEPS = TrainingConfig(steps=100, batch=128)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bare() -> PlantSpec:
    return load_spec("reactor_bare")


def _excited_runs(spec: PlantSpec, batch: int = 24, samples: int = 100) -> list[Run]:
    """Excitation as runs, without the way through a historian."""
    runs = []
    for values in split(excitation_run(spec, batch, samples, seed=1)):
        seen, dvs, mvs = (np.stack([values[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs, spec.mvs))
        runs.append(Run("excitation", 0.0, seen, dvs, mvs, np.full((len(seen), len(spec.guardrails)), np.nan)))
    return [r for r in runs if len(r) > 2]


@pytest.fixture(scope="session")
def arx(bare: PlantSpec) -> Forecaster:
    torch.set_num_threads(1)
    runs = _excited_runs(bare)
    return train_rival("arx", bare, runs[6:], runs[:6], CONFIG, STEPS)


def _stepped(
    spec: PlantSpec, controller: Controller, step: dict[str, float], targets: dict[str, float], *, batch: int = 1,
    noise: float = 0.0, samples: int = 60, at: int = 20, hide_dvs: bool = True,
) -> Trajectories:  # fmt: skip
    """A run at constant `targets` in which the disturbances `step` move at sample `at`; unless `hide_dvs` is false, no DV shows it."""
    plant = SimulatedPlant(spec, 0, batch)
    names = plant.simulator.names
    levels = np.tile(np.array(plant.simulator.d0, float), (samples, batch, 1))
    for name, value in step.items():
        levels[at:, :, names.d.index(name)] = value
    schedule = Schedule(np.arange(samples, dtype=np.float64) * spec.sample_time_s, levels)
    plant = SimulatedPlant(spec, 0, batch, schedule, noise)
    low, high = limits_of(spec)
    goals = np.tile([targets.get(t.tag, t.value) for t in spec.targets], (samples, 1))
    return close_loop(
        controller, plant, goals, preview=False, move_low=low, move_high=high, first_move=plant.moves, hide_dvs=hide_dvs
    )


def _asked(spec: PlantSpec, measured: list[float], applied: list[float], target: float) -> tuple[Observation, Targets]:
    """One question for one plant, every target at `target`."""
    low, high = limits_of(spec)
    dvs = np.array([[t.nominal for t in spec.dvs]])
    observation = Observation(0.0, np.array([measured]), dvs, np.array([applied]))
    return observation, Targets(np.full((1, 1, len(spec.targets)), target), low, high)


@pytest.fixture(scope="session")
def stepped() -> Callable[..., Trajectories]:
    return _stepped


@pytest.fixture(scope="session")
def asked() -> Callable[..., tuple[Observation, Targets]]:
    return _asked
