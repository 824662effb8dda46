"""An ARX model as a state space with the same answers."""

from __future__ import annotations

import pytest
import torch

from models.config import ModelConfig
from models.rivals.arx import Arx
from models.rivals.latent import LatentForecaster
from models.rivals.realised import _observer, realised
from models.rivals.stretches import Stretches, rms, whole
from models.trunk import world_of
from models.windows import WindowSet, channel_scale
from plant.spec import PlantSpec

from .test_rivals import linear_system


@pytest.fixture(scope="module")
def data(spec: PlantSpec) -> WindowSet:
    runs = linear_system(spec, 12)
    return WindowSet(runs, channel_scale(spec, runs), 4, 6)


@pytest.fixture(scope="module")
def arx(spec: PlantSpec, data: WindowSet) -> Arx:
    """With every lag in use, whatever the data would ask for."""
    model = Arx(spec, ModelConfig(window=4, horizon=6), data.scale)
    model.learn(data)
    drawn = torch.randn(model.theta.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.theta = torch.nn.Parameter(model.theta.detach() + 0.03 * drawn)
    return model


def test_every_lag_is_a_state(arx: Arx, data: WindowSet) -> None:
    """Gaps in the windows too; the disturbances now are given beside it."""
    part = Stretches.of(data, whole(data)).double()
    gone = torch.rand(part.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    gone[:, -1, arx.n_measured : arx.n_measured + arx.n_dv] = False
    for mask in (part.mask, part.mask * ~gone):
        asked = part.values, mask, part.u, part.d
        torch.testing.assert_close(_observer(arx).roll(*asked), arx.roll(*asked))


def test_few_states_answer_as_the_model_does(arx: Arx, data: WindowSet) -> None:
    """A tenth of its own error apart at most; the same as a world model."""
    part = Stretches.of(data, whole(data)).double()
    asked = part.values, part.mask, part.u, part.d
    few = realised(arx, data)
    assert few.order < _observer(arx).order
    with torch.no_grad():
        own = arx.roll(*asked)
        away = Stretches(part.values, part.mask, part.u, part.d, own, part.counted)
        assert rms(few.roll(*asked), away).mean() < 0.1 * rms(own, part).mean()
        world = LatentForecaster(world_of(few))
        told = world.roll(*(v.float() for v in asked))
    torch.testing.assert_close(told, few.roll(*asked).float(), rtol=1e-3, atol=1e-3)
