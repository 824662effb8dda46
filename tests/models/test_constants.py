"""What is constant within a run conditions the world model: it is used, it is never predicted, and it may be unknown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from models.calibration import Calibration
from models.checkpoint import load, save
from models.config import ModelConfig, TrainingConfig
from models.diagnostics import diagnose
from models.rivals.latent import LatentForecaster
from models.rivals.registry import train_rival
from models.rivals.stretches import Stretches, multi_step_error
from models.training import train
from models.windows import Run, Scale, WindowSet, channel_scale, constant_scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

MODEL = ModelConfig(window=1, latent=6, encoder_width=24, predictor_width=24, head_width=8, horizon=6)
TRAINING = TrainingConfig(steps=120, batch=64, sigreg_slices=16, learning_rate=5e-3, matrix_rate=5e-3)


def tag(name: str, role: str, bounds: tuple[float, float], nominal: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "description": f"Signal {name}", "unit": "1", "range": bounds,
            "nominal": nominal, "node_id": f"ns=2;s=mixer.{name}", **more}  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    """K heats or cools T all through a run; one sample of T does not show it."""
    return PlantSpec.model_validate({
        "name": "mixer",
        "description": "A mixer",
        "endpoint": "opc.tcp://127.0.0.1:0/mixer",
        "sample_time_s": 2.0,
        "scan_time_s": 2.0,
        "tags": [
            tag("T", "CV", (-20.0, 20.0), 0.0),
            tag("U", "MV", (-1.0, 1.0), 0.0, move={"limits": (-1.0, 1.0), "rate_per_s": 5.0, "safe": 0.0}),
            tag("K", "COND", (-2.0, 2.0), 1.0),
        ],
        "targets": [{"tag": "T", "value": 0.0, "limits": (-5.0, 5.0), "scale": 1.0}],
    })  # fmt: skip


def make_runs(count: int, seed: int, samples: int = 24) -> list[Run]:
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(count):
        k, y, rows, move = rng.uniform(-2, 2), rng.normal(0, 1), [], rng.uniform(-1, 1)
        for i in range(samples):
            rows.append((y, move))
            move = rng.uniform(-1, 1) if i % 3 == 0 else move
            y = 0.8 * y + move + 0.5 * k
        both = np.array(rows)
        none = np.empty((samples, 0))
        runs.append(Run("recorded", 0.0, both[:, :1], none, both[:, 1:], none, constants=np.array([k])))
    return runs


@pytest.fixture(scope="module")
def held_out() -> list[Run]:
    return make_runs(40, seed=2)


@pytest.fixture(scope="module")
def trained(spec: PlantSpec, held_out: list[Run]) -> WorldModel:
    return train(spec, make_runs(200, seed=1), held_out, MODEL, TRAINING)


def error(model: WorldModel, runs: list[Run], change: Any) -> float:
    """k-step error with constants changed from the true ones."""
    runs = [dataclasses.replace(r, constants=change(r.constants)) for r in runs]
    scale = Scale(model.channel_mean.double().numpy(), model.channel_std.double().numpy())
    data = WindowSet(runs, scale, MODEL.window, MODEL.horizon, MODEL.horizon, constant=model.constant_scale())
    return multi_step_error(LatentForecaster(model), Stretches.of(data, data.starts))


def test_the_model_uses_what_it_is_told(trained: WorldModel, held_out: list[Run]):
    true, unknown = error(trained, held_out, lambda c: c), error(trained, held_out, lambda c: np.full_like(c, np.nan))
    wrong = error(trained, held_out, lambda c: -c)
    assert true < 0.25 * unknown < 0.25 * wrong


def test_it_is_in_no_window_and_no_target(spec: PlantSpec):
    runs = make_runs(5, seed=3)
    constant = constant_scale(spec, runs)
    data = WindowSet(runs, channel_scale(spec, runs), 2, 3, constant=constant)
    assert data.channels == 2
    c = data.conditions(torch.tensor([[0, 23], [24, 119]]))
    assert c is not None
    assert constant is not None
    assert c.shape == (2, 2, 2)
    wanted = constant.apply(np.array([[runs[i].constants] for i in (0, 0, 1, 4)], float))[:, 0]
    torch.testing.assert_close(c.view(4, 2)[:, 0].double().numpy(), wanted[:, 0], atol=1e-6, rtol=1e-6)
    assert (c[..., 1] == 1).all()


def test_unknown_is_masked_not_nan(trained: WorldModel, spec: PlantSpec):
    c = trained.condition(torch.tensor([[torch.nan], [1.0]]))
    assert c[0].tolist() == [0.0, 0.0]
    assert c[1, 1] == 1.0
    window = torch.zeros(2, MODEL.window, 2)
    z = trained.encode(window, torch.tensor([[torch.nan], [1.0]]))
    assert torch.isfinite(z).all()
    torch.testing.assert_close(trained.encode(window)[1], z[1])  # nothing said: the nominal value
    one = trained.advance(z[1], torch.tensor([0.5]), torch.empty(0), torch.tensor([1.0]))
    torch.testing.assert_close(one, trained.advance(z, torch.full((2, 1), 0.5), torch.empty(2, 0))[1])


@pytest.mark.parametrize("order", ["joint", "decoupled"])
def test_both_orders_train_with_it_and_a_checkpoint_keeps_it(
    spec: PlantSpec, held_out: list[Run], tmp_path: Path, order: str
):
    settings = TRAINING.model_copy(update={"steps": 4, "order": order, "anti_collapse": "ema"})
    model = train(spec, make_runs(20, seed=1), held_out, MODEL, settings)
    save(tmp_path, model, Calibration(torch.zeros(6, 0), 0.99, 1), {}, "card")
    again = load(tmp_path, spec).model
    assert again.constant_scale() is not None
    window = torch.randn(3, MODEL.window, 2)
    torch.testing.assert_close(again.encode(window), model.encode(window), rtol=0, atol=0)
    without = spec.model_copy(update={"tags": spec.tags[:2]})
    with pytest.raises(ModelError, match=r"constants: trained on .*K.*, the plant has None"):
        load(tmp_path, without)


def test_diagnosis_tells_the_model(trained: WorldModel, held_out: list[Run]):
    hidden = [dataclasses.replace(r, constants=None) for r in held_out]
    assert diagnose(trained, held_out, (1, 5))["nrmse_T_5"] < 0.5 * diagnose(trained, hidden, (1, 5))["nrmse_T_5"]


def test_the_planner_moves_the_way_the_constant_says(trained: WorldModel):
    controller = JepaMpc(trained, PlannerConfig(horizon=6, effort=0.0), batch=4)
    zero, none = np.zeros((4, 1)), np.empty((4, 0))
    seen = Observation(0.0, zero, none, zero, constants=np.array([[1.8], [-1.8], [np.nan], [1.0]]))
    moves = controller.decide(seen, Targets(np.zeros((4, 6, 1)), -np.ones(1), np.ones(1))).moves[:, 0]
    assert moves[0] < -0.5
    assert moves[1] > 0.5
    assert moves[2] == moves[3] < 0, "not read: the nominal value, 1"


@pytest.mark.parametrize("name", ["arx", "subspace", "gru", "reconstruction", "random_encoder", "persistence"])
def test_rivals_get_it_too(spec: PlantSpec, held_out: list[Run], name: str):
    settings = TRAINING.model_copy(update={"steps": 5})
    rival = train_rival(name, spec, make_runs(30, seed=1), held_out, MODEL, settings)
    window, u, d = torch.zeros(2, MODEL.window, 2), torch.ones(2, 3, 1), torch.empty(2, 3, 0)
    answers = [rival.rollout(window, u, d, torch.full((2, 1), k)) for k in (-1.0, 1.0)]
    assert answers[0].shape == (2, 3, 1)
    assert torch.equal(*answers) == (name == "persistence")
    torch.testing.assert_close(rival.rollout(window, u, d), answers[1])
