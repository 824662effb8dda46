"""The guardrail filter: what is safe passes bit for bit, what is not becomes the nearest that is, and it says so."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Array, Controller, Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.evaluation.reactor import SafetyScenario, safety, violations
from controllers.planning.config import FilterConfig, PlannerConfig
from controllers.planning.guardrail_filter import GuardrailFilter
from models.calibration import Calibration
from models.config import ModelConfig
from models.windows import Scale
from models.world_model import WorldModel
from plant.errors import ControlError
from plant.spec import PlantSpec

CONFIG = PlannerConfig(horizon=12)


class Asks:
    """Asks for what `wish` makes of the moves in force (batch x n_mv), or for a whole plan (batch x k x n_mv)."""

    def __init__(self, spec: PlantSpec, wish: Callable[[Array], Array], status: Status = Status.FEASIBLE) -> None:
        self.spec, self.wish, self.status, self.horizon, self.resets = spec, wish, status, 1, 0

    def reset(self) -> None:
        self.resets += 1

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        wanted = self.wish(observation.applied)
        plan = wanted if wanted.ndim == 3 else wanted[:, None]
        decision = Decision.of_moves(self.spec, plan[:, 0], 0.0)
        status = tuple(self.status if s is Status.FEASIBLE else s for s in decision.status)
        return dataclasses.replace(decision, plan=plan, status=status, energy={"wish": np.ones(len(plan))})


def constant(spec: PlantSpec, *moves: float, status: Status = Status.FEASIBLE) -> Asks:
    return Asks(spec, lambda applied: np.array(moves)[:, None], status)


def observed(*temperature: float, ca: float = 0.87, applied: float = 300.0) -> Observation:
    batch = len(temperature)
    measured = np.stack([np.full(batch, ca), temperature], 1)
    return Observation(0.0, measured, np.full((batch, 1), 350.0), np.full((batch, 1), applied))


def asked(spec: PlantSpec, batch: int = 1) -> Targets:
    return Targets(np.full((batch, 1, 1), 0.87), *limits_of(spec))


def kept(margin: float) -> Calibration:
    return Calibration(torch.full((12, 2), margin), 0.9, 1)


def test_what_is_safe_passes_bit_for_bit(bare: PlantSpec, trained: WorldModel) -> None:
    """A mild PID through the nominal plant: every move, status and energy is its own, and nothing was moved."""

    class Both:
        horizon = 1

        def __init__(self) -> None:
            self.pid = PidController(bare, (PidLoop(mv="Tc", pv="Ca", gain=-40.0, integral_s=200.0),))
            self.said: list[Decision] = []

        def reset(self) -> None:
            self.pid.reset()

        def decide(self, observation: Observation, targets: Targets) -> Decision:
            self.said.append(self.pid.decide(observation, targets))
            return self.said[-1]

    inner = Both()
    controller = GuardrailFilter(trained, None, inner, CONFIG, batch=2)
    seen = observed(324.0, 325.0)
    for k in range(6):
        answer = controller.decide(dataclasses.replace(seen, measured=seen.measured + 1e-3 * k), asked(bare, 2))
        assert answer.moves.tobytes() == inner.said[-1].moves.tobytes()
        assert answer.status == inner.said[-1].status
        assert (answer.energy["moved"] == 0).all()
        assert (answer.margins > 0).all()
        np.testing.assert_array_equal(answer.plan[:, 0], answer.moves)
        seen = dataclasses.replace(seen, applied=answer.moves)


def test_the_hottest_move_becomes_the_nearest_that_keeps_the_guardrails(bare: PlantSpec, trained: WorldModel) -> None:
    """Against brute force: of all constant-step plans on a fine grid of first moves, none as safe lies nearer by more than
    what a subproblem keeps in hand."""
    controller = GuardrailFilter(trained, kept(12.0), constant(bare, 310.0), CONFIG)
    for _ in range(4):  # a full window
        decision = controller.decide(observed(330.0), asked(bare))
    assert decision.status == (Status.FEASIBLE,)
    assert 290.0 <= decision.moves[0, 0] < 309.0
    assert decision.energy["moved"][0] == pytest.approx((310.0 - decision.moves[0, 0]) / 20.0)
    assert (decision.margins > -0.02).all()
    z = controller.model.encode(controller._window)
    problem = controller._problem(z, torch.full((1, 1), 300.0).double(), asked(bare), None)
    problem = dataclasses.replace(problem, asked=torch.ones(1, 12, 1).double())
    nearest = 0.0
    for first in np.linspace(0.0, 1.0, 41):
        for way in np.linspace(0.0, 1.0, 21):
            moves = torch.full((1, 12, 1), float(way)).double()
            moves[:, 0] = float(first)
            if float((controller.planner.assess(problem, moves).violation * 100).floor().sum()) == 0:
                nearest = max(nearest, 290.0 + 20.0 * float(first))
    assert decision.moves[0, 0] >= nearest - 1.0


def test_closed_loop_what_ran_away_does_not(bare: PlantSpec, trained: WorldModel) -> None:
    """The hottest move for ever, on disturbed plants: all run away without the filter, none of the avoidable with it."""
    scenario = SafetyScenario.draw(6, 41)
    hostile = constant(bare, *[310.0] * 6)
    for controller, least, most in (
        (hostile, 6, 6),
        (GuardrailFilter(trained, kept(12.0), hostile, CONFIG, batch=6), 0, 0),
    ):
        runs = safety(bare, controller, scenario)
        assert least <= violations(bare, runs, scenario)[1].sum() <= most


def test_a_plan_is_judged_as_a_whole(bare: PlantSpec, trained: WorldModel) -> None:
    """A hot move that its own plan takes back is let through; the same move for ever would be too, with cooling after it."""
    steps = np.full((1, 3, 1), 290.0)
    steps[:, 0] = 304.0
    controller = GuardrailFilter(trained, None, Asks(bare, lambda applied: steps), CONFIG)
    decision = controller.decide(observed(322.0), asked(bare))
    assert decision.moves[0, 0] == 304.0
    np.testing.assert_allclose(decision.plan[0, 1:, 0], 290.0)
    assert decision.energy["wish"] == 1.0


def test_limits_of_the_operator_and_the_rate_are_kept(bare: PlantSpec, trained: WorldModel) -> None:
    controller = GuardrailFilter(trained, None, constant(bare, 310.0), CONFIG)
    held = Targets(np.full((1, 1, 1), 0.87), np.array([295.0]), np.array([301.5]))
    decision = controller.decide(observed(322.0), held)
    assert decision.moves[0, 0] == pytest.approx(301.5)
    assert decision.status == (Status.FEASIBLE,)
    assert decision.energy["moved"][0] == pytest.approx(8.5 / 20)
    low = GuardrailFilter(trained, None, constant(bare, 250.0), CONFIG).decide(observed(322.0), held)
    assert low.moves[0, 0] == pytest.approx(295.0)


def test_rate_limits(wild: WorldModel) -> None:
    """The dressed reactor's coolant moves by .8 K/s at most; nothing else is asked of the filter here."""
    spec = wild.spec
    slow = next(t.move.model_copy(update={"rate_per_s": 0.1}) for t in spec.mvs if t.move)
    tags = tuple(t.model_copy(update={"move": slow}) if t.move else t for t in spec.tags)
    model = copy.deepcopy(wild)
    model.spec = spec.model_copy(update={"tags": tags})
    config = PlannerConfig(horizon=6, guardrails=False)
    seen = Observation(0.0, np.array([[0.87, 325.0, 300.0]]), np.array([[350.0, 100.0]]), np.array([[300.0]]))
    inner = constant(spec, 309.0)
    decision = GuardrailFilter(model, None, inner, config).decide(seen, asked(spec))
    assert decision.moves[0, 0] == pytest.approx(302.6)
    assert (np.abs(np.diff(decision.plan[0, :, 0])) <= 2.6 + 1e-9).all()
    assert decision.status == (Status.FEASIBLE,)


def test_a_lost_plant_is_a_recovery_that_says_so(bare: PlantSpec, trained: WorldModel) -> None:
    decision = GuardrailFilter(trained, kept(500.0), constant(bare, 310.0), CONFIG).decide(observed(340.0), asked(bare))
    assert decision.status == (Status.RECOVERY,)
    assert decision.violation[0] == pytest.approx(-decision.margins.min())
    assert decision.energy["moved"][0] > 0
    assert decision.moves[0, 0] < 295.0


@pytest.mark.parametrize("inner", ["infeasible", "nan", "raises", "misshapen", "nothing"])
def test_an_inner_controller_without_an_answer_is_infeasible_and_safe(
    bare: PlantSpec, trained: WorldModel, inner: str
) -> None:
    class Broken(Asks):
        def decide(self, observation: Observation, targets: Targets) -> Decision:
            if inner == "raises":
                raise ZeroDivisionError
            return super().decide(observation, targets) if inner == "misshapen" else None  # type: ignore[return-value]

    made: dict[str, Controller] = {
        "infeasible": constant(bare, 300.0, 300.0, status=Status.INFEASIBLE),
        "nan": constant(bare, np.nan, np.nan),
    }
    controller = made.get(inner, Broken(bare, lambda applied: np.zeros((3, 1))))
    decision = GuardrailFilter(trained, None, controller, CONFIG, batch=2).decide(
        observed(322.0, 322.0), asked(bare, 2)
    )
    assert decision.status == (Status.INFEASIBLE, Status.INFEASIBLE)
    assert (decision.plan == 290.0).all()
    assert np.isnan(decision.energy["moved"]).all()


def test_it_follows_the_plant_while_the_inner_controller_fails(bare: PlantSpec, trained: WorldModel) -> None:
    """One bad answer, and the next good one is judged as if there had been none."""
    failing, sound = constant(bare, 301.0), constant(bare, 301.0)
    one, other = (GuardrailFilter(trained, None, c, CONFIG) for c in (failing, sound))
    for k in range(5):
        failing.status = Status.INFEASIBLE if k == 2 else Status.FEASIBLE
        mine, its = (c.decide(observed(322.0 + 0.1 * k), asked(bare)) for c in (one, other))
        assert (mine.status == its.status) is (k != 2)
    np.testing.assert_array_equal(mine.bias, its.bias)
    np.testing.assert_array_equal(mine.moves, its.moves)


def test_a_plant_nobody_sees_is_infeasible_and_the_others_are_filtered(bare: PlantSpec, trained: WorldModel) -> None:
    seen = observed(322.0, np.nan, 322.0, np.nan)
    seen.measured[1], seen.applied[2] = np.nan, np.nan
    inner = constant(bare, *[300.5] * 4)
    decision = GuardrailFilter(trained, None, inner, CONFIG, batch=4).decide(seen, asked(bare, 4))
    assert [s is Status.INFEASIBLE for s in decision.status] == [False, True, True, False], "one tag missing is no loss"
    assert decision.moves[:, 0].tolist() == [300.5, 290.0, 290.0, 300.5]


def test_zero_time(bare: PlantSpec, trained: WorldModel) -> None:
    """No time to look for the nearest: what is safe still passes; what is not becomes something known to be safer."""
    for move, temperature, status in ((300.0, 322.0, Status.FEASIBLE), (310.0, 330.0, Status.DEADLINE)):
        controller = GuardrailFilter(trained, kept(12.0), constant(bare, move), CONFIG, deadline_s=0.0)
        for _ in range(4):
            decision = controller.decide(observed(temperature), asked(bare))
        assert decision.status == (status,)
        assert bool(decision.energy["moved"][0] > 0) is (status is Status.DEADLINE)
        assert (decision.margins > -0.02).all()


@pytest.mark.parametrize("status", [Status.DEADLINE, Status.RECOVERY, Status.FALLBACK, Status.OPTIMAL])
def test_the_inner_status_is_not_polished(bare: PlantSpec, trained: WorldModel, status: Status) -> None:
    """Unchanged: its own. Changed: its own where that says more than that the move is feasible."""
    for move in (300.0, 310.0):
        inner = constant(bare, move, status=status)
        held = Targets(np.full((1, 1, 1), 0.87), np.array([295.0]), np.array([301.0]))
        decision = GuardrailFilter(trained, None, inner, CONFIG).decide(observed(322.0), held)
        changed = move > 301.0
        assert bool(decision.energy["moved"][0] > 0) is changed
        assert decision.status == ((Status.FEASIBLE if changed and status is Status.OPTIMAL else status),)


def test_batch_of_three_equals_three_singles(bare: PlantSpec, trained: WorldModel) -> None:
    together = GuardrailFilter(trained, kept(12.0), constant(bare, 301.0, 310.0, 310.0), CONFIG, batch=3)
    singles = [GuardrailFilter(trained, kept(12.0), constant(bare, m), CONFIG) for m in (301.0, 310.0, 310.0)]
    temperatures = (322.0, 327.0, 330.0)
    for _ in range(3):
        whole = together.decide(observed(*temperatures), asked(bare, 3))
        for i, single in enumerate(singles):
            alone = single.decide(observed(temperatures[i]), asked(bare))
            assert whole.status[i] is alone.status[0]
            for name in ("moves", "plan", "predicted", "margins", "violation", "bias"):
                np.testing.assert_allclose(getattr(whole, name)[i], getattr(alone, name)[0], rtol=1e-6, atol=1e-6)


def test_reset_forgets_and_passes_on(bare: PlantSpec, trained: WorldModel) -> None:
    inner = constant(bare, 310.0)
    controller = GuardrailFilter(trained, kept(12.0), inner, CONFIG)
    fresh = controller.decide(observed(330.0), asked(bare)).plan
    for k in range(3):
        controller.decide(observed(320.0 + k), asked(bare))
    before = inner.resets
    controller.reset()
    assert inner.resets == before + 1
    np.testing.assert_array_equal(controller.decide(observed(330.0), asked(bare)).plan, fresh)


def test_what_it_refuses(bare: PlantSpec, trained: WorldModel) -> None:
    inner = constant(bare, 300.0)
    with pytest.raises(ControlError, match=r"a weight for Tx.*The MVs are Tc"):
        GuardrailFilter(trained, None, inner, CONFIG, FilterConfig(weights={"Tx": 2.0}))
    with pytest.raises(ControlError, match="horizon of 13 samples"):
        GuardrailFilter(trained, None, inner, PlannerConfig(horizon=13))


def test_weights_decide_which_mv_gives_way() -> None:
    """Two MVs heat alike; the guardrail takes the heat from the cheaper one."""

    def tag(name: str, role: str, **more: object) -> dict[str, object]:
        return {"name": name, "role": role, "description": name, "unit": "degC", "range": (-20.0, 20.0),
                "nominal": 0.0, "node_id": f"ns=2;s=room.{name}", **more}  # fmt: skip

    move = {"limits": (-5.0, 5.0), "rate_per_s": 100.0, "safe": -5.0}
    spec = PlantSpec.model_validate({
        "name": "room", "description": "A room", "endpoint": "opc.tcp://127.0.0.1:0/room", "sample_time_s": 1.0,
        "scan_time_s": 1.0, "tags": [tag("T", "CV"), tag("U", "MV", move=move), tag("V", "MV", move=move)],
        "guardrails": [{"name": "hot", "tag": "T", "max": 1.0, "rank": 1}],
        "targets": [{"tag": "T", "value": 0.0, "limits": (-5.0, 5.0), "scale": 1.0}],
    })  # fmt: skip
    room = WorldModel(spec, ModelConfig(window=1, latent=1, horizon=6), Scale(np.zeros(3), np.ones(3)))
    with torch.no_grad():  # T(k+1) = 0.5 T + 0.5 (U + V); the margin is what it is
        for weight in room.parameters():
            weight.zero_()
        room.encoder.linear.weight[0, 0] = 1.0
        room.predictor.linear.weight[0] = torch.tensor([-0.5, 0.5, 0.5])
        room.read_out_head.weight.fill_(1.0)
        room.limit_heads.linear.weight.fill_(-1.0 / float(room.margin_scale[0]))
        room.limit_heads.last.bias.fill_(1.0 / float(room.margin_scale[0]))
    seen = Observation(0.0, np.zeros((1, 1)), np.empty((1, 0)), np.zeros((1, 2)))
    inner = Asks(spec, lambda applied: np.full((1, 2), 4.0))
    for weights, gives in (({"U": 4.0}, 0.8), ({}, 0.5), ({"V": 4.0}, 0.2)):
        config = PlannerConfig(horizon=6, guard=0.0, iterations=6)
        decision = GuardrailFilter(room, None, inner, config, FilterConfig(weights=weights)).decide(seen, asked(spec))
        cut = 4.0 - decision.moves[0]
        assert decision.status == (Status.FEASIBLE,)
        assert cut[1] / cut.sum() == pytest.approx(gives, abs=0.01)
        assert cut.sum() == pytest.approx(6.0, abs=0.5), "T may rise to 1 and no further: U + V is at most 2"
