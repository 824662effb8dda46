"""Bad input to a planner: a status, a sentence that says what is wrong, and a move that is safe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from models.world_model import WorldModel

SAFE = 290.0  # of the bare reactor's coolant
CONFIG = PlannerConfig(horizon=12, effort=0.0)


def asked(model: WorldModel, value: float = 0.87, **limits: float) -> Targets:
    low, high = limits_of(model.spec)
    return Targets(np.full((1, 1, 1), value), low + limits.get("low", 0.0), high + limits.get("high", 0.0))


def reading(ca: float = 0.87, t: float = 324.5, applied: float = 300.0) -> Observation:
    return Observation(0.0, np.array([[ca, t]]), np.array([[350.0]]), np.array([[applied]]))


def decided(model: WorldModel, targets: Targets, seen: Observation, deadline_s: float | None = None) -> Decision:
    controller = JepaMpc(model, CONFIG, deadline_s=deadline_s)
    decision = controller.decide(seen, targets)
    assert len(decision.why) == 1
    return decision


def test_limits_that_contradict_each_other(trained: WorldModel) -> None:
    decision = decided(trained, asked(trained, low=15.0, high=-15.0), reading())
    assert decision.status == (Status.INFEASIBLE,)
    assert decision.moves == SAFE
    assert "the limits of Tc leave no move: low 305, high 295 K" in decision.why[0]


@pytest.mark.parametrize(
    ("what", "text"), [("measured", "none of Ca, T can be read"), ("applied", "in force of Tc is not known")]
)
def test_a_plant_that_cannot_be_seen(trained: WorldModel, what: str, text: str) -> None:
    seen = dataclasses.replace(reading(), **{what: np.full_like(getattr(reading(), what), np.nan)})
    decision = decided(trained, asked(trained), seen)
    assert decision.status == (Status.INFEASIBLE,)
    assert decision.moves == SAFE
    assert text in decision.why[0]


def test_a_start_that_nothing_saves(trained: WorldModel) -> None:
    decision = decided(trained, asked(trained), reading(ca=0.7, t=356.0))
    assert decision.status == (Status.RECOVERY,)
    assert decision.moves == SAFE
    assert decision.violation > 0
    assert "high_temperature" in decision.why[0]
    assert "falls short of what brings the plant back by" in decision.why[0]
    assert " K in 1 sample (26 s), whatever is done" in decision.why[0]


def test_a_target_outside_reach(trained: WorldModel) -> None:
    """More reactant left than the coldest coolant leaves: it goes as far as it can, and says why no further."""
    controller, targets = JepaMpc(trained, CONFIG), asked(trained, 0.92, low=7.0)
    for _ in range(3):
        decision = controller.decide(reading(applied=297.0), targets)
    assert decision.status[0] in (Status.OPTIMAL, Status.FEASIBLE)
    assert decision.plan[0, -1] == pytest.approx(297.0, abs=0.1)
    assert "the plan brings Ca to" in decision.why[0]
    assert "not to 0.92: Tc is at its limit" in decision.why[0]
    assert controller.decide(reading(), asked(trained)).why == ("",)


def test_no_time_at_all(trained: WorldModel) -> None:
    decision = decided(trained, asked(trained), reading(), deadline_s=1e-9)
    assert decision.status == (Status.DEADLINE,)
    assert "the best found in 1e-06 ms" in decision.why[0]
