"""The rows of `benchmarks.world_model`: what is trained, how it is measured, and where finished rows are kept."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks import world_model_data, world_model_scores
from benchmarks.world_model_data import OPERATING_POINTS, PlantData, plant_data
from benchmarks.world_model_scores import (
    Questions,
    action_gain,
    latents,
    mode_error,
    nrmse,
    observer_features,
    plant_modes,
    predictor_modes,
    probe_r2,
    response_modes,
    window_at_rest,
    windows_and_states,
)
from models import objectives, regularisers, windows, world_model
from models import training as training_module
from models.config import ModelConfig, TrainingConfig
from models.diagnostics import effective_rank
from models.rivals import registry
from models.rivals.contract import Forecaster
from models.rivals.latent import LatentForecaster
from models.rivals.registry import RIVALS, train_rival
from models.training import train
from models.windows import Run
from simulators.registry import simulator_of

Facts = dict[str, Any]
J = TypeVar("J")
WORLD_MODEL = "world_model"
DEFAULT = "{0.order} {0.anti_collapse} (default)".format(TrainingConfig())
SEEDLESS = (
    "persistence",
    "arx",
    "subspace",
    "random_encoder",
)  # one seed: nothing random, or least squares, or a control
# One choice of the default changed at a time; masked_share matters to decoupled training alone.
ABLATIONS: dict[str, tuple[Facts, Facts]] = {
    "without anti-collapse": ({}, {"sigreg": 0.0, "vicreg": 0.0}),
    "without inverse dynamics": ({}, {"inverse": 0.0}),
    "read-out on nothing but the frozen rest": ({}, {"read_out": 0.05}),
    "one-step training": ({"horizon": 1}, {}),
    "latent 8": ({"latent": 8}, {}),
    "latent 32": ({"latent": 32}, {}),
    "window 4": ({"window": 4}, {}),
    "window 16": ({"window": 16}, {}),
    "masked share 0.25": ({}, {"order": "decoupled", "masked_share": 0.25}),
    "masked share 0.75": ({}, {"order": "decoupled", "masked_share": 0.75}),
    "windows not chosen by excitation": ({}, {"steady_share": 1.0}),
}


@dataclass(frozen=True)
class Row:
    """One thing to train: the world model or a rival, with its settings."""

    name: str
    kind: str
    model: Facts = field(default_factory=dict, hash=False)
    training: Facts = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Sizes:
    """How much is recorded (runs) and how long is trained (steps, None: the default's own number)."""

    runs: int
    incidents: int
    asked: int
    steps: int | None


FULL, CORE, QUICK = Sizes(1200, 600, 200, None), Sizes(1200, 600, 200, 1200), Sizes(120, 60, 40, 200)


@dataclass(frozen=True)
class Job:
    """One row on one plant from one seed."""

    plant: str
    row: Row
    seed: int
    sizes: Sizes


def rows_of(tier: str, ablations: bool) -> list[Row]:
    """The rows of a tier; what `core` leaves to `full` are the other training orders and ways against collapse."""
    usual = TrainingConfig()
    rows = [Row(DEFAULT, WORLD_MODEL), *(Row(name.replace("_", " "), name) for name in RIVALS)]
    if tier == "full":
        for order in ("joint", "decoupled"):
            for how in ("sigreg", "vicreg", "ema"):
                if (order, how) != (usual.order, usual.anti_collapse):
                    rows.append(Row(f"{order} {how}", WORLD_MODEL, {}, {"order": order, "anti_collapse": how}))
    if ablations:
        rows += [Row(name, WORLD_MODEL, model, training) for name, (model, training) in ABLATIONS.items()]
    return rows


def train_row(job: Job, data: PlantData, passive: Sequence[Run] = ()) -> tuple[Forecaster, float]:
    """The trained forecaster of a job and the seconds its training took; only the world model learns from `passive` runs."""
    steps = {} if job.sizes.steps is None else {"steps": job.sizes.steps}
    training = TrainingConfig(**{**steps, **job.row.training}, seed=job.seed)
    model = ModelConfig(**job.row.model)
    began = time.perf_counter()
    if job.row.kind == WORLD_MODEL:
        made = LatentForecaster(train(data.spec, data.training, data.validation, model, training, passive=passive))
    else:
        made = train_rival(job.row.kind, data.spec, data.training, data.validation, model, training)
    return made.eval(), time.perf_counter() - began


def measure(job: Job, data: PlantData) -> Facts:
    """Train and score a row: plain numbers, ready for JSON."""
    model, seconds = train_row(job, data)
    window = model.config.window
    std = np.nanstd(np.concatenate(data.asked["held-out"].truth), axis=0)
    questions = {name: Questions.of(asked, window) for name, asked in data.asked.items()}
    out: Facts = {
        "seconds": seconds, "parameters": model.size, "hours": data.hours,
        "nrmse": {name: nrmse(model, q, std) for name, q in questions.items()},
        "action_gain": action_gain(model, questions["held-out"], std),
    }  # fmt: skip
    learn, learn_states = windows_and_states(data.probe, window)
    test, test_states = windows_and_states(data.asked["held-out"], window)
    states = simulator_of(data.spec).names.x
    if job.row.kind == "persistence":
        seen, seen_test = (observer_features(model, w) for w in (learn, test))
        out["observer"] = dict(zip(states, probe_r2(seen, learn_states, seen_test, test_states).tolist(), strict=True))
    z, z_test = latents(model, learn), latents(model, test)
    if z is not None and z_test is not None:
        out["effective_rank"] = effective_rank(z_test)
        r2 = probe_r2(z.numpy(), learn_states, z_test.numpy(), test_states)
        out["probe"] = dict(zip(states, r2.tolist(), strict=True))
    if job.plant in OPERATING_POINTS:
        out["modes"] = [_modes(job, data, model, moves) for moves in OPERATING_POINTS[job.plant]]
    return out


def _modes(job: Job, data: PlantData, model: Forecaster, moves: Sequence[float]) -> Facts:
    simulator = simulator_of(data.spec)
    outputs, true = plant_modes(data.spec, simulator, moves)
    window = window_at_rest(outputs, moves, model.config.window)
    found: Facts = {"moves": list(moves), "plant": [[e.real, e.imag] for e in true]}
    if job.row.kind != "persistence":
        found["response_error"] = mode_error(response_modes(model, window, len(simulator.names.x)), true)
    if isinstance(model, LatentForecaster):
        own = predictor_modes(model, window)
        found["error"], found["radius"] = mode_error(own, true), float(np.abs(own).max())
    return found


_recorded = cache(plant_data)


@cache
def source_digest() -> str:
    """A hash of the code a row's numbers depend on, but for the plants: their data are hashed themselves."""
    files = [Path(str(m.__file__)) for m in (objectives, regularisers, windows, world_model, training_module)]
    files += sorted(Path(str(registry.__file__)).parent.glob("*.py"))
    files += [Path(str(m.__file__)) for m in (world_model_data, world_model_scores)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def data_digest(data: PlantData) -> str:
    digest = hashlib.sha256()
    everything = [*data.training, *data.validation, *data.probe.runs, *(r for a in data.asked.values() for r in a.runs)]
    for run in everything:
        for part in (run.measured, run.dvs, run.applied):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def measured(job: Job, folder: Path | None) -> Facts:
    """`measure`, or what an earlier run with the same settings, data and code has kept in `folder`."""
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    s = job.sizes
    data = _recorded(job.plant, s.runs, s.incidents, s.asked)
    usual = [TrainingConfig().model_dump(), ModelConfig().model_dump()]
    key = json.dumps([asdict(job), usual, source_digest(), data_digest(data), torch.__version__], sort_keys=True)
    name = "_".join([job.plant, *job.row.name.replace("(", "").replace(")", "").split(), str(job.seed)])
    return kept(folder, name, key, lambda: measure(job, data))


def kept(folder: Path | None, name: str, key: str, make: Callable[[], Facts]) -> Facts:
    """What `make` answers, or what it answered when it was last asked under the same `name` and `key`, kept in `folder`."""
    path = None if folder is None else folder / f"{name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if path and path.exists():
        return json.loads(path.read_text())
    facts = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(facts))
        part.replace(path)
    return facts


def run(
    jobs: Sequence[J], folder: Path | None, workers: int, work: Callable[[J, Path | None], Facts] = measured
) -> Iterator[tuple[J, Facts]]:
    """Every job as `work` has finished it, on `workers` processes of one thread each."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(work, job, folder): job for job in jobs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
