"""Small recordings of the reactor and a world model trained on them in seconds, shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from homeostat.lockstep import Recording, excitation_run, incident_run, split
from models.config import ModelConfig, TrainingConfig
from models.training import train
from models.windows import Run
from models.world_model import WorldModel
from plant.spec import PlantSpec, load_spec

TINY = ModelConfig(window=4, latent=8, encoder_width=48, predictor_width=48, head_width=24, horizon=8)
QUICK = TrainingConfig(steps=150, batch=64, sigreg_slices=32)


@dataclass(frozen=True)
class Trained:
    """A tiny world model, what was reported on the way, and runs it has not seen."""

    model: WorldModel
    reports: list[tuple[int, dict[str, float]]]
    training: list[Run]
    held_out: list[Run]


def runs_of(spec: PlantSpec, recording: Recording) -> list[Run]:
    """A recording as runs, without the way through a historian."""
    runs = []
    for values in split(recording):
        n = len(next(iter(values.values())))
        nothing = np.full(n, np.nan)
        parts = [np.stack([values[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs, spec.mvs)]
        labels = [values[g.fallback_tag] if g.fallback_tag else nothing for g in spec.guardrails]
        runs.append(Run(recording.kind, 0.0, *parts, np.stack(labels, 1)))
    return [r for r in runs if len(r) > 2]


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def spec() -> PlantSpec:
    return load_spec("reactor")


@pytest.fixture(scope="session")
def recorded(spec: PlantSpec) -> list[Run]:
    """48 runs: excitation under the regulatory layer, and simulated incidents."""
    excitation = runs_of(spec, excitation_run(spec, 32, 40, seed=1))
    incidents = runs_of(spec, incident_run(spec, 16, 30, seed=2))
    return excitation + incidents


@pytest.fixture(scope="session")
def trained(spec: PlantSpec, recorded: list[Run]) -> Trained:
    reports: list[tuple[int, dict[str, float]]] = []
    held_out, training = recorded[::3], [r for i, r in enumerate(recorded) if i % 3]
    with one_thread():
        model = train(spec, training, held_out, TINY, QUICK, lambda step, total, terms: reports.append((step, terms)))
    return Trained(model, reports, training, held_out)
