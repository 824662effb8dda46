"""Linear MPC: it tracks, ends without offset, keeps limits hard and guardrails soft, and says when it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.linear_mpc import LinearMpc
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.evaluation.reactor import EFFORT_RANGE, tracking
from controllers.planning.config import PlannerConfig
from models.config import ModelConfig
from models.rivals.contract import Forecaster
from models.rivals.gru import Gru
from models.windows import Scale
from plant.errors import ControlError
from plant.spec import PlantSpec


def test_tracks_and_ends_without_offset_under_an_unmeasured_feed_step(arx: Forecaster, bare: PlantSpec, stepped):
    runs = stepped(bare, LinearMpc(arx, batch=2), {"Caf": 1.03}, {"Ca": 0.88}, batch=2)
    assert np.abs(runs.true["Ca"][:, 15:20] - 0.88).max() < 2e-3
    assert runs.true["Ca"][0, 22] > 0.89
    assert np.abs(runs.true["Ca"][:, -3:] - 0.88).max() < 1e-3
    assert {s for at in runs.status for s in at} == {Status.OPTIMAL}


def test_the_offset_is_there_without_the_filtered_error(arx: Forecaster, bare: PlantSpec, stepped):
    runs = stepped(bare, LinearMpc(arx, PlannerConfig(bias_filter=0.0)), {"Caf": 1.03}, {"Ca": 0.88})
    assert abs(runs.true["Ca"][0, -1] - 0.88) > 1e-3


def test_preview_is_used(arx: Forecaster, bare: PlantSpec):
    mpc = LinearMpc(arx, PlannerConfig(effort_range=EFFORT_RANGE, suppression=0.0))
    seen, _ = tracking(bare, mpc, "B", preview=True, noise=0.0)
    blind, _ = tracking(bare, mpc, "B", preview=False, noise=0.0)
    assert seen[0] > blind[0] + 0.02
    assert seen[0] > -0.5


def test_rate_and_operator_limits_hold_exactly(arx: Forecaster, bare: PlantSpec):
    slow = bare.model_copy(
        update={"tags": tuple(
            t.model_copy(update={"move": t.move.model_copy(update={"rate_per_s": 0.02})}) if t.move else t
            for t in bare.tags
        )}
    )  # fmt: skip
    arx_slow = type(arx)(slow, arx.config, Scale(arx.channel_mean.numpy(), arx.channel_std.numpy()))
    arx_slow.theta = arx.theta
    mpc = LinearMpc(arx_slow)
    observation = Observation(0.0, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
    decision = mpc.decide(observation, Targets(np.full((1, 1, 1), 0.80), np.array([298.0]), np.array([301.0])))
    steps = np.diff(np.concatenate([[300.0], decision.plan[0, :, 0]]))
    assert np.abs(steps).max() == pytest.approx(0.52, abs=1e-9)
    assert decision.plan.max() <= 301.0
    assert decision.plan.max() > 300.9


def test_a_guardrail_stops_what_the_target_asks(arx: Forecaster, bare: PlantSpec, asked):
    """A low guardrail in the way of a target: kept to; past it already, RECOVERY says so and the plan comes back."""
    low = bare.model_copy(update={"guardrails": (bare.guardrails[0].model_copy(update={"max": 326.0}),)})
    model = type(arx)(low, arx.config, Scale(arx.channel_mean.numpy(), arx.channel_std.numpy()))
    model.theta = arx.theta
    mpc = LinearMpc(model)
    kept = mpc.decide(*asked(low, [0.87, 324.5], [300.0], 0.80))
    assert kept.predicted[..., 1].max() <= 326.0 - mpc.config.guard + 1e-3
    assert kept.predicted[..., 1].max() > 325.5
    assert kept.status == (Status.OPTIMAL,)
    mpc.reset()
    past = mpc.decide(*asked(low, [0.80, 345.0], [300.0], 0.80))
    assert past.status == (Status.RECOVERY,)
    assert past.violation[0] > 0.5
    assert past.margins[0, -1, 0] > -0.01


def test_more_interior_point_steps_change_nothing(arx: Forecaster, bare: PlantSpec, asked):
    few, many = (LinearMpc(arx, PlannerConfig(iterations=n)) for n in (4, 20))
    question = asked(bare, [0.87, 324.5], [300.0], 0.90)
    np.testing.assert_allclose(few.decide(*question).plan, many.decide(*question).plan, atol=0.02)


def test_a_batch_is_its_members(arx: Forecaster, bare: PlantSpec):
    low, high = limits_of(bare)
    measured, applied = np.array([[0.87, 324.5], [0.82, 329.0]]), np.array([[300.0], [297.0]])
    goals = np.array([0.88, 0.86])[:, None, None]
    both = LinearMpc(arx, batch=2).decide(
        Observation(0.0, measured, np.full((2, 1), 350.0), applied), Targets(goals, low, high)
    )
    for i in range(2):
        one = slice(i, i + 1)
        alone = LinearMpc(arx).decide(
            Observation(0.0, measured[one], np.array([[350.0]]), applied[one]), Targets(goals[one], low, high)
        )
        np.testing.assert_allclose(alone.plan[0], both.plan[i], atol=1e-6)


def test_missing_measurements(arx: Forecaster, bare: PlantSpec, asked):
    mpc = LinearMpc(arx)
    for _ in range(3):
        usual = mpc.decide(*asked(bare, [0.87, 324.5], [300.0], 0.87))
    assert usual.status == (Status.OPTIMAL,)
    part = mpc.decide(*asked(bare, [np.nan, 324.5], [300.0], 0.87))
    assert part.status == (Status.OPTIMAL,)
    assert abs(part.moves[0, 0] - usual.moves[0, 0]) < 2.0
    for measured, applied in (([np.nan, np.nan], [300.0]), ([0.87, 324.5], [np.nan])):
        lost = mpc.decide(*asked(bare, measured, applied, 0.87))
        assert lost.status == (Status.INFEASIBLE,)
        assert lost.moves[0, 0] == 290.0
    again = mpc.decide(*asked(bare, [0.87, 324.5], [300.0], 0.87))
    assert again.status == (Status.OPTIMAL,)
    assert np.isfinite(again.bias).all()


def test_what_does_not_fit_is_refused(arx: Forecaster, bare: PlantSpec):
    with pytest.raises(ControlError, match="validated to 15"):
        LinearMpc(arx, PlannerConfig(horizon=16))
    scale = Scale(arx.channel_mean.numpy(), arx.channel_std.numpy())
    with pytest.raises(ControlError, match="Gru is not linear"):
        LinearMpc(Gru(bare, ModelConfig(window=6, horizon=15), scale, 2000))
    hidden = bare.model_copy(update={"guardrails": (bare.guardrails[0].model_copy(update={"tag": "T_fallback"}),)})
    with pytest.raises(ControlError, match="no measurement tells about high_temperature"):
        LinearMpc(type(arx)(hidden, arx.config, scale))
