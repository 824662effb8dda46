"""Rivals of the world model behind the same planner: exact slopes, no offset, guardrails, plants of a batch kept apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.forecast import ForecastMpc
from homeostat.lockstep import excitation_run
from models.calibration import Calibration
from models.rivals.contract import Forecaster
from models.rivals.registry import train_rival
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

from .conftest import QUICK, TINY, one_thread, runs_of

CONFIG = PlannerConfig(horizon=12, effort=0.0)
NAMES = ("arx", "subspace", "gru", "reconstruction")


@pytest.fixture(scope="module")
def rivals(bare: PlantSpec) -> dict[str, Forecaster]:
    runs = runs_of(bare, excitation_run(bare, 64, 60, seed=1))
    brief = QUICK.model_copy(update={"steps": 150})
    with one_thread():
        return {name: train_rival(name, bare, runs[8:], runs[:8], TINY, brief) for name in NAMES}


def asked(spec: PlantSpec, value: float, batch: int = 1) -> Targets:
    low, high = limits_of(spec)
    return Targets(np.full((batch, 1, 1), value), low, high)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_the_roll_out(name: str, rivals: dict[str, Forecaster], bare: PlantSpec) -> None:
    controller = ForecastMpc(rivals[name], CONFIG, batch=2)
    rng = np.random.default_rng(0)
    for t in range(5):
        measured = np.array([[0.87, 324.0], [0.9, 321.0]]) + rng.normal(0, [0.001, 0.1], (2, 2))
        seen = Observation(26.0 * t, measured, np.full((2, 1), 350.0), np.full((2, 1), 300.0))
        controller.decide(seen, asked(bare, 0.87, 2))
    z = controller._encoded[0]
    problem = controller._problem(z, torch.full((2, 1), 300.0).double(), asked(bare, 0.87, 2), None)
    moves = torch.rand(2, 12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    planner = controller.planner
    rollout, inputs = planner.roll(problem, moves)
    slopes, step = planner.sensitivity(inputs), 1e-5
    assert slopes.shape == (2, 12, 2, 12)
    for j in (0, 5, 11):
        moved = moves.clone()
        moved[:, j] += step
        other = planner.roll(problem, moved)[0]
        torch.testing.assert_close(slopes[..., j], (other.z - rollout.z)[:, 1:] / step, rtol=1e-3, atol=1e-5)
        assert slopes[:, :j, :, j].abs().max() == 0 if j else True, "a move does nothing before it is made"


@pytest.mark.parametrize("name", NAMES)
def test_a_fouled_plant_is_brought_to_its_target(name: str, rivals: dict[str, Forecaster], bare: PlantSpec) -> None:
    low, high = limits_of(bare)
    runs = close_loop(
        ForecastMpc(rivals[name], CONFIG), SimulatedPlant(bare, 0, 1, Schedule(parameters=np.array([[0.95, 1.0]])), noise=0.0),
        np.full((80, 1), 0.88), preview=False, move_low=low, move_high=high, first_move=np.array([300.0]), scans=1,
    )  # fmt: skip
    assert abs(runs.true["Ca"][0, -5:] - 0.88).max() < 0.002


def test_a_guardrail_on_a_measured_tag_is_kept_in_the_plan(rivals: dict[str, Forecaster], bare: PlantSpec) -> None:
    controller = ForecastMpc(rivals["arx"], CONFIG)
    assert [g.fallback_tag for g in controller.model.spec.guardrails] == [None] * len(bare.guardrails)
    limit, kept = min(g.limit for g in bare.guardrails), 20.0  # the MV's own limits are nearer than the limit itself
    margins = Calibration(torch.full((12, len(bare.guardrails)), kept), 0.9, 1)
    hottest = []
    for guardrails in (True, False):
        controller = ForecastMpc(rivals["arx"], CONFIG.model_copy(update={"guardrails": guardrails}), margins)
        for t in range(5):
            seen = Observation(26.0 * t, np.array([[0.87, 324.5]]), np.full((1, 1), 350.0), np.full((1, 1), 300.0))
            decision = controller.decide(seen, asked(bare, 0.2))
        hottest.append(decision.predicted[0, :, 1].max())
    assert hottest[0] <= limit - kept < hottest[1]


def test_plants_of_a_batch_do_not_meet_and_a_missing_reading_is_no_error(
    rivals: dict[str, Forecaster], bare: PlantSpec
) -> None:
    both = ForecastMpc(rivals["gru"], CONFIG, batch=2)
    alone = [ForecastMpc(rivals["gru"], CONFIG) for _ in range(2)]
    rng = np.random.default_rng(1)
    for t in range(6):
        measured = np.array([[0.87, 324.0], [0.84, 328.0]]) + rng.normal(0, [0.001, 0.1], (2, 2))
        if t == 3:
            measured[0, 1] = np.nan
        applied = 300.0 + rng.normal(0, 1, (2, 1))
        d = np.full((2, 1), 350.0)
        whole = both.decide(Observation(26.0 * t, measured, d, applied), asked(bare, 0.86, 2))
        for i, one in enumerate(alone):
            single = one.decide(
                Observation(26.0 * t, measured[i : i + 1], d[:1], applied[i : i + 1]), asked(bare, 0.86)
            )
            np.testing.assert_allclose(whole.moves[i], single.moves[0], atol=1e-5)
            np.testing.assert_allclose(whole.bias[i], single.bias[0], atol=1e-8)
        assert np.isfinite(whole.moves).all()
    blind = both.decide(Observation(200.0, np.full((2, 2), np.nan), d, applied), asked(bare, 0.86, 2))
    assert set(blind.status) == {Status.INFEASIBLE}


def test_what_a_rival_cannot_do_is_refused(rivals: dict[str, Forecaster]) -> None:
    with pytest.raises(ControlError, match="no latent"):
        ForecastMpc(rivals["arx"], CONFIG.model_copy(update={"energy": "goal"}))
    with pytest.raises(ControlError, match="horizon"):
        ForecastMpc(rivals["arx"], CONFIG.model_copy(update={"horizon": 40}))
