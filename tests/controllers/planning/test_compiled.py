"""The compiled planner makes the plans of the one it is written after."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

import numpy as np
import pytest
import torch

from controllers.contracts import Targets
from controllers.planning.compiled import CompiledScpPlanner
from controllers.planning.config import PlannerConfig
from controllers.planning.guardrail_filter import Distance
from controllers.planning.mpc import JepaMpc
from controllers.planning.problem import Plan, Problem
from controllers.planning.scp import ScpPlanner
from controllers.planning.tuning import Tuning
from models.config import ModelConfig
from models.windows import Scale
from models.world_model import WorldModel
from plant.spec import load_spec
from plant.wants import Zone

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
BATCH, HORIZON = 24, 10
SHAPE = ModelConfig(window=3, latent=5, encoder_width=16, predictor_width=20, head_width=12, horizon=HORIZON)


def planners(
    plant: str, energy: str = "tracking", zones: tuple[Zone, ...] = (), **config: Any
) -> tuple[CompiledScpPlanner, ScpPlanner]:
    """Of a model with weights at random whose sizes fill no vector."""
    spec = load_spec(plant).model_copy(update={"zones": zones})
    torch.manual_seed(5)
    channels = len(spec.measured) + len(spec.dvs) + len(spec.mvs)
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    mean, std = [t.nominal for t in tags], [0.1 * (t.range[1] - t.range[0]) for t in tags]
    model = WorldModel(spec, SHAPE, Scale(torch.tensor(mean).numpy(), torch.tensor(std).numpy()))
    assert len(mean) == channels
    with torch.no_grad():
        for layer in (model.predictor.linear, model.predictor.last):
            layer.weight.normal_(std=0.1)
    planner = JepaMpc(model, PlannerConfig(**{"horizon": HORIZON, **config})).planner
    assert isinstance(planner, CompiledScpPlanner)
    if energy == "distance":
        planner = CompiledScpPlanner(
            planner.model, planner.config, Distance(torch.rand(HORIZON, len(spec.mvs)).double() + 0.1), planner.scale_u,
            planner.shift_u,
        )  # fmt: skip
    return planner, ScpPlanner(planner.model, planner.config, planner.energy, planner.scale_u, planner.shift_u)


def problem_of(planner: ScpPlanner, required: float) -> Problem:
    model, (h, m) = planner.model, (HORIZON, planner.model.n_mv)
    rng = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(BATCH, *shape, generator=rng, dtype=torch.float64)

    constants = torch.tensor([t.nominal for t in model.spec.constants]).double() * (1 + 0.1 * normal(1)) + torch.zeros(
        0
    )
    usual = torch.tensor([t.value for t in model.spec.targets], dtype=torch.float64)
    scale = torch.tensor([t.scale for t in model.spec.targets], dtype=torch.float64)
    return Problem(
        z=normal(SHAPE.latent), dvs=0.3 * normal(h, model.n_dv), previous=torch.rand(BATCH, m, generator=rng).double(),
        low=torch.full((m,), 0.1).double(), high=torch.full((m,), 0.9).double(), rate=torch.full((m,), 0.3).double(),
        fallback=torch.full((m,), 0.1).double(), targets=usual + scale * normal(h, len(usual)),
        bias=0.1 * normal(h, model.n_measured), required=required * model.margin_scale[planner.constraints.guardrail]
        .double().expand(BATCH, h, -1), conditions=model.condition(constants) if model.n_constant else None,
        asked=torch.rand(BATCH, h, m, generator=rng).double(),
    )  # fmt: skip


def plans(planner: ScpPlanner, problem: Problem, **options: Any) -> Plan:
    with torch.inference_mode():
        return planner.plan(problem, problem.previous[:, None].expand(-1, HORIZON, -1), **options)


@pytest.mark.parametrize("required", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("options", [{}, {"blocks": (1, 2, 4)}, {"steady": 2.0}, {"guardrails": False}], ids=str)
@pytest.mark.parametrize("plant", ["reactor", "vandevusse", "turbofan"])
def test_both_planners_make_the_same_plans(plant: str, options: dict[str, Any], required: float) -> None:
    compiled, tensors = planners(plant, **options)
    problem = problem_of(compiled, required)
    with torch.inference_mode():
        moves = torch.rand(BATCH, HORIZON, compiled.model.n_mv, dtype=torch.float64)
        one, other = compiled.assess(problem, moves), tensors.assess(problem, moves)
    for got, wanted in zip(vars(one.rollout).values(), vars(other.rollout).values(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    one, other = plans(compiled, problem), plans(tensors, problem)
    torch.testing.assert_close(one.energy, other.energy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.violation, other.violation, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves, rtol=0, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"blocks": (1, 2, 4)}, {"steady": 2.0}], ids=str)
@pytest.mark.parametrize("required", [-5.0, 0.0])
def test_margins_zones_and_resting_values_are_the_same_too(options: dict[str, Any], required: float) -> None:
    zones = (
        Zone(tag="Ca", low=1.0, high=1.4, limits=(0.0, 6.0), rank=2),
        Zone(tag="T_R", high=134.0, limits=(20.0, 200.0), scale=0.5),
        Zone(tag="T_K", low=128.0, limits=(20.0, 200.0)),
    )
    compiled, tensors = planners("vandevusse", zones=zones, work={"F": 0.3}, **options)
    open_, problem = torch.nan, problem_of(compiled, required)
    targets = Targets(np.empty((1, 1, 1)), np.zeros(2), np.ones(2))
    asked = problem.targets.clone()
    asked[1, :4] = open_  # one plant is not asked yet
    problem = dataclasses.replace(
        problem,
        targets=asked,
        zones=Tuning(compiled.model.spec, compiled.config).zones(targets, asked),
        rest=torch.tensor([[0.5, open_]]).double().expand(BATCH, -1),
        calibrated=torch.rand(BATCH, HORIZON, len(compiled.constraints), dtype=torch.float64) * 20.0,
    )
    one, other = plans(compiled, problem), plans(tensors, problem)
    for name in ("violation", "shortfall", "energy"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves, rtol=0, atol=2e-3)
    assert (one.shortfall > 0).any()
    assert (one.terms["zones"] > 0).any()


def test_both_stop_where_latents_stop() -> None:
    """No latent leaves its bounds in either, and a plan does not count on what can move no further."""
    compiled, tensors = planners("vandevusse")
    for planner in (compiled, tensors):
        planner.model.z_low.fill_(-0.5)
        planner.model.z_high.fill_(0.5)
    compiled = CompiledScpPlanner(tensors.model, tensors.config, tensors.energy, tensors.scale_u, tensors.shift_u)
    problem = problem_of(compiled, 0.0)
    one, other = plans(compiled, problem), plans(tensors, problem)
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves, rtol=0, atol=1e-3)
    torch.testing.assert_close(one.energy, other.energy, rtol=1e-4, atol=1e-5)
    z = one.rollout.z[:, 1:]
    assert z.abs().max() <= 0.5
    assert ((z.abs() == 0.5).any(-1) & (z.abs() < 0.5).any(-1)).any(), "some stop, some do not"
    rollout, inputs = tensors.roll(problem, one.rollout.moves)
    slopes, nudge = tensors.sensitivity(inputs), 1e-6
    moved = one.rollout.moves.clone()
    moved[:, 2, 1] += nudge
    change = (tensors.roll(problem, moved)[0].z - rollout.z)[:, 1:] / nudge
    torch.testing.assert_close(slopes[..., 5], change, rtol=1e-3, atol=1e-4)


def test_the_nearest_moves_are_the_same_too() -> None:
    compiled, tensors = planners("vandevusse", "distance")
    problem = problem_of(compiled, 0.0)
    one, other = (plans(p, problem, trust_fallback=False) for p in (compiled, tensors))
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves, rtol=0, atol=1e-3)
    assert (one.energy > 0).any()


def test_plants_of_a_batch_do_not_meet_and_threads_change_nothing() -> None:
    compiled, _ = planners("vandevusse")
    problem = problem_of(compiled, 0.0)
    whole = plans(compiled, problem)
    warm = problem.previous[:, None].expand(-1, HORIZON, -1)
    with torch.inference_mode():
        alone = [compiled.plan(problem.part(slice(b, b + 1)), warm[b : b + 1]) for b in range(BATCH)]
    torch.testing.assert_close(torch.cat([p.rollout.moves for p in alone]), whole.rollout.moves, rtol=0, atol=0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(plans(compiled, problem).rollout.moves, whole.rollout.moves, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_no_time_is_the_better_of_warm_start_and_fallback() -> None:
    compiled, tensors = planners("reactor")
    problem = problem_of(compiled, 0.0)
    one, other = (plans(p, problem, deadline=time.perf_counter() - 1.0) for p in (compiled, tensors))
    assert one.late
    torch.testing.assert_close(one.rollout.moves, other.rollout.moves)


def test_the_last_plant_of_a_batch_gets_its_share_of_the_time() -> None:
    compiled, _ = planners("vandevusse")
    problem = problem_of(compiled, 0.0)
    done = plans(compiled, dataclasses.replace(problem), deadline=time.perf_counter() + 10.0)
    assert not done.late
    torch.testing.assert_close(done.rollout.moves, plans(compiled, problem).rollout.moves, rtol=0, atol=0)
