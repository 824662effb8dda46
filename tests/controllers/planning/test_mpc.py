"""JEPA-MPC as a controller: no offset from a wrong model, plants of a batch kept apart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from controllers.contracts import Array, Controller, Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from models.calibration import Calibration
from models.world_model import WorldModel
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

CONFIG = PlannerConfig(horizon=12, effort=0.0)


def observed(batch: int = 1, ca: float = 0.87, t: float = 324.5, applied: float = 300.0) -> Observation:
    return Observation(
        0.0, np.tile([ca, t], (batch, 1)), np.full((batch, 1), 350.0), np.full((batch, 1), applied)
    )  # fmt: skip


def asked(spec: PlantSpec, value: float = 0.87, batch: int = 1) -> Targets:
    low, high = limits_of(spec)
    return Targets(np.full((batch, 1, 1), value), low, high)


def run(spec: PlantSpec, controller: Controller, target: float, fouling: float = 1.0, samples: int = 70) -> Array:
    """True concentration (samples + 1,) of the bare reactor in closed loop, its jacket `fouling` times as good."""
    low, high = limits_of(spec)
    fouled = Schedule(parameters=np.array([[fouling, 1.0]]))
    runs = close_loop(
        controller, SimulatedPlant(spec, 0, 1, fouled, noise=0.0), np.full((samples, 1), target), preview=False,
        move_low=low, move_high=high, first_move=np.array([300.0]), scans=1,
    )  # fmt: skip
    return runs.true["Ca"][0]


def biased(model: WorldModel) -> WorldModel:
    """The same model made wrong by a constant in everything it reads out."""
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.read_out_head.bias += 0.4
    return wrong


@pytest.mark.parametrize("target", [0.86, 0.89])
@pytest.mark.parametrize("wrong", ["model", "plant"])
def test_what_is_wrong_by_a_constant_leaves_no_offset(
    bare: PlantSpec, trained: WorldModel, wrong: str, target: float
) -> None:
    """A model that reads everything wrong, and a plant that has fouled since the model was trained."""
    model, fouling = (biased(trained), 1.0) if wrong == "model" else (trained, 0.93)
    config = CONFIG.model_copy(update={"bias_filter": 0.2})
    reached = run(bare, JepaMpc(model, config), target, fouling)[-20:]
    assert np.abs(reached - target).max() < 0.006
    assert abs(reached.mean() - target) < 0.003


def test_without_the_correction_a_wrong_model_keeps_its_offset(bare: PlantSpec, trained: WorldModel) -> None:
    """So that the test above has something to find."""
    blind = JepaMpc(biased(trained), CONFIG.model_copy(update={"bias_filter": 0.0}))
    assert abs(run(bare, blind, 0.87)[-20:].mean() - 0.87) > 0.006


def test_bias_is_the_prediction_error(trained: WorldModel) -> None:
    """A plant that stands still while the model reads wrong: the bias grows to just that error."""
    controller = JepaMpc(biased(trained), CONFIG.model_copy(update={"bias_filter": 0.5}))
    for _ in range(40):
        decision = controller.decide(observed(), asked(trained.spec))
    z = controller.model.encode(controller._window)
    u, d = torch.full((1, 1), 300.0).double(), torch.full((1, 1), 350.0).double()
    error = observed().measured - controller.model.read_out(controller.model.advance(z, u, d)).numpy()
    np.testing.assert_allclose(decision.bias, error, rtol=1e-3)


def test_noise_goes_in_less_than_an_error_that_stays(trained: WorldModel) -> None:
    """Errors of one size: those that change their sign each sample hardly move the correction."""
    moved = []
    for sign in (-1.0, 1.0):
        controller = JepaMpc(trained, CONFIG)
        for k in range(40):
            controller._offset.learn(torch.full((1, 12, 2), 0.01 * sign**k).double())
        moved.append(float(controller._offset.bias.abs().max()))
    assert moved[0] < 0.0003  # a constant share would leave 0.0005
    assert moved[1] > 0.009


def test_a_target_is_asked_of_the_reading_that_shows_it(trained: WorldModel) -> None:
    """An analyser two samples late."""
    spec = trained.spec
    tags = tuple(
        t.model_copy(update={"dead_time_s": 2 * spec.sample_time_s}) if t.name == "Ca" else t for t in spec.tags
    )
    late = copy.deepcopy(trained)
    late.spec = spec.model_copy(update={"tags": tags})
    low, high = limits_of(spec)
    targets = Targets(np.arange(12.0)[None, :, None], low, high)
    for model, wanted in ((trained, np.arange(12)), (late, np.maximum(np.arange(12) - 2, 0))):
        controller = JepaMpc(model, CONFIG)
        z, applied, _ = controller._observe(observed())
        np.testing.assert_array_equal(controller._problem(z, applied, targets, None).targets[0, :, 0], wanted)


def test_a_missing_measurement_teaches_nothing(trained: WorldModel) -> None:
    """What was learned of the offset stays through a gap."""
    controller = JepaMpc(biased(trained), CONFIG.model_copy(update={"bias_filter": 0.3}))
    for _ in range(20):
        before = controller.decide(observed(), asked(trained.spec)).bias
    gap = Observation(0.0, np.array([[np.nan, 324.5]]), np.full((1, 1), 350.0), np.full((1, 1), 300.0))
    for _ in range(10):
        decision = controller.decide(gap, asked(trained.spec))
    assert decision.bias[0, 0] == before[0, 0]
    assert np.isfinite(decision.moves).all()


def test_batch_of_three_equals_three_singles(bare: PlantSpec, trained: WorldModel) -> None:
    rng = np.random.default_rng(0)
    together = JepaMpc(trained, CONFIG, batch=3)
    singles = [JepaMpc(trained, CONFIG) for _ in range(3)]
    goals = np.array([0.85, 0.87, 0.90])[:, None, None]
    low, high = limits_of(bare)
    applied = np.array([[298.0], [300.0], [302.0]])
    for k in range(6):
        measured = np.stack([rng.uniform(0.8, 0.92, 3), rng.uniform(318.0, 330.0, 3)], 1)
        if k == 3:
            measured[1, 0] = np.nan
        dvs = rng.uniform(345.0, 355.0, (3, 1))
        whole = together.decide(Observation(0.0, measured, dvs, applied), Targets(goals, low, high))
        for i, single in enumerate(singles):
            one = slice(i, i + 1)
            alone = single.decide(
                Observation(0.0, measured[one], dvs[one], applied[one]), Targets(goals[one], low, high)
            )
            for name in ("moves", "plan", "predicted", "margins", "violation", "bias"):
                np.testing.assert_allclose(
                    getattr(whole, name)[i], getattr(alone, name)[0], rtol=1e-6, atol=1e-6, err_msg=name
                )
            assert whole.status[i] == alone.status[0]
        applied = whole.moves


def check_shape(decision: Decision, spec: PlantSpec, batch: int, horizon: int) -> None:
    rails = len(decision.guardrails)
    assert decision.moves.shape == (batch, 1)
    assert decision.plan.shape == (batch, horizon, 1)
    np.testing.assert_array_equal(decision.plan[:, 0], decision.moves)
    assert decision.predicted.shape == (batch, horizon, len(spec.measured))
    assert decision.margins.shape == (batch, horizon, rails)
    assert decision.calibrated.shape == (horizon, rails)
    assert len(decision.status) == batch
    low, high = limits_of(spec)
    assert (decision.plan >= low - 1e-9).all()
    assert (decision.plan <= high + 1e-9).all()


def test_decision_keeps_its_contract(bare: PlantSpec, trained: WorldModel) -> None:
    decision = JepaMpc(trained, CONFIG, batch=2).decide(observed(2), asked(bare, batch=2))
    check_shape(decision, bare, 2, 12)
    assert decision.guardrails == ("high_temperature", "high_temperature_fallback")
    assert set(decision.status) <= {Status.OPTIMAL, Status.FEASIBLE}
    assert (decision.violation == 0).all()
    assert decision.solve_time_s > 0
    assert set(decision.energy) == {"tracking", "effort", "suppression"}


def test_operator_limits_are_kept(bare: PlantSpec, trained: WorldModel) -> None:
    decision = JepaMpc(trained, CONFIG).decide(
        observed(), Targets(np.full((1, 12, 1), 0.80), np.array([297.0]), np.array([301.0]))
    )  # fmt: skip
    assert (decision.plan <= 301.0 + 1e-9).all()
    assert (decision.plan >= 297.0 - 1e-9).all()


def test_targets_hold_at_their_own_steps(bare: PlantSpec, trained: WorldModel) -> None:
    low, high = limits_of(bare)
    values = np.full((1, 12, 1), 0.87)
    values[0, 4:] = 0.85
    controllers = [JepaMpc(trained, CONFIG) for _ in range(2)]
    for _ in range(5):
        seen = controllers[0].decide(observed(), Targets(values, low, high))
        unseen = controllers[1].decide(observed(), Targets(values[:, :1], low, high))
    assert abs(seen.predicted[0, -1, 0] - 0.85) < 0.005
    assert abs(unseen.predicted[0, -1, 0] - 0.87) < 0.005, "the last target given is the one that stays"


def test_a_model_that_answers_nan_is_infeasible_and_the_move_is_safe(bare: PlantSpec, trained: WorldModel) -> None:
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        broken.predictor.last.bias[0] = torch.nan
    decision = JepaMpc(broken, CONFIG, batch=2).decide(observed(2), asked(bare, batch=2))
    assert decision.status == (Status.INFEASIBLE, Status.INFEASIBLE)
    assert (decision.plan == bare.mvs[0].move.safe).all()  # type: ignore[union-attr]


def test_a_deadline_is_reported_and_the_plan_is_inside_its_limits(bare: PlantSpec, trained: WorldModel) -> None:
    decision = JepaMpc(trained, CONFIG, deadline_s=0.0).decide(observed(), asked(bare))
    assert decision.status == (Status.DEADLINE,)
    check_shape(decision, bare, 1, 12)


def test_a_lost_plant_is_a_recovery_by_the_fallback(bare: PlantSpec, trained: WorldModel) -> None:
    """No plan keeps what is to be kept in hand: full cooling, and it says so and by how much."""
    margins = torch.full((12, 2), 500.0)
    controller = JepaMpc(trained, CONFIG, Calibration(margins, 0.9, 1))
    decision = controller.decide(observed(t=340.0), asked(bare))
    assert decision.status == (Status.RECOVERY,)
    assert decision.violation[0] == pytest.approx(-decision.margins.min())
    assert decision.violation[0] > 400.0
    assert decision.plan == pytest.approx(bare.mvs[0].move.safe)  # type: ignore[union-attr]


def test_nothing_it_is_fed_makes_it_raise(bare: PlantSpec, trained: WorldModel) -> None:
    """Missing, infinite and absurd values: a finite move inside the limits, sample after sample."""
    controller = JepaMpc(trained, CONFIG)
    nan, inf = np.nan, np.inf
    samples = [([nan, nan], nan, nan), ([0.87, 324.5], nan, 300.0), ([inf, -inf], inf, inf), ([1e30, -1e30], 1e30, 300.0),
               ([0.87, 324.5], 350.0, nan), ([0.87, 324.5], 350.0, 300.0)]  # fmt: skip
    for measured, dv, applied in samples:
        observation = Observation(0.0, np.array([measured]), np.array([[dv]]), np.array([[applied]]))
        decision = controller.decide(observation, asked(bare))
        check_shape(decision, bare, 1, 12)


def test_reset_forgets(bare: PlantSpec, trained: WorldModel) -> None:
    controller = JepaMpc(trained, CONFIG)
    fresh = controller.decide(observed(), asked(bare)).plan
    for k in range(5):
        controller.decide(observed(ca=0.80 + 0.02 * k, t=330.0 - k), asked(bare, 0.9))
    assert (controller.decide(observed(), asked(bare)).plan != fresh).any()
    controller.reset()
    np.testing.assert_array_equal(controller.decide(observed(), asked(bare)).plan, fresh)


def test_calibrated_margins_are_kept_in_hand(bare: PlantSpec, trained: WorldModel) -> None:
    """The same wish for heat: with 8 K more in hand the plan stays that much cooler."""
    hottest = []
    for margin in (0.0, 8.0):
        calibration = Calibration(torch.full((12, 2), margin), 0.9, 1)
        controller = JepaMpc(trained, CONFIG, calibration)
        for _ in range(4):
            decision = controller.decide(observed(ca=0.85, t=328.0), asked(bare, 0.7))
        assert (decision.calibrated >= margin + CONFIG.guard - 1e-6).all()
        assert (decision.margins > -0.02).all()
        hottest.append(decision.predicted[0, :, 1].max())
    assert hottest[1] < hottest[0] - 2.0


def test_horizon_longer_than_validated_is_refused(trained: WorldModel) -> None:
    with pytest.raises(ControlError, match=r"horizon of 13 samples.*validated to 12"):
        JepaMpc(trained, CONFIG.model_copy(update={"horizon": 13}))
    assert JepaMpc(trained, CONFIG.model_copy(update={"horizon": 5})).horizon == 5


def test_a_plant_nobody_sees_gets_its_fallback_and_the_others_their_plan(bare: PlantSpec, trained: WorldModel) -> None:
    seen = observed(batch=3)
    seen.measured[1], seen.applied[2] = np.nan, np.nan
    decision = JepaMpc(trained, CONFIG, batch=3).decide(seen, asked(bare, batch=3))
    assert decision.status[0] is not Status.INFEASIBLE
    assert decision.status[1:] == (Status.INFEASIBLE, Status.INFEASIBLE)
    np.testing.assert_allclose(decision.moves[1:], 290.0)
