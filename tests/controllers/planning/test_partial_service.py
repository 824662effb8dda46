"""MVs that are not ours, targets nobody can see, and operator limits in the way of the fallback."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from controllers.contracts import Controller, Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.mpc import JepaMpc
from controllers.planning.planner import Planner
from controllers.planning.problem import Problem
from models.world_model import WorldModel
from plant.spec import PlantSpec, load_spec

from .test_compiled import BATCH, planners, plans, problem_of
from .test_units import FORMS, SHAPE, Random, forecast, linear_mpc, shifted, world

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
BOTH = load_spec("vandevusse")  # two MVs, two targets


def first_dropped(problem: Problem, previous: float | None = None) -> Problem:
    rate = problem.rate.clone()
    rate[0] = 0.0
    where = problem.previous.clone()
    if previous is not None:
        where[:, 0] = previous
    return dataclasses.replace(problem, rate=rate, previous=where)


@needs_cc
@pytest.mark.parametrize("options", [{}, {"blocks": (1, 2, 4)}, {"steady": 2.0}], ids=str)
@pytest.mark.parametrize("required", [-5.0, 0.0])
def test_both_forms_plan_around_what_is_not_theirs(options: dict[str, Any], required: float) -> None:
    """One MV far outside the limits that stays there, and a target that is not asked for in some plants at all."""
    compiled, tensors = planners("vandevusse", **options)
    problem = first_dropped(problem_of(compiled, required), 1.7)
    targets = problem.targets.clone()
    targets[: BATCH // 2, :, 0] = torch.nan
    problem = dataclasses.replace(problem, targets=targets)
    one, other = plans(compiled, problem), plans(tensors, problem)
    for plan in (one, other):
        assert (plan.rollout.moves[..., 0] == 1.7).all()
        assert torch.isfinite(plan.energy).all()
        assert (plan.rollout.moves[..., 1].diff(dim=1).abs() > 1e-3).any()
    torch.testing.assert_close(one.energy, other.energy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["scp", "icem", "mppi"])
def test_a_target_that_is_not_asked_for_costs_nothing(name: str) -> None:
    """The plan is that of a plant whose energy never knew it."""
    config = PlannerConfig(name=name, horizon=8, candidates=32, steady=0.5)
    planner = JepaMpc(world(BOTH, 1.0), config).planner
    blind = BOTH.model_copy(update={"targets": BOTH.targets[1:]})
    without = JepaMpc(world(blind, 1.0), config).planner
    problem = some_problem(planner)
    targets = problem.targets.clone()
    targets[..., 0] = torch.nan
    one = plan_of(planner, dataclasses.replace(problem, targets=targets))
    other = plan_of(without, dataclasses.replace(problem, targets=problem.targets[..., 1:]))
    # Second-order shooting has rows that say nothing; its interior point, ten steps long, ends a little elsewhere.
    loose = 0.1 if name == "scp" else 1e-9
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves, rtol=0, atol=0.5 * loose)
    torch.testing.assert_close(one.energy, other.energy, rtol=loose, atol=0)


def some_problem(planner: Planner) -> Problem:
    rng, n = torch.Generator().manual_seed(1), len(planner.constraints)
    values = torch.tensor([t.value for t in BOTH.targets]).double()
    normal = torch.randn(4, SHAPE.latent, generator=rng).double()
    return Problem(
        z=normal, dvs=torch.zeros(4, 8, 2).double(), previous=torch.full((4, 2), 0.4).double(), low=torch.zeros(2).double(),
        high=torch.ones(2).double(), rate=torch.full((2,), 0.3).double(), fallback=torch.zeros(2).double(),
        targets=values.expand(4, 8, -1), bias=torch.zeros(4, 8, 4).double(), required=torch.full((4, 8, n), -1e3).double(),
    )  # fmt: skip


def plan_of(planner: Planner, problem: Problem) -> Any:
    with torch.inference_mode():
        return planner.plan(problem, problem.previous[:, None].expand(-1, 8, -1))


def run(controller: Controller, spec: PlantSpec, **targets: Any) -> list[Decision]:
    rng, (mean, std) = np.random.default_rng(1), shifted(spec)
    nm, nd = len(spec.measured), len(spec.dvs)
    low, high = limits_of(spec)
    values = np.array([[[t.value + t.scale for t in spec.targets]]])
    answers, applied = [], mean[None, nm + nd :].copy()
    applied[:, 0] = targets.pop("held", applied[0, 0])
    for k in range(5):
        row = (mean + 0.2 * std * rng.normal(size=len(mean)))[None]
        seen = Observation(k * 18.0, row[:, :nm], row[:, nm : nm + nd], applied)
        answers.append(controller.decide(seen, Targets(values, low, high, **targets)))
        applied = answers[-1].moves
    return answers


ALL = {**{n: FORMS[n] for n in ("compiled", "icem", "filter")}, "forecast": forecast, "linear": linear_mpc}


@pytest.mark.parametrize("form", ALL)
def test_every_controller_leaves_a_dropped_mv_where_it_is(form: str) -> None:
    """At 2 1/h, below what the engineer allows us: an operator has it. The other one goes on."""
    held = run(ALL[form](BOTH, 1.0), BOTH, dropped=np.array([True, False]), held=2.0)
    assert all((d.plan[..., 0] == 2.0).all() for d in held)
    assert all((d.moves[:, 0] == 2.0).all() for d in held)
    assert np.abs(held[0].plan[0, :, 1] - shifted(BOTH)[0][-1]).max() > 1.0


@pytest.mark.parametrize("form", [f for f in ALL if f != "filter"])
def test_no_controller_heeds_a_target_that_is_left_out(form: str) -> None:
    """Whatever is asked of it."""

    def moves(far: float) -> np.ndarray:
        spec = BOTH.model_copy(
            update={"targets": (BOTH.targets[0].model_copy(update={"value": far}), *BOTH.targets[1:])}
        )
        answers = run(ALL[form](spec, 1.0), spec, left_out=np.array([True, False]))
        assert all(np.isfinite(v).all() for d in answers for v in d.energy.values())
        return np.stack([d.plan for d in answers])

    np.testing.assert_array_equal(moves(0.5), moves(1.0))


def test_nothing_is_found_and_the_dropped_mv_still_stays() -> None:
    low, high = limits_of(BOTH)
    controller = JepaMpc(world(BOTH, 1.0), PlannerConfig(horizon=8))
    mean, _ = shifted(BOTH)
    seen = Observation(0.0, np.full((1, 4), np.nan), mean[None, 4:6], mean[None, 6:])
    asked = Targets(np.array([[[0.9, 134.0]]]), low, high, dropped=np.array([True, False]))
    answer = controller.decide(seen, asked)
    assert answer.status == (Status.INFEASIBLE,)
    np.testing.assert_array_equal(answer.moves, [[mean[6], -8500.0]])


# Operator limits of the bare reactor's coolant that leave out all cold coolant, while the reactor is hot.


def hot(t: float = 345.0, applied: float = 305.0) -> Observation:
    return Observation(0.0, np.array([[0.8, t]]), np.array([[350.0]]), np.array([[applied]]))


def hostile(spec: PlantSpec) -> Targets:
    low, high = limits_of(spec)
    return Targets(np.full((1, 1, 1), 0.87), low + 14.0, high)


@pytest.mark.parametrize("name", ["scp", "icem"])
def test_operator_limits_do_not_bar_the_fallback(name: str, trained: WorldModel) -> None:
    config = PlannerConfig(name=name, horizon=12, effort=0.0, candidates=64)
    decision = JepaMpc(trained, config).decide(hot(), hostile(trained.spec))
    assert decision.status == (Status.RECOVERY,), "the runtime lets only this past the operator's limits"
    assert decision.moves[0, 0] < 300.0
    assert "no plan inside the operator's limits keeps every guardrail: Tc goes to 29" in decision.why[0]
    assert "outside 304 to 310" in decision.why[0]
    calm = JepaMpc(trained, config).decide(hot(t=318.0), hostile(trained.spec))
    assert calm.moves[0, 0] >= 304.0, "where they keep the guardrails, they hold"
    assert calm.status[0] is not Status.RECOVERY


def test_operator_limits_do_not_bar_the_filters_fallback(trained: WorldModel) -> None:
    controller = GuardrailFilter(trained, None, Random(trained.spec), PlannerConfig(horizon=12))
    decision = controller.decide(hot(), hostile(trained.spec))
    assert decision.status == (Status.RECOVERY,)
    assert decision.moves[0, 0] < 300.0
    assert "outside 304 to 310" in decision.why[0]
    calm = controller.decide(hot(t=318.0), hostile(trained.spec))
    assert calm.moves[0, 0] >= 304.0
    assert calm.status[0] is not Status.RECOVERY


def test_a_margin_that_only_the_engineers_limits_keep_is_a_plan_of_those() -> None:
    """Not the fallback, where something between it and the operator's limits does."""
    planner = JepaMpc(world(BOTH, 1.0), PlannerConfig(horizon=8)).planner
    problem = some_problem(planner)
    low = torch.full((2,), 0.4).double()
    inside = planner.roll(problem, planner.inside(problem, torch.full((4, 8, 2), 0.2).double()))[0]
    problem = dataclasses.replace(problem, low=low, required=inside.margins - 0.01)
    narrow = planner._within(problem, problem.previous[:, None].expand(-1, 8, -1), None, True)
    plan = plan_of(planner, problem)
    worse = narrow.violation.sum(1) > 0.01
    assert worse.any()
    assert (plan.violation.sum(1)[worse] < narrow.violation.sum(1)[worse]).all()
    torch.testing.assert_close(plan.rollout.moves[~worse], narrow.rollout.moves[~worse])
