"""World models to plan with: one with weights at random (properties hold for any), one trained on the bare reactor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from homeostat.lockstep import Recording, excitation_run, incident_run, split
from models.config import ModelConfig, TrainingConfig
from models.training import train
from models.windows import Run, Scale
from models.world_model import WorldModel
from plant.spec import PlantSpec, load_spec

TINY = ModelConfig(window=4, latent=8, encoder_width=48, predictor_width=48, head_width=24, horizon=12)
QUICK = TrainingConfig(steps=300, batch=96, sigreg_slices=32, spread_samples=256)


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


def runs_of(spec: PlantSpec, recording: Recording) -> list[Run]:
    """A recording as runs, without the way through a historian."""
    runs = []
    for values in split(recording):
        parts = [np.stack([values[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs, spec.mvs)]
        labels = np.stack([values[str(g.fallback_tag)] for g in spec.guardrails], 1)
        runs.append(Run(recording.kind, 0.0, *parts, labels))
    return [r for r in runs if len(r) > 2]


@pytest.fixture(scope="session")
def bare() -> PlantSpec:
    return load_spec("reactor_bare")


@pytest.fixture(scope="session")
def trained(bare: PlantSpec) -> WorldModel:
    """A world model of the bare reactor, good enough to control it."""
    runs = runs_of(bare, excitation_run(bare, 64, 60, seed=1)) + runs_of(bare, incident_run(bare, 32, 30, seed=2))
    with one_thread():
        return train(bare, runs, runs[:4], TINY, QUICK)


@pytest.fixture(scope="session")
def wild() -> WorldModel:
    """The dressed reactor's tags with random weights: strongly nonlinear, and no friend of its guardrails."""
    spec = load_spec("reactor")
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    scale = Scale(np.array([t.nominal for t in tags]), np.array([0.05 * (t.range[1] - t.range[0]) for t in tags]))
    torch.manual_seed(5)
    model = WorldModel(spec, ModelConfig(window=3, latent=5, predictor_width=16, head_width=8, horizon=6), scale)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.25 * torch.randn_like(weight))
    return model.eval()
