"""A turbofan's world model that never met a worn engine: trained, calibrated and watched on healthy ones alone."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch

from benchmarks.world_model_data import runs_of
from homeostat.lockstep import excited, record
from homeostat.training import executed_calibration
from models.calibration import calibrate
from models.checkpoint import Checkpoint, load, save
from models.config import ModelConfig, TrainingConfig
from models.plant_surprise import PlantSurprise
from models.training import train
from plant.spec import PlantSpec
from simulators.scenario import Scenario, load_scenario, scenario_of

RUNS, SAMPLES, SEED = 800, 150, 71
_FOLDER = Path(".homeostat/benchmarks/trained")


def unworn(name: str, spec: PlantSpec) -> Scenario:
    """A built-in scenario with new engines only, low down: near the ceiling not every draw has a rest to start from."""
    told = load_scenario(name, spec).model_dump(exclude_defaults=True)
    return scenario_of(
        told | {"parameters": {}, "disturbances": {**told["disturbances"], "ALT": {"value": [0, 12000]}}}
    )


def healthy_checkpoint(spec: PlantSpec, runs: int = RUNS, steps: int | None = None) -> Checkpoint:
    """Made as the shipped one is, on one thread: `runs` runs of excitation of which a tenth validates and a fifth calibrates,
    margins from held-out runs and from plans executed on healthy engines. Read from disk where it was made before."""
    logging.getLogger("simulators").setLevel(logging.ERROR)  # engines that leave their maps end
    config = TrainingConfig().model_copy(update={"steps": steps} if steps else {})
    scenario = unworn("excitation", spec)
    told = [
        spec.model_dump(mode="json"),
        scenario.model_dump(mode="json"),
        runs,
        ModelConfig().model_dump(),
        config.model_dump(),
    ]
    folder = _FOLDER / f"turbofan_healthy_{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"
    if (folder / "config.json").exists():
        return load(folder, spec)
    torch.set_num_threads(1)
    made = runs_of(spec, record(spec, excited(spec, scenario, runs, SEED), SAMPLES, SEED, "excitation"))
    tenth = len(made) // 10
    validation, held_out, training = made[:tenth], made[tenth : 3 * tenth], made[3 * tenth :]
    world = train(spec, training, validation, ModelConfig(), config)
    margins, executed = executed_calibration(
        spec, world, calibrate(world, held_out, world.config.horizon), held_out, SEED, lambda text: None,
        unworn("operation", spec),
    )  # fmt: skip
    surprise = PlantSurprise.of_runs(world, [*validation, *executed[0]], [*held_out, *executed[1]])
    save(folder, world, margins, {"runs": runs, "seed": SEED}, "healthy engines only", surprise)
    return load(folder, spec)
