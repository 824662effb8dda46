"""A disturbance that is known to come is planned for before it arrives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from controllers.contracts import Decision, Observation, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from models.config import ModelConfig
from models.windows import Scale
from models.world_model import WorldModel
from plant.spec import PlantSpec

HORIZON = 10


def tag(name: str, role: str, nominal: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "description": f"Signal {name}", "unit": "degC", "range": (-10.0, 10.0),
            "nominal": nominal, "node_id": f"ns=2;s=room.{name}", **more}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """T(k+1) = 0.8 T(k) + 0.2 (U(k) + D(k)), known exactly; U moves slowly."""
    spec = PlantSpec.model_validate({
        "name": "room",
        "description": "A room",
        "endpoint": "opc.tcp://127.0.0.1:0/room",
        "sample_time_s": 1.0,
        "scan_time_s": 1.0,
        "tags": [
            tag("T", "CV"),
            tag("D", "DV"),
            tag("U", "MV", move={"limits": (-5.0, 5.0), "rate_per_s": 0.3, "safe": 0.0}),
        ],
        "targets": [{"tag": "T", "value": 0.0, "limits": (-5.0, 5.0), "scale": 1.0}],
    })  # fmt: skip
    world = WorldModel(spec, ModelConfig(window=1, latent=1, horizon=HORIZON), Scale(np.zeros(3), np.ones(3)))
    with torch.no_grad():
        for weight in world.parameters():
            weight.zero_()
        world.encoder.linear.weight[0, 0] = 1.0
        world.predictor.linear.weight[0] = torch.tensor([-0.2, 0.2, 0.2])
        world.read_out_head.weight.fill_(1.0)
    return world


def decide(model: WorldModel, forecast: np.ndarray | None, d: float = 0.0) -> Decision:
    controller = JepaMpc(model, PlannerConfig(horizon=HORIZON, effort=0.0, iterations=20))
    seen = Observation(0.0, np.zeros((1, 1)), np.full((1, 1), d), np.zeros((1, 1)), forecast=forecast)
    return controller.decide(seen, Targets(np.zeros((1, HORIZON, 1)), np.full(1, -5.0), np.full(1, 5.0)))


def cold_from(step: int, length: int = HORIZON) -> np.ndarray:
    """-3 from `step` samples from now on."""
    return np.where(np.arange(1, length + 1) >= step, -3.0, 0.0)[None, :, None]


def test_the_plan_moves_before_the_disturbance_comes(model: WorldModel):
    blind, told = decide(model, None), decide(model, cold_from(5))
    assert np.abs(blind.plan).max() < 0.01
    assert told.plan[0, :4, 0].max() > 0.2, "the MV needs ten samples to make up for it, so it starts early"
    assert told.plan[0, -1, 0] > told.plan[0, 0, 0]
    # Held moves would let T fall as far as the equations say.
    fallen = 0.0
    for k in range(HORIZON):
        fallen = 0.8 * fallen + 0.2 * float(told.plan[0, k, 0] + (0.0 if k < 5 else -3.0))
        assert told.predicted[0, k, 0] == pytest.approx(fallen, abs=1e-6)


def test_what_is_not_forecast_holds(model: WorldModel):
    now = decide(model, None, d=-1.0)
    for unknown in (np.full((1, HORIZON, 1), np.nan), np.empty((1, 0, 1)), np.full((1, 3, 1), -1.0)):
        np.testing.assert_array_equal(decide(model, unknown, d=-1.0).plan, now.plan)
    short, long = decide(model, cold_from(2, length=3)), decide(model, cold_from(2))
    np.testing.assert_array_equal(short.plan, long.plan)
    assert not np.array_equal(short.plan, decide(model, None).plan)


def test_a_forecast_past_the_horizon_changes_nothing(model: WorldModel):
    np.testing.assert_array_equal(decide(model, cold_from(HORIZON + 3, 20)).plan, decide(model, None).plan)
