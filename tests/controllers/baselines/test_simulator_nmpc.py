"""NMPC through the simulator: the score of the true equations, limits kept, honest about what it does not know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controllers.baselines.simulator_nmpc import SimulatorNmpc
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop
from controllers.planning.config import PlannerConfig
from models.calibration import Calibration
from plant.errors import ControlError
from plant.spec import load_spec
from simulators.plant import SimulatedPlant

SPEC = load_spec("reactor_bare")
LOW, HIGH = np.array([295.0]), np.array([302.0])
SCORE = PlannerConfig(suppression=0.0, effort_range=(295.0, 302.0))


def _run(config: PlannerConfig, x0: tuple[float, float], targets: np.ndarray, calibration: Calibration | None = None,
         low: np.ndarray = LOW, high: np.ndarray = HIGH) -> Trajectories:  # fmt: skip
    plant = SimulatedPlant(SPEC, 0, 1, noise=0.0, x0=np.array([x0]))
    controller = SimulatorNmpc(SPEC, lambda: (plant.x, plant.d, plant.p), config, calibration)
    return close_loop(
        controller, plant, targets[:, None], preview=True, move_low=low, move_high=high, first_move=np.array([300.0])
    )


def test_scores_what_the_true_equations_can() -> None:
    targets = np.repeat([0.85, 0.90, 0.87], 20)
    runs = _run(SCORE, (0.8, 330.0), targets)
    u = (runs.moves[0, :, 0] - 295.0) / 7.0
    score = -(np.abs(runs.true["Ca"][0, 1:] - targets) / 0.3 + 0.001 * u**2).sum()
    assert -0.375 < score <= -0.3655, "IPOPT reaches -0.366"


def test_keeps_a_guardrail_with_its_margin() -> None:
    limits = np.array([290.0]), np.array([310.0])
    margin = Calibration(torch.full((15, 1), 12.0), 0.9, 1)
    guarded = _run(PlannerConfig(), (0.87, 325.0), np.full(25, 0.3), margin, *limits)
    free = _run(PlannerConfig(guardrails=False), (0.87, 325.0), np.full(25, 0.3), margin, *limits)
    assert guarded.worst["high_temperature"].max() < 338.5, "350 K less 12 K"
    assert free.worst["high_temperature"].max() > 350.0


def test_slopes_are_those_of_the_roll_out() -> None:
    plant = SimulatedPlant(SPEC, 0, 2, noise=0.0, x0=np.array([[0.87, 325.0], [0.8, 330.0]]))
    controller = SimulatorNmpc(SPEC, lambda: (plant.x, plant.d, plant.p), PlannerConfig(horizon=3))
    seen = []
    planner = controller.planner
    kept = planner.plan

    def spy(problem, warm):
        seen.append(problem)
        return kept(problem, warm)

    planner.plan = spy  # type: ignore[method-assign]
    controller.decide(
        Observation(0.0, np.zeros((2, 2)), np.zeros((2, 1)), np.full((2, 1), 300.0)),
        Targets(np.full((2, 1, 1), 0.87), LOW, HIGH),
    )
    moves = torch.tensor([[0.5, 0.5, 0.5], [0.4, 0.6, 0.5]]).double()[..., None]
    rollout, inputs = planner.roll(seen[0], moves)
    changed = moves.clone()
    changed[:, 1] += 0.01
    step = (planner.roll(seen[0], changed)[0].measured - rollout.measured)[..., 0] / 0.01
    torch.testing.assert_close(planner.sensitivity(inputs)[:, :, 0, 1], step, rtol=0.1, atol=1e-6)
    assert (step[:, 0] == 0).all(), "a move acts from its own sample on"
    assert (step[:, 1:] != 0).all()


def test_a_plant_whose_state_nobody_knows_gets_its_safe_move() -> None:
    x = np.array([[np.nan, 325.0], [0.87, 325.0]])
    known = SimulatedPlant(SPEC, 0, 2)
    controller = SimulatorNmpc(SPEC, lambda: (x, known.d, known.p))
    decision = controller.decide(
        Observation(0.0, np.zeros((2, 2)), np.zeros((2, 1)), np.full((2, 1), 300.0)),
        Targets(np.full((2, 1, 1), 0.87), LOW, HIGH),
    )
    assert decision.status[0] is Status.INFEASIBLE
    assert decision.moves[0, 0] == 290.0
    assert decision.status[1] is not Status.INFEASIBLE
    assert np.isfinite(decision.moves[1]).all()


def test_refuses_a_guardrail_the_simulator_does_not_show() -> None:
    rails = (SPEC.guardrails[0].model_copy(update={"tag": "level"}),)
    with pytest.raises(ControlError, match="no output level"):
        SimulatorNmpc(SPEC.model_copy(update={"guardrails": rails}), lambda: (np.zeros(0), np.zeros(0), np.zeros(0)))


def test_margins_are_told_in_the_tags_unit_whatever_a_scale_is() -> None:
    told = []
    for scale in (0.1, 1.0):
        rails = tuple(g.model_copy(update={"scale": scale}) for g in SPEC.guardrails)
        spec = SPEC.model_copy(update={"guardrails": rails})
        plant = SimulatedPlant(spec, 0, 1, noise=0.0)
        controller = SimulatorNmpc(spec, lambda plant=plant: (plant.x, plant.d, plant.p), PlannerConfig(guard=0.0))
        decision = controller.decide(
            Observation(0.0, np.zeros((1, 2)), np.zeros((1, 1)), np.array([[300.0]])),
            Targets(np.full((1, 1, 1), 0.877), LOW, HIGH),
        )
        assert decision.status[0] in (Status.OPTIMAL, Status.FEASIBLE)
        told.append(decision.margins[0, 0, 0])
    assert told == pytest.approx([350.0 - 324.5] * 2, abs=1.0)
