"""What every planner promises, whichever it is: limits, guardrails before energy, determinism, plants kept apart, time."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.planning.planner import Clock, Planner
from controllers.planning.problem import Problem
from controllers.planning.sampling import coloured, weights
from models.world_model import WorldModel
from plant.spec import PlantSpec

from .test_scp import at_state, cold, problem_of, total

NAMES = ("scp", "icem", "mppi")
BLOCKS = (1, 2, 3)


def planner_of(model: WorldModel, name: str, **config) -> Planner:
    few = {} if name == "scp" else {"candidates": 64}
    return JepaMpc(model, PlannerConfig(**{"name": name, "horizon": model.config.horizon, **few, **config})).planner


@pytest.mark.parametrize("blocks", [(), BLOCKS])
@pytest.mark.parametrize("name", NAMES)
def test_limits_and_rate_hold_whatever_is_asked(wild: WorldModel, name: str, blocks: tuple[int, ...]) -> None:
    planner = planner_of(wild, name, blocks=blocks, iterations=2)
    for seed, (low, high, rate, demand) in enumerate(
        [(0.0, 1.0, 0.05, 0.0), (0.2, 0.5, 0.4, 1e3), (0.3, 0.6, 1.5, -1e3)]
    ):
        problem = problem_of(planner, seed=seed)
        problem = dataclasses.replace(
            problem, previous=low + (high - low) * problem.previous, low=torch.tensor([low]).double(),
            high=torch.tensor([high]).double(), rate=torch.tensor([rate], dtype=torch.float64),
            required=torch.full_like(problem.required, demand),
        )  # fmt: skip
        plan = planner.plan(problem, torch.full((3, 6, 1), -2.0).double())
        moves, kept = plan.rollout.moves, (plan.violation < 0.01).all(1)
        assert kept.all() or demand >= 0
        assert (moves[kept] >= low - 1e-9).all()
        assert (moves[kept] <= high + 1e-9).all()
        assert (moves >= 0).all(), "what keeps no guardrail may leave the operator's limits, never the engineer's"
        assert (moves <= 1).all()
        steps = torch.cat([problem.previous[:, None], moves], 1).diff(dim=1)
        assert (steps.abs() <= rate + 1e-9).all()
        torch.testing.assert_close(plan.energy, total(planner, plan.rollout, problem))


@pytest.mark.parametrize(("name", "gap"), [("scp", 0.02), ("icem", 0.1), ("mppi", 0.1)])
@pytest.mark.parametrize("blocks", [(), (1, 1, 2)])
def test_finds_the_optimum(trained: WorldModel, name: str, gap: float, blocks: tuple[int, ...]) -> None:
    """Against all plans of three moves on a fine grid, and against SCP left to converge: `gap` is of what there is to gain
    over standing still."""
    planner = planner_of(trained, name, horizon=6, blocks=blocks, candidates=256, iterations=8)
    best = planner_of(trained, "scp", horizon=6, blocks=blocks, iterations=30)
    for target in (0.84, 0.86, 0.89):
        problem = at_state(planner, ca=0.87, t=324.5, target=target)
        still = total(planner, planner.roll(problem, cold(problem, 6))[0], problem)
        reference = best.plan(problem, cold(problem, 6)).energy
        if blocks:
            grid = torch.cartesian_prod(*[torch.linspace(0, 1, 26).double()] * 3)
            many = problem.repeated(len(grid))
            moves = grid[:, [0, 1, 2, 2, 2, 2], None]
            rollout, _ = planner.roll(many, moves)
            allowed = (planner.constraints.violation(rollout.margins, many.required) < 0.01).all(1)
            searched = total(planner, rollout, many)[allowed].min()
            assert reference[0] <= searched + 1e-3 * still[0], "what the others are held against is the optimum"
        plan = planner.plan(problem, cold(problem, 6))
        assert (plan.violation < 0.01).all()
        assert (plan.energy - reference <= gap * (still - reference) + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_blocks_hold_the_moves(trained: WorldModel, name: str) -> None:
    planner = planner_of(trained, name, blocks=BLOCKS)
    problem = at_state(planner, ca=0.87, t=324.5, target=0.89, rate=torch.tensor([0.3]).double())
    moves = planner.plan(problem, cold(problem, 12)).rollout.moves[0, :, 0]
    changed = moves.diff().abs() > 1e-12
    assert changed.any()
    assert not changed[[1, 3, 4, *range(6, 11)]].any(), "the first sample alone, then two, then all the rest"


@pytest.mark.parametrize("name", NAMES)
def test_blocking_gives_up_no_safe_way(wild: WorldModel, name: str) -> None:
    """The warm start competes as it is: what it keeps, the plan keeps."""
    planner = planner_of(wild, name, blocks=(6,), iterations=2)
    for seed in range(4):
        warm = torch.rand(3, 6, 1, generator=torch.Generator().manual_seed(seed)).double()
        problem = problem_of(planner, seed=seed, rate=torch.ones(1).double())
        margins = planner.roll(problem, warm)[0].margins
        problem = dataclasses.replace(problem, required=margins - 0.01)
        assert (planner.plan(problem, warm).violation * 100 < 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_energy_buys_no_violation(trained: WorldModel, name: str) -> None:
    """A target that only a runaway reaches, at thirty times its price."""
    few = {} if name == "scp" else {"candidates": 512, "blocks": (2, 4)}
    planner = planner_of(trained, name, effort=0.0, **few)
    planner.energy.scale = torch.tensor([0.01]).double()
    problem = at_state(planner, ca=0.85, t=328.0, target=0.3)
    plan = planner.plan(problem, cold(problem, 12))
    assert (plan.violation < 0.01).all()
    greedy = planner_of(trained, name, effort=0.0, guardrails=False, **few)
    greedy.energy.scale = torch.tensor([0.01]).double()
    bought = greedy.plan(problem, cold(problem, 12))
    assert bought.energy < plan.energy, "there was something to buy"
    assert planner.constraints.violation(bought.rollout.margins, problem.required)[0, 0] > 1.0


@pytest.mark.parametrize("name", NAMES)
def test_fallback_is_the_plan_when_nothing_is_safe(wild: WorldModel, name: str) -> None:
    planner = planner_of(wild, name, blocks=BLOCKS, iterations=2)
    problem = problem_of(planner)
    problem = dataclasses.replace(problem, required=torch.full_like(problem.required, 1e3))
    plan = planner.plan(problem, cold(problem, 6))
    fallback = planner.inside(problem, problem.fallback.expand(3, 6, -1))
    torch.testing.assert_close(plan.rollout.moves, fallback)
    assert (plan.violation[:, 0] > 1.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_three_plants_at_once_are_three_plants(wild: WorldModel, name: str) -> None:
    planner = planner_of(wild, name)
    problem = problem_of(planner)
    problem = dataclasses.replace(problem, required=problem.required.clone())
    problem.required[1] = 1e3
    warm = torch.rand(3, 6, 1, generator=torch.Generator().manual_seed(1)).double()
    together = planner.plan(problem, warm)
    for b in range(3):
        alone = planner.plan(problem.part(slice(b, b + 1)), warm[b : b + 1])
        torch.testing.assert_close(together.rollout.moves[b], alone.rollout.moves[0], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(together.violation[b], alone.violation[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_plans_the_same(wild: WorldModel, name: str) -> None:
    plans = []
    for seed in (3, 3, 4):
        planner = planner_of(wild, name, seed=seed, iterations=2)
        problem = problem_of(planner)
        plans += [planner.plan(problem, cold(problem, 6)).rollout.moves for _ in range(2)]
    assert all(torch.equal(plans[0], p) for p in plans[1:4])
    assert torch.equal(plans[0], plans[4]) == (name == "scp"), "only what samples looks at the seed"


@pytest.mark.parametrize("name", NAMES)
def test_no_time_at_all_gives_the_warm_start_and_says_so(trained: WorldModel, name: str) -> None:
    planner = planner_of(trained, name)
    problem = at_state(planner, ca=0.87, t=324.5, target=0.87)
    warm = cold(problem, 12)
    plan = planner.plan(problem, warm, deadline=time.perf_counter())
    assert plan.late
    assert not plan.converged.any()
    torch.testing.assert_close(plan.rollout.moves, warm)


@pytest.mark.parametrize("name", NAMES)
def test_zero_time_in_the_loop(bare: PlantSpec, trained: WorldModel, name: str) -> None:
    """The moves in force are held, the status is DEADLINE; with the time it needs, it is not."""
    low, high = limits_of(bare)
    seen = Observation(0.0, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
    for deadline_s, status in ((0.0, {Status.DEADLINE}), (600.0, {Status.OPTIMAL, Status.FEASIBLE})):
        controller = JepaMpc(trained, PlannerConfig(name=name, horizon=12, candidates=64), deadline_s=deadline_s)  # type: ignore[arg-type]
        decision = controller.decide(seen, Targets(np.full((1, 1, 1), 0.87), low, high))
        assert set(decision.status) <= status
        if deadline_s == 0.0:
            np.testing.assert_allclose(decision.moves, 300.0)


def test_clock_asks_whether_the_next_iteration_fits() -> None:
    clock = Clock(time.perf_counter() + 0.3)
    assert clock.another()
    time.sleep(0.2)
    assert not clock.another(), "a third of the time is left, and the last one took two"
    assert clock.late
    assert Clock(None).another()


@pytest.mark.parametrize("name", NAMES)
def test_unrest_at_the_end_is_priced(trained: WorldModel, name: str) -> None:
    """A dear end rests more; the price is in the energy."""
    still = []
    for price in (0.0, 20.0):
        planner = planner_of(trained, name, steady=price, effort=0.0)
        problem = at_state(planner, ca=0.85, t=328.0, target=0.89)
        plan = planner.plan(problem, cold(problem, 12))
        still.append(float(plan.rollout.measured[0, -2:, 0].diff().abs()))
        torch.testing.assert_close(torch.stack(list(plan.terms.values())).sum(0), plan.energy)
        assert ("unrest" in plan.terms) == (price > 0)
    assert still[1] < 0.7 * still[0] or still[1] < 1e-4


def test_blocks_longer_than_the_horizon_are_refused() -> None:
    with pytest.raises(ValidationError, match="longer than the horizon of 4"):
        PlannerConfig(horizon=4, blocks=(2, 3))


def test_weights_are_of_the_safe_ones_and_divide_by_the_temperature() -> None:
    energy = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).double()
    none = torch.zeros(1, 4, 2).double()
    sharp, blunt = weights(none, energy, 0.05), weights(none, energy, 5.0)
    assert sharp[0, 0] > 0.99
    assert blunt[0].max() < 0.4
    one = none.clone()
    one[0, 0, 0] = 2.0
    assert weights(one, energy, 0.05)[0, 0] == 0.0
    assert weights(one, energy, 0.05)[0, 1] > 0.99
    all_break = torch.tensor([[[2.0, 0.0], [1.0, 9.0], [3.0, 0.0], [5.0, 0.0]]]).double()
    assert weights(all_break, energy, 0.05)[0, 1] > 0.99, "the least violation, whatever the energy and the lesser rank"
    second = torch.tensor([[[0.0, 9.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]]]).double()
    found = weights(second, energy, 0.05)[0]
    assert found[1] > 0.99
    assert found[2] == 0.0, "nothing that breaks the first rank"
    torch.testing.assert_close(
        weights(none, torch.full((1, 4), torch.nan).double(), 0.05), torch.full((1, 4), 0.25).double()
    )


def test_noise_is_coloured() -> None:
    noise = coloured(2000, 16, 2, torch.Generator().manual_seed(0))
    assert noise.shape == (2000, 16, 2)
    assert abs(float(noise.std()) - 1) < 1e-6
    assert abs(float(noise.mean())) < 0.1
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean()
    assert neighbours > 0.6, "white noise has none"
    assert abs(float((noise[:, :, 0] * noise[:, :, 1]).mean())) < 0.05, "MVs are drawn apart"
    assert coloured(8, 1, 1, torch.Generator().manual_seed(0)).shape == (8, 1, 1)


def test_part_and_repeated_keep_what_is_shared(wild: WorldModel) -> None:
    problem = problem_of(planner_of(wild, "scp"))
    twice = problem.repeated(2)
    assert twice.z.shape[0] == 6
    torch.testing.assert_close(twice.z[2:4], problem.z[[1, 1]])
    assert twice.low is problem.low
    one: Problem = problem.part(slice(1, 2))
    torch.testing.assert_close(one.targets, problem.targets[1:2])
