"""A quantile forecast as a guardrail: the largest safe part of what is asked for, a back-off that follows what happens, on any plant."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.planning.quantile_filter import BackOff, QuantileFilter, first_crossing
from plant.errors import ControlError
from plant.spec import load_spec

SPEC = load_spec("reactor_bare")
MOVE = next(t.move for t in SPEC.mvs if t.move)
SAFE = MOVE.safe
RAIL = next(g for g in SPEC.guardrails if g.tag in {t.name for t in SPEC.measured})
AT = [t.name for t in SPEC.measured].index(RAIL.tag)
CONFIG = BackOff(guardrail=RAIL.name, start=2.0, least=-1.0, most=9.0, rise=0.5, budget=0.1)
TARGETS = Targets(np.full((2, 1, 1), 0.87), np.array([MOVE.limits[0]]), np.array([MOVE.limits[1]]))


class Linear:
    """The margin is `room` (batch,), less the distance of a move from the safe value."""

    batch = 2

    def __init__(self, *room: float) -> None:
        self.room, self.asked, self.seen = np.array(room), 0, 0

    def reset(self) -> None:
        self.seen = 0

    def see(self, observation: Observation) -> None:
        self.seen += 1

    def margin(self, plants: np.ndarray, moves: np.ndarray) -> np.ndarray:
        self.asked += moves.shape[0] * moves.shape[1]
        assert moves.shape[0] == len(plants)
        return self.room[plants, None] - np.abs(moves[:, :, 0] - SAFE)


class Asks:
    horizon = 1

    def __init__(self, *moves: float) -> None:
        self.moves = np.array(moves)[:, None]

    def reset(self) -> None:
        pass

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        if np.isinf(self.moves).all():
            raise RuntimeError("no idea")
        return Decision.of_moves(SPEC, self.moves, 0.0)


def observed(*readings: float) -> Observation:
    measured = np.tile([t.nominal for t in SPEC.measured], (2, 1))
    measured[:, AT] = readings
    return Observation(0.0, measured, np.zeros((2, len(SPEC.dvs))), np.full((2, 1), SAFE))


INSIDE = RAIL.limit - RAIL.sign * 5.0


def test_the_largest_part_of_the_way_that_is_safe_and_no_bit_of_a_safe_move_is_changed() -> None:
    asked = SAFE + 10.0 / 3.0
    made = QuantileFilter(SPEC, Linear(100.0, 4.0), Asks(asked, asked), CONFIG)
    decision = made.decide(observed(INSIDE, INSIDE), TARGETS)
    assert decision.moves[0, 0] == asked, "bit for bit"
    assert decision.moves[1, 0] == pytest.approx(SAFE + 2.0)
    np.testing.assert_allclose(decision.margins[:, 0, 0], [100.0 - 10.0 / 3.0 - 2.0, 0.0], atol=1e-9)
    assert decision.guardrails == (RAIL.name,)
    assert decision.status == (Status.FEASIBLE, Status.FEASIBLE)
    assert decision.energy["moved"][0] == 0.0
    assert decision.energy["moved"][1] == pytest.approx((asked - SAFE - 2.0) / (MOVE.limits[1] - MOVE.limits[0]))
    assert decision.why == ("", ""), "a smaller move is no news to an operator: by how much stands in `moved`"
    np.testing.assert_array_equal(decision.plan[:, 0], decision.moves)


def test_whole_steps_towards_the_safe_value_and_nothing_where_nothing_is_safe() -> None:
    made = QuantileFilter(SPEC, Linear(4.0, 1.0), Asks(SAFE - 8.0, SAFE + 8.0), CONFIG, step=np.array([0.75]))
    decision = made.decide(observed(INSIDE, INSIDE), TARGETS)
    np.testing.assert_allclose(decision.moves[:, 0], [SAFE - 1.5, SAFE])
    assert decision.status[1] is Status.FEASIBLE, (
        "the fallback's own move is the best there is, and no reason to give up"
    )
    assert decision.why == ("", f"{RAIL.name}: even the safe values do not keep its back-off")


def test_the_back_off_follows_what_happens() -> None:
    made = QuantileFilter(SPEC, Linear(50.0, 50.0), Asks(SAFE, SAFE), CONFIG)
    made.decide(observed(INSIDE, RAIL.limit + RAIL.sign * 1.0), TARGETS)
    np.testing.assert_allclose(made.back_off, [1.95, 2.45])
    made.decide(observed(np.nan, np.nan), TARGETS)
    np.testing.assert_allclose(made.back_off, [1.9, 2.4])
    made.reset()
    np.testing.assert_allclose(made.back_off, 2.0)
    started = QuantileFilter(SPEC, Linear(50.0, 50.0), Asks(SAFE, SAFE), CONFIG, start=np.array([3.0, 4.0]))
    np.testing.assert_allclose(started.back_off, [3.0, 4.0])


def test_a_controller_that_fails_leaves_the_safe_move_and_no_answer() -> None:
    forecast = Linear(50.0, 50.0)
    made = QuantileFilter(SPEC, forecast, Asks(np.inf, np.inf), CONFIG)
    decision = made.decide(observed(INSIDE, INSIDE), TARGETS)
    assert decision.status == (Status.INFEASIBLE, Status.INFEASIBLE)
    np.testing.assert_allclose(decision.moves, SAFE)
    assert forecast.seen == 1, "the history goes on"


def test_filters_behind_each_other_add_up() -> None:
    first = QuantileFilter(SPEC, Linear(8.0, 100.0), Asks(SAFE + 10.0, SAFE + 10.0), CONFIG)
    second = QuantileFilter(SPEC, Linear(4.0, 100.0), first, CONFIG)
    decision = second.decide(observed(INSIDE, INSIDE), TARGETS)
    assert decision.moves[0, 0] == pytest.approx(SAFE + 2.0)
    assert decision.moves[1, 0] == SAFE + 10.0
    span = MOVE.limits[1] - MOVE.limits[0]
    np.testing.assert_allclose(decision.energy["moved"], [8.0 / span, 0.0])


def test_only_what_lies_between_is_looked_at() -> None:
    forecast = Linear(100.0, 100.0)
    QuantileFilter(SPEC, forecast, Asks(SAFE + 1, SAFE + 1), CONFIG).decide(observed(INSIDE, INSIDE), TARGETS)
    assert forecast.asked == 4


def test_a_guardrail_that_is_not_there_is_said() -> None:
    wrong = CONFIG.model_copy(update={"guardrail": "too_loud"})
    with pytest.raises(ControlError, match=f"'too_loud'.*{RAIL.name}"):
        QuantileFilter(SPEC, Linear(1.0, 1.0), Asks(SAFE, SAFE), wrong)


def test_crossing_by_hand() -> None:
    shares = np.array([0.0, 0.5, 1.0])
    room = np.array([[3.0, 1.0, -1.0], [-1.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, -1.0, 5.0]])
    np.testing.assert_allclose(first_crossing(shares, room), [0.75, 0.0, 1.0, 0.25])
