"""Calibrated margins: wanted after the limits, before the energy, given up late and little, and said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.planning.planner import Planner
from controllers.planning.problem import late_weights
from models.calibration import Calibration
from models.world_model import WorldModel

from .test_planner import planner_of
from .test_scp import at_state, cold, problem_of

NAMES = ("scp", "icem", "mppi")


def calibrated(planner: Planner, kept: torch.Tensor) -> torch.Tensor:
    """`kept` (horizon,), scales, for every limit of one plant."""
    n = len(planner.constraints.limit)
    return torch.stack([kept if i < n else 0 * kept for i in range(len(planner.constraints))], -1)[None].double()


@pytest.mark.parametrize("name", NAMES)
def test_a_margin_that_cannot_be_kept_is_no_reason_for_the_fallback(wild: WorldModel, name: str) -> None:
    """Nothing keeps it, every limit is kept: the plan is not the fallback, and gives up less of the margin than the warm start."""
    planner = planner_of(wild, name, iterations=2)
    problem = problem_of(planner)
    safe = planner.assess(problem, problem.fallback.expand(3, 6, -1))
    required = safe.rollout.margins.amin((0, 1)).expand(3, 6, -1) - 1.0
    wanted = calibrated(planner, torch.full((6,), 1e3)).expand(3, -1, -1)
    problem = dataclasses.replace(problem, required=required, calibrated=wanted)
    warm = torch.rand(3, 6, 1, generator=torch.Generator().manual_seed(2)).double()
    plan, before = planner.plan(problem, warm), planner.assess(problem, planner.inside(problem, warm))
    assert (plan.violation < 0.01).all()
    assert (plan.shortfall > 1.0).any(1).all()
    fallback = planner.assess(problem, problem.fallback.expand(3, 6, -1))
    assert not torch.allclose(plan.rollout.moves, fallback.rollout.moves)
    same = before.violation.sum(1) < 0.01
    assert (plan.shortfall[same, 0] < before.shortfall[same, 0] + 0.01).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_margin_is_bought_with_a_limit_and_none_sold_for_energy(trained: WorldModel, name: str) -> None:
    planner = planner_of(trained, name)
    problem = at_state(planner, ca=0.85, t=328.0, target=0.3)
    free = planner.plan(problem, cold(problem, 12))
    n = len(planner.constraints.limit)
    more = float((free.rollout.margins - problem.required)[..., :n].min()) + 4.0
    wanted = dataclasses.replace(problem, calibrated=calibrated(planner, torch.full((12,), more)))
    kept = planner.plan(wanted, cold(problem, 12))
    assert (kept.violation < 0.01).all()
    assert (kept.shortfall < 0.01).all(), "it can be kept, so it is"
    assert kept.energy > free.energy + 1e-3
    assert (kept.rollout.margins - problem.required)[..., :n].min() >= more - 0.01


def test_what_is_given_up_is_given_up_late(trained: WorldModel) -> None:
    """Of two plans that are short by as much, the one that is short later ranks better, and the planner finds it."""
    planner = planner_of(trained, "scp")
    problem = at_state(planner, ca=0.85, t=328.0, target=0.85)
    early, late = (torch.zeros(1, 12, len(planner.constraints)).double() for _ in range(2))
    early[:, 1, 0] = late[:, 10, 0] = -2.0
    problem = dataclasses.replace(
        problem,
        required=torch.full_like(problem.required, -9.0),
        calibrated=calibrated(planner, torch.full((12,), 9.0)),
    )
    both = [planner.constraints.levels(m, problem)[0, len(planner.constraints.ranks)] for m in (early, late)]
    assert both[1] < 0.6 * both[0]
    weights = late_weights(torch.empty(1, 12))
    assert (weights.diff() < 0).all()
    assert weights.log().mean().abs() < 1e-6


def decided(model: WorldModel, margin: float, t: float = 324.5, **config: object) -> JepaMpc:
    margins = torch.zeros(12, 2)
    margins[:, 0] = torch.linspace(0.0, margin, 12)
    return JepaMpc(model, PlannerConfig(horizon=12, effort=0.0, **config), Calibration(margins, 0.99, 100))  # type: ignore[arg-type]


def test_a_tight_plan_says_what_it_gives_up_and_when(trained: WorldModel) -> None:
    """A margin wider than the way to the limit: the plan goes on, its status TIGHT, violation 0."""
    seen = Observation(0.0, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
    targets = Targets(np.full((1, 1, 1), 0.87), *limits_of(trained.spec))
    decision = decided(trained, 60.0).decide(seen, targets)
    assert decision.status == (Status.TIGHT,)
    assert decision.violation == 0
    assert decision.margins.min() < 0
    assert "high_temperature keeps" in decision.why[0]
    assert "of its margin of 60" in decision.why[0] or "of its margin of 5" in decision.why[0]
    assert " K in 1" in decision.why[0]
    assert "no plan keeps more" in decision.why[0]
    assert decided(trained, 0.0).decide(seen, targets).status[0] in (Status.OPTIMAL, Status.FEASIBLE)
    lost = Observation(0.0, np.array([[0.7, 356.0]]), np.array([[350.0]]), np.array([[300.0]]))
    assert decided(trained, 60.0).decide(lost, targets).status == (Status.RECOVERY,)


def test_the_margin_of_recoverability_is_no_margin_to_give_up(trained: WorldModel) -> None:
    seen = Observation(0.0, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
    targets = Targets(np.full((1, 1, 1), 0.87), *limits_of(trained.spec))
    margins = torch.zeros(12, 2)
    margins[:, 1] = 60.0
    decision = JepaMpc(trained, PlannerConfig(horizon=12), Calibration(margins, 0.99, 100)).decide(seen, targets)
    assert decision.status == (Status.RECOVERY,)
    assert decision.moves == 290.0, "the fallback"
    assert decision.violation[0] > 1.0
