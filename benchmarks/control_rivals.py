"""What the controllers beside JEPA-MPC have learned: forecasters and a policy cloned from an operator, trained once and kept on
disk. They learn from recordings made as the world model's were, with its settings and number of steps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.trained import recorded
from benchmarks.world_model_rows import QUICK, Sizes, data_digest
from controllers.baselines.clone import Policy, train_policy
from controllers.baselines.pid import PidController
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.evaluation.evaluation import stepped_targets
from models import descent, windows
from models.config import ModelConfig, TrainingConfig
from models.rivals import arx, contract, gru, linear, registry, stretches
from models.rivals.contract import Forecaster
from models.rivals.registry import train_rival
from plant.spec import PlantSpec, load_spec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario

R = TypeVar("R")
# As much as the shipped world models learned from: 1,040 and 360 plant-hours of excitation.
SIZES = {"reactor_bare": Sizes(2400, 600, 40, None), "vandevusse": Sizes(1200, 0, 40, None)}
FOLDER = Path(".homeostat/benchmarks/control")
_OPERATOR_SEED = 6100  # nothing reported draws from it


def forecaster(name: str, plant: str, *, quick: bool) -> Forecaster:
    """The rival `name` (`models.rivals.registry`) of `plant`, seed 0."""
    sizes = QUICK if quick else SIZES[plant]
    training = TrainingConfig(steps=sizes.steps or TrainingConfig().steps)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    data = recorded(plant, sizes.runs, sizes.incidents, sizes.asked)
    made = kept_result(
        [plant, name, code(), asdict(sizes), training.model_dump(), data_digest(data)],
        lambda: train_rival(name, data.spec, data.training, data.validation, ModelConfig(), training),
    )  # fmt: skip
    made.spec = data.spec  # a kept one brings the spec of its day
    return made


def code() -> str:
    """A hash of the code that a rival's training depends on."""
    modules = (registry, contract, arx, gru, linear, stretches, windows, descent)
    return hashlib.sha256(b"".join(Path(str(m.__file__)).read_bytes() for m in modules)).hexdigest()


def clone(plant: str, operator: PidController, *, quick: bool) -> Policy:
    """A policy cloned from `operator`'s moves: runs of 120 samples of the plant's excitation scenario (its disturbances and
    parameters, not its moves), with targets stepping at random."""
    spec, (runs, steps) = load_spec(plant), (30, 200) if quick else (400, TrainingConfig().steps)
    training = TrainingConfig(steps=steps)

    def made() -> Policy:
        watched = record_operator(spec, operator, runs)
        parts = watched.runs(spec)
        return train_policy(spec, parts, [watched.targets[i, : len(r)] for i, r in enumerate(parts)], training)

    policy = kept_result(["clone", plant, runs, training.model_dump(), repr(vars(operator).get("_loops"))], made)
    policy.spec = spec
    return policy


def record_operator(spec: PlantSpec, operator: PidController, runs: int):
    """Closed loops (`Trajectories`) of `operator` for a policy to learn from."""
    samples = 120
    plant = SimulatedPlant(spec, _OPERATOR_SEED, runs, Drawn(load_scenario("excitation", spec)))
    low, high = limits_of(spec)
    targets = stepped_targets(spec, runs, samples, _OPERATOR_SEED)
    return close_loop(
        operator, plant, targets, preview=False, move_low=low, move_high=high, first_move=plant.moves, scans=2
    )


def kept_result(settings: list, make: Callable[[], R]) -> R:
    """What `make` makes, read from disk when it was made with the same `settings` (JSON) before."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]
    path = FOLDER / f"{key}.pt"
    if path.exists():
        return torch.load(path, weights_only=False)  # whole modules, and this benchmark's own file
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    torch.save(made, part)
    part.replace(path)
    return made
