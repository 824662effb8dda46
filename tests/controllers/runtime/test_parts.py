"""The parts of the runtime that can be judged alone: configuration, clamp, alarms, plant time, record conversion."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.runtime.alarms import AlarmList, Event, Severity
from controllers.runtime.answer import AnswerCheck
from controllers.runtime.clamp import MoveClamp
from controllers.runtime.config import ControllerConfig, LoopConfig, load_config
from controllers.runtime.plant_time import Followed, PlantTime
from controllers.runtime.readback import ReadbackCheck
from controllers.runtime.records import without_nan
from plant.clock import LockStepClock
from plant.errors import ControlError, SpecError


def test_a_controller_file_states_only_what_differs(tmp_path):
    path = tmp_path / "controller.yaml"
    path.write_text("supervisor: {late_plans: 5}\nplanner: {horizon: 12}\n")
    config = load_config(path)
    assert (config.supervisor.late_plans, config.planner.horizon) == (5, 12)
    assert config.loop == ControllerConfig().loop


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("supervisor: {late_plan: 5}", "supervisor.late_plan: unknown key"),
        ("loop: {deadline_share: 2}", "deadline_share"),
    ],
)
def test_a_wrong_controller_file_names_the_field(tmp_path, text, where):
    path = tmp_path / "controller.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=where):
        load_config(path)


@given(
    wanted=st.floats(allow_nan=False),
    now=st.floats(-1000, 1000),
    limits=st.tuples(st.floats(0, 39), st.floats(41, 80)),
)
def test_the_clamp_holds_limits_and_rate_whatever_is_wanted(make_spec, wanted, now, limits):
    clamp = MoveClamp(make_spec(), limit_ramp=1.0)
    assert clamp.ask("U", *limits) == ""
    clamp.ramp({"U": 40.0})
    if not math.isfinite(wanted):
        with pytest.raises(ControlError):
            clamp.apply({"U": wanted}, {"U": now})
        return
    move = clamp.apply({"U": wanted}, {"U": now})["U"]
    assert 0.0 <= move <= 80.0
    inside = min(max(now, 0.0), 80.0)
    assert abs(move - inside) <= 8.0 + 1e-9
    if limits[0] <= now <= limits[1]:
        assert limits[0] <= move <= limits[1]


def test_a_tighter_limit_starts_at_the_move_in_force_and_is_ramped(make_spec):
    clamp = MoveClamp(make_spec(), limit_ramp=0.05)
    clamp.ask("U", 0.0, 40.0)
    highs = []
    for now in (60.0, 56.0, 52.0, 48.0, 44.0, 40.0):
        clamp.ramp({"U": now})
        highs.append(clamp.in_force["U"][1])
    assert highs == [56.0, 52.0, 48.0, 44.0, 40.0, 40.0]
    clamp.ask("U", 0.0, 80.0)
    clamp.ramp({"U": 40.0})
    assert clamp.in_force["U"][1] == 44.0


def test_an_alarm_that_comes_back_must_be_acknowledged_again():
    events: list[Event] = []
    alarms = AlarmList(events.append)
    alarms.raise_("k", Severity.HIGH, "too hot", 1.0)
    alarms.raise_("k", Severity.HIGH, "too hot, 3 K", 2.0)
    assert alarms.acknowledge("k", "ann", 3.0) == ""
    alarms.clear("k", 4.0)
    assert list(alarms) == []
    alarms.raise_("k", Severity.HIGH, "too hot", 5.0)
    (alarm,) = alarms
    assert (alarm.acknowledged, alarm.since_s) == (False, 5.0)
    assert [e.message for e in events] == [
        "too hot",
        "ann acknowledged: too hot, 3 K",
        "Cleared: too hot, 3 K",
        "too hot",
    ]


def test_plant_time_is_followed_on_another_date_and_its_rate_is_judged(make_spec):
    clock = LockStepClock(start=5000.0)
    clock.speed = 1.0
    time = PlantTime(clock, make_spec(sample_time_s=10.0), LoopConfig(speed_samples=3, settle_samples=2))

    def follow(time_s: float) -> Followed:
        return time.follow(time_s, clock.plant_time())

    assert math.isnan(time.age_s())
    assert follow(1_000_000.0) == Followed(math.inf)
    for k in range(1, 5):
        clock._now = 5000.0 + 10.0 * k
        assert follow(1_000_000.0 + 10.0 * k) == Followed(1.0)
    assert time.speed_fault(1.0) == ""
    clock._now += 7.0
    assert (time.age_s(), time.now_s()) == (7.0, 1_000_047.0)
    assert follow(1_000_040.0) == Followed(0.0)
    assert time.standing == 1
    back = follow(999_000.0)
    assert back.missing == math.inf
    assert back.step_s == pytest.approx(-1047.0)
    assert "settled" in time.unsettled
    assert time.now_s() == 999_000.0, "the newest received is followed"
    for k in range(1, 5):
        clock._now += 10.0
        assert follow(999_000.0 + 12.0 * k).step_s == 0.0
    assert time.unsettled == ""
    clock._now += 3600.0
    assert follow(999_048.0 + 3600.0) == Followed(360.0), "samples that we missed are no step"
    time = PlantTime(clock, make_spec(sample_time_s=10.0), LoopConfig(speed_samples=3, clock_step_s=500.0))
    for k in range(5):
        clock._now += 10.0
        follow(999_000.0 + 200.0 * k)
    assert "20.00 times" in time.speed_fault(1.0)
    assert "the plant runs at speed 20" in time.speed_fault(20.0)


def test_an_answer_may_leave_out_predictions_only_if_it_never_made_any(make_spec, answer_with):
    none = {"predicted": np.full((1, 4, 2), math.nan), "margins": np.full((1, 4, 2), math.nan)}
    check = AnswerCheck(make_spec())
    assert check.defect(answer_with(30.0, **none)) == ""
    assert check.defect(answer_with(30.0)) == ""
    assert "predictions" in check.defect(answer_with(30.0, **none))
    margins_only = AnswerCheck(make_spec())  # behind a forecast that speaks of a guardrail alone
    assert margins_only.defect(answer_with(30.0, predicted=none["predicted"])) == ""
    assert "margins" in margins_only.defect(answer_with(30.0, **none))
    partly = np.full((1, 4, 2), 50.0)
    partly[0, 3, 1] = math.nan
    assert "predictions" in AnswerCheck(make_spec()).defect(answer_with(30.0, predicted=partly))
    assert "begin" in check.defect(answer_with(30.0, moves=np.array([[31.0]])))


def test_records_have_no_nan():
    assert json.dumps(without_nan({"a": [math.nan, 1.0], "b": (math.inf,)}), allow_nan=False)


def test_an_mv_that_never_moves_is_found_however_small_the_steps(make_spec):
    check, time_s, now, found = ReadbackCheck(make_spec(), 0.02, 0.5), 0.0, 50.0, []
    for _ in range(8):
        check.send({"U": now + 0.5}, {"U": now}, time_s)
        time_s += 4.0
        found.append(check.strays({"U": now}, time_s))
    assert [bool(f) for f in found] == [False] * 3 + [True] * 5
    assert found[-1]["U"] == "U stays at 50, whatever is sent"
    for _ in range(8):
        check.send({"U": now + 0.5}, {"U": now}, time_s)
        now, time_s = now + 0.4, time_s + 4.0
        assert check.strays({"U": now}, time_s) == {}
