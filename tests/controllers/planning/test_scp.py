"""The planner: exact sensitivities, limits that hold whatever it is given, and guardrails before energy, always."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
import time
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controllers.planning import compiled
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.planning.planner import Planner
from controllers.planning.problem import Problem, Rollout
from controllers.planning.ranking import before, least, order, ranking
from controllers.planning.scp import ScpPlanner
from models.world_model import WorldModel
from plant.native import CompilerError

BATCH = 3
ANY_FIXTURE = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["compiled", "tensors"], autouse=True)
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compiled":
        if not shutil.which("cc"):
            pytest.skip("no C compiler")
        return

    def none() -> None:
        raise CompilerError("not this time")

    monkeypatch.setattr(compiled, "_library", none)


def planner_of(model: WorldModel, **config) -> ScpPlanner:
    planner = JepaMpc(model, PlannerConfig(**{"horizon": model.config.horizon, **config})).planner
    assert isinstance(planner, ScpPlanner)
    return planner


def problem_of(planner: Planner, batch: int = BATCH, seed: int = 0, **changes) -> Problem:
    """A problem at random; MVs scaled 0..1, a rate that binds, nothing required of the margins unless asked."""
    rng, model, h = torch.Generator().manual_seed(seed), planner.model, planner.config.horizon

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    n_target = len(planner.energy.columns)
    usual = torch.tensor([t.value for t in model.spec.targets], dtype=torch.float64)
    fields = {
        "z": normal(batch, model.config.latent),
        "dvs": 0.3 * normal(batch, 1, model.n_dv).expand(-1, h, -1),
        "previous": torch.rand(batch, model.n_mv, generator=rng, dtype=torch.float64),
        "low": torch.zeros(model.n_mv).double(),
        "high": torch.ones(model.n_mv).double(),
        "rate": torch.full((model.n_mv,), 0.2).double(),
        "fallback": torch.zeros(model.n_mv).double(),
        "targets": usual + 0.1 * normal(batch, 1, n_target).expand(-1, h, -1),
        "bias": torch.zeros(batch, h, model.n_measured).double(),
        "required": torch.full((batch, h, len(planner.constraints)), -1e3).double(),
    }
    return Problem(**{**fields, **changes})


def cold(problem: Problem, horizon: int) -> torch.Tensor:
    return problem.previous[:, None].expand(-1, horizon, -1)


def total(planner: Planner, rollout: Rollout, problem: Problem) -> torch.Tensor:
    return torch.stack(list(planner.energy.terms(rollout, problem).values())).sum(0)


def test_sensitivity_is_the_jacobian_of_the_roll_out(wild: WorldModel) -> None:
    planner = planner_of(wild)
    problem = problem_of(planner)
    moves = torch.rand(BATCH, 6, wild.n_mv, dtype=torch.float64)
    rollout, inputs = planner.roll(problem, moves)
    sensitivity = planner.sensitivity(inputs)
    for b in range(BATCH):
        parts: list[Any] = [v[b : b + 1] if v is not None and v.dim() > 1 else v for v in vars(problem).values()]
        one = Problem(*parts)
        exact = torch.autograd.functional.jacobian(
            lambda u, one=one: planner.roll(one, u.view(1, 6, -1))[0].z[0, 1:], moves[b].flatten()
        )
        torch.testing.assert_close(sensitivity[b], exact, rtol=1e-9, atol=1e-10)
    assert sensitivity.abs().max() > 1e-3
    assert (sensitivity[:, 0, :, 1:] == 0).all(), "no move acts before it is made"
    assert rollout.z.shape == (BATCH, 7, wild.config.latent)


def test_jacobian_of_the_guardrails_is_exact(wild: WorldModel) -> None:
    planner = planner_of(wild)
    z = torch.randn(4, wild.config.latent, dtype=torch.float64)
    exact = torch.func.vmap(torch.func.jacrev(lambda one: planner.constraints.margins(planner.model, one)))(z)
    torch.testing.assert_close(planner.constraints.jacobian(planner.model, z), exact, rtol=1e-9, atol=1e-9)
    assert planner.constraints.names == ["high_temperature", "operating_temperature", "high_temperature_fallback"]


def test_roll_out_is_the_model_played_forward(wild: WorldModel) -> None:
    planner = planner_of(wild)
    problem = problem_of(planner)
    problem = dataclasses.replace(problem, bias=torch.randn_like(problem.bias))
    moves = torch.rand(BATCH, 6, 1, dtype=torch.float64)
    rollout, _ = planner.roll(problem, moves)
    move = wild.spec.mvs[0].move
    assert move is not None
    z = problem.z
    for k in range(6):
        u = move.limits[0] + moves[:, k] * (move.limits[1] - move.limits[0])
        z = planner.model.advance(z, u, planner.model.denormalise(problem.dvs[:, k], "dvs"))
        torch.testing.assert_close(rollout.measured[:, k], planner.model.read_out(z) + problem.bias[:, k])
        torch.testing.assert_close(rollout.margins[:, k], planner.constraints.margins(planner.model, z))


@given(
    seed=st.integers(0, 10_000), low=st.floats(0.0, 0.4), width=st.floats(0.05, 0.6), rate=st.floats(0.01, 1.5),
    demand=st.sampled_from([-1e3, 0.0, 1e3]), warm=st.floats(-3.0, 3.0),
)  # fmt: skip
@ANY_FIXTURE
def test_plan_is_inside_limits_and_rate_always(
    wild: WorldModel, seed: int, low: float, width: float, rate: float, demand: float, warm: float
) -> None:
    planner = planner_of(wild)
    problem = problem_of(planner, seed=seed, low=torch.tensor([low], dtype=torch.float64), high=torch.tensor([low + width], dtype=torch.float64),
                         rate=torch.tensor([rate], dtype=torch.float64))  # fmt: skip
    previous = problem.previous * width + low
    problem = dataclasses.replace(problem, previous=previous, required=torch.full_like(problem.required, demand))
    start = torch.full((BATCH, 6, 1), warm, dtype=torch.float64)
    plan, inside = planner.plan(problem, start), planner._within(problem, start, None, True)
    moves, kept = plan.rollout.moves, (inside.violation < 0.01).all(1)
    assert (moves[kept] >= low - 1e-9).all()
    assert (moves[kept] <= low + width + 1e-9).all()
    assert (moves >= 0).all(), "where these keep no guardrail the operator's limits may be left, never the engineer's"
    assert (moves <= 1).all()
    steps = torch.cat([previous[:, None], moves], 1).diff(dim=1)
    assert (steps.abs() <= rate + 1e-9).all()


def test_the_rate_wins_over_the_limits(wild: WorldModel) -> None:
    """An operator narrowed the limits while the move in force lies outside of them: it goes there as fast as it may."""
    planner = planner_of(wild)
    problem = problem_of(
        planner, previous=torch.full((BATCH, 1), 0.9).double(), high=torch.tensor([0.3], dtype=torch.float64)
    )
    moves = planner.plan(problem, cold(problem, 6)).rollout.moves[..., 0]
    torch.testing.assert_close(moves[:, :2], torch.tensor([0.7, 0.5]).double().expand(BATCH, -1))
    assert (moves[:, 2:] <= 0.3 + 1e-9).all()


def test_plan_is_better_than_standing_still(trained: WorldModel) -> None:
    planner = planner_of(trained)
    problem = at_state(planner, ca=0.87, t=324.5, target=0.89)
    still, _ = planner.roll(problem, cold(problem, planner.config.horizon))
    plan = planner.plan(problem, cold(problem, planner.config.horizon))
    assert (plan.energy < 0.5 * total(planner, still, problem)).all()
    torch.testing.assert_close(plan.energy, total(planner, plan.rollout, problem))
    assert not plan.late


def at_state(planner: Planner, ca: float, t: float, target: float, move: float = 300.0, **changes) -> Problem:
    """A problem of the bare reactor that has been at (ca, t) for a whole window."""
    model = planner.model
    window = torch.tensor([ca, t, 350.0, move]).double().expand(1, model.config.window, -1)
    limits = model.spec.mvs[0].move.limits  # type: ignore[union-attr]
    shape = (1, planner.config.horizon)
    fields = {
        "z": model.encode(window),
        "dvs": model.normalise(torch.full((*shape, 1), 350.0).double(), "dvs"),
        "previous": torch.full((1, 1), (move - limits[0]) / (limits[1] - limits[0])).double(),
        "rate": torch.ones(1).double(),
        "targets": torch.full((*shape, 1), target).double(),
        "required": torch.full((*shape, len(planner.constraints)), 0.05).double(),
        **changes,
    }
    return problem_of(planner, 1, **fields)


def test_a_hostile_energy_cannot_buy_a_violation(trained: WorldModel) -> None:
    """A target that only a runaway reaches, at thirty times its usual price: with guardrails the plan stays out of it,
    and without them it goes there, so there was something to buy."""
    safe, greedy = planner_of(trained, effort=0.0), planner_of(trained, effort=0.0, guardrails=False)
    for planner in (safe, greedy):
        planner.energy.scale = torch.tensor([0.01]).double()
    problem = at_state(safe, ca=0.85, t=328.0, target=0.3)
    bought = greedy.plan(problem, cold(problem, 12))
    short = safe.constraints.violation(bought.rollout.margins, problem.required)
    assert short[0, 0] > 1.0
    plan = safe.plan(problem, cold(problem, 12))
    assert (plan.violation < 0.01).all()
    assert plan.energy > bought.energy


def test_first_rank_is_bought_by_no_other_rank_and_no_energy() -> None:
    double = torch.float64
    levels = torch.tensor([[0.02, 0.0], [0.0, 1e9], [0.0, 0.02], [0.0, 0.0], [0.0, 0.009]], dtype=double)
    energy = torch.tensor([0.0, 0.0, 0.0, 1e12, 1e12 + 1], dtype=double)
    key = ranking(levels, energy)
    assert order(key[None])[0].tolist() == [3, 4, 2, 1, 0], "less than a hundredth of a scale is left to the energy"
    assert least(key[None]).tolist() == [3]
    assert before(key[3], key[4])
    assert not before(key[4], key[3])
    assert not before(key[3], key[3])


def test_what_is_not_a_number_ranks_last() -> None:
    """Else a warm start that blew up could never be replaced by the fallback."""
    key = ranking(
        torch.tensor([[torch.nan], [torch.inf], [50.0], [0.0], [0.0]]).double(),
        torch.tensor([1.0, 2.0, torch.nan, torch.nan, 1e3]).double(),
    )
    assert not key.isnan().any()
    assert order(key[None])[0].tolist() == [4, 3, 2, 0, 1]


@given(seed=st.integers(0, 10_000), demand=st.floats(-40.0, 3.0))
@ANY_FIXTURE
def test_a_plan_that_keeps_the_first_rank_is_never_given_up(wild: WorldModel, seed: int, demand: float) -> None:
    """If the warm start or the fallback keeps every guardrail of rank 1, so does the plan, whatever its energy."""
    planner = planner_of(wild)
    problem = problem_of(planner, seed=seed)
    problem = dataclasses.replace(problem, required=torch.full_like(problem.required, demand))
    warm = torch.rand(BATCH, 6, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plan = planner.plan(problem, warm)
    broken = (plan.violation[:, 0] * 100).floor() > 0
    for other in (warm, problem.fallback.expand(BATCH, 6, -1)):
        rollout, _ = planner.roll(problem, planner.inside(problem, other))
        theirs = (planner.constraints.violation(rollout.margins, problem.required)[:, 0] * 100).floor() > 0
        assert not (broken & ~theirs).any()


def test_fallback_is_the_plan_when_nothing_is_safe(wild: WorldModel) -> None:
    planner = planner_of(wild)
    problem = problem_of(planner)
    problem = dataclasses.replace(problem, required=torch.full_like(problem.required, 1e3))
    plan = planner.plan(problem, cold(problem, 6))
    expected = planner.inside(problem, problem.fallback.expand(BATCH, 6, -1))
    torch.testing.assert_close(plan.rollout.moves, expected)
    assert (plan.violation[:, 0] > 1.0).all()


def test_each_plant_of_a_batch_gets_its_own_plan(wild: WorldModel) -> None:
    """One that nothing saves beside two that are fine."""
    planner = planner_of(wild)
    problem = problem_of(planner)
    required = problem.required.clone()
    required[1] = 1e3
    mixed = planner.plan(dataclasses.replace(problem, required=required), cold(problem, 6))
    free = planner.plan(problem, cold(problem, 6))
    torch.testing.assert_close(mixed.rollout.moves[[0, 2]], free.rollout.moves[[0, 2]])
    fallback = planner.inside(problem, problem.fallback.expand(BATCH, 6, -1))
    torch.testing.assert_close(mixed.rollout.moves[1], fallback[1])


def test_a_warm_start_that_blows_up_is_replaced(wild: WorldModel) -> None:
    """A predictor that overflows on hot moves only: the fallback's cold ones are the plan."""
    model, usual = copy.deepcopy(wild), planner_of(wild)
    net, u = model.predictor, model.config.latent
    with torch.no_grad():
        net.first.weight[0] = 0.0
        net.first.weight[0, u] = 1e6
        net.first.bias[0] = -1e6 * float(usual.shift_u[0] + 0.1 * usual.scale_u[0])
        net.second.weight[:, 0] = 3e38
        net.last.weight[:] = 3e38
        net.last.weight[:, 1:] *= torch.rand_like(net.last.weight[:, 1:])
    planner = planner_of(model)
    problem = problem_of(planner, rate=torch.ones(1).double())
    plan = planner.plan(problem, torch.ones(BATCH, 6, 1).double())
    assert (plan.rollout.moves == 0).all()
    assert torch.isfinite(plan.rollout.measured).all()


def test_deadline_returns_the_best_so_far(trained: WorldModel) -> None:
    planner = planner_of(trained)
    problem = at_state(planner, ca=0.87, t=324.5, target=0.89)
    late = planner.plan(problem, cold(problem, 12), deadline=time.perf_counter() - 1.0)
    assert late.late
    assert not late.converged.any()
    fallback, _ = planner.roll(problem, planner.inside(problem, problem.fallback.expand(1, 12, -1)))
    still, _ = planner.roll(problem, cold(problem, 12))
    torch.testing.assert_close(
        late.energy, torch.minimum(total(planner, still, problem), total(planner, fallback, problem))
    )
    in_time = planner.plan(problem, cold(problem, 12), deadline=time.perf_counter() + 600.0)
    assert not in_time.late
    assert (in_time.energy < late.energy).all()


def test_warm_start_is_used(trained: WorldModel) -> None:
    """One iteration from the last plan, shifted by a sample, ends no worse than one from standing still."""
    thorough, hasty = planner_of(trained, iterations=6), planner_of(trained, iterations=1)
    better = 0.0
    for target in (0.84, 0.86, 0.89, 0.91):
        first = at_state(thorough, ca=0.87, t=324.5, target=target)
        plan = thorough.plan(first, cold(first, 12))
        moves = plan.rollout.moves
        second = dataclasses.replace(first, z=plan.rollout.z[:, 1], previous=moves[:, 0])
        shifted = torch.cat([moves[:, 1:], moves[:, -1:]], 1)
        warm, from_cold = hasty.plan(second, shifted), hasty.plan(second, cold(second, 12))
        played, _ = hasty.roll(second, hasty.inside(second, shifted))
        assert (warm.violation <= 0.01).all()
        assert (warm.energy <= total(hasty, played, second) + 1e-9).all()
        assert (warm.energy <= from_cold.energy + 1e-3).all()
        better += float((from_cold.energy - warm.energy).sum())
    assert better > 0.0


def test_more_iterations_are_never_worse(wild: WorldModel) -> None:
    problem = problem_of(planner_of(wild))
    energies = [planner_of(wild, iterations=i).plan(problem, cold(problem, 6)).energy for i in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(energies):
        assert (more <= fewer + 1e-9).all()


@pytest.mark.parametrize("name", ["effort", "suppression"])
def test_energy_terms_are_priced(trained: WorldModel, name: str) -> None:
    """A dear term shrinks in the plan; the terms add up to the energy."""
    terms = []
    for price in (0.0, 1.0):
        planner = planner_of(trained, **{name: price})
        problem = at_state(planner, ca=0.87, t=324.5, target=0.89, move=304.0, rest=torch.zeros(1, 1).double())
        plan = planner.plan(problem, cold(problem, 12))
        torch.testing.assert_close(torch.stack(list(plan.terms.values())).sum(0), plan.energy)
        moves = torch.cat([problem.previous[:, None], plan.rollout.moves], 1)
        terms.append(float(((moves[:, 1:] if name == "effort" else moves.diff(dim=1)) ** 2).sum()))
    assert terms[1] < 0.7 * terms[0]
