"""The loop and its supervisor over a real regulatory layer: entry, every shed, hostile controllers, hand-back."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest

from controllers.baselines.standby import Standby
from controllers.contracts import Mode, Status
from controllers.runtime.alarms import Severity
from historian.store import Historian
from plant.errors import HistorianError
from plant.link import PlantMode, Quality, Receipt


def test_a_decision_of_the_test_is_sound(answer_with, make_spec):
    from controllers.runtime.answer import AnswerCheck

    assert AnswerCheck(make_spec()).defect(answer_with(30.0)) == ""


async def test_auto_holds_the_target_and_writes_only_then(make_rig):
    rig = await make_rig()
    await rig.cycle(4)
    assert rig.mode is Mode.ADVISORY
    assert rig.link.written == []
    assert rig.link.layer.mode is PlantMode.LOCAL
    assert rig.loop.set_target("T", 60.0, "ann") == ""
    await rig.auto()
    await rig.cycle(60)
    assert rig.mode is Mode.AUTO
    assert abs(rig.link.heater.T - 60.0) < 1.0
    assert rig.journal.decisions[-1][1] == "AUTO"
    steps = np.abs(np.diff(rig.link.in_force))
    assert steps.max() <= 2.0 * 0.5 + 1e-9
    assert rig.journal.audits[-1] == ("ann", "SetMode", "controller", "AUTO", True, "")


async def test_entry_starts_from_the_read_back(make_rig, answer_with, scripted):
    rig = await make_rig(scripted(lambda o: answer_with(80.0)))
    await rig.cycle(3)
    before = rig.link.layer.outputs[0, 0]
    assert await rig.loop.set_mode("AUTO", "ann") == ""
    await rig.cycle()
    assert rig.link.written[0]["U"] == pytest.approx(before + 2.0 * 4.0, abs=0.5)


async def test_auto_waits_for_its_conditions_when_asked_at_the_start(make_rig, answer_with, scripted):
    status = [Status.RECOVERY]
    rig = await make_rig(scripted(lambda o: answer_with(30.0, status=tuple(status))), start=Mode.AUTO)
    await rig.cycle(5)
    assert rig.mode is Mode.ADVISORY
    assert rig.loop.state().mode_target == "AUTO"
    status[0] = Status.OPTIMAL
    await rig.cycle(2)
    assert rig.mode is Mode.AUTO


async def test_leaving_is_instant_and_gives_the_plant_back(make_rig):
    rig = await make_rig()
    await rig.auto()
    assert await rig.loop.set_mode("ADVISORY", "ann", "lunch") == ""
    assert rig.link.layer.mode is PlantMode.LOCAL
    beats, written = rig.link.beats, len(rig.link.written)
    await rig.cycle(2)
    await asyncio.sleep(0.15)
    assert (rig.link.beats, len(rig.link.written)) == (beats, written)


async def test_stopping_gives_the_plant_back(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)
    assert rig.link.layer.mode is PlantMode.LOCAL
    assert rig.mode is Mode.OFF


# Entry conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": (Status.RECOVERY,)}, "the plan is RECOVERY"),
        ({"status": (Status.INFEASIBLE,)}, "the plan is INFEASIBLE"),
        ({"moves": np.array([[math.nan]]), "plan": np.full((1, 4, 1), math.nan)}, "not finite"),
    ],
)
async def test_auto_is_refused_while_the_plan_is_not_good(make_rig, answer_with, scripted, changes, why):
    rig = await make_rig(scripted(lambda o: answer_with(30.0, **changes)))
    await rig.cycle(3)
    refusal = await rig.loop.set_mode("AUTO", "ann")
    assert why in refusal
    assert rig.mode is Mode.ADVISORY
    assert rig.link.layer.mode is PlantMode.LOCAL
    assert rig.journal.audits[-1][5].startswith("AUTO is not possible")


async def test_auto_is_refused_while_the_plant_is_not_good(make_rig):
    rig = await make_rig()
    assert "does not answer" in await rig.loop.set_mode("AUTO", "ann")
    await rig.cycle(3)
    rig.link.faults["T"] = lambda v: replace(v, value=math.nan, quality=Quality.BAD, reason="BadSensorFailure")
    await rig.cycle()
    assert "T is bad" in await rig.loop.set_mode("AUTO", "ann")
    rig.link.faults["T"] = lambda v: replace(v, value=88.0 + v.value / 1000)
    await rig.cycle()
    assert "past its limit 85" in await rig.loop.set_mode("AUTO", "ann")
    rig.link.faults.clear()
    rig.link.standing = True
    await rig.cycle()
    assert "heartbeat" in await rig.loop.set_mode("AUTO", "ann")
    rig.link.standing = False
    await rig.cycle(2)
    rig.link.layer.request_mode(PlantMode.REMOTE, rig.clock.wall_time())
    await rig.cycle()
    assert "another controller" in await rig.loop.set_mode("AUTO", "ann")
    rig.link.layer.request_mode(PlantMode.LOCAL, rig.clock.wall_time())
    await rig.cycle()
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_auto_needs_a_plan_first(make_rig):
    rig = await make_rig(start=Mode.OFF)
    await rig.cycle(3)
    assert "select ADVISORY first" in await rig.loop.set_mode("AUTO", "ann")
    assert "no mode 'FAST'" in await rig.loop.set_mode("FAST", "ann")
    assert "nothing to shed" in await rig.loop.set_mode("SHED", "ann")


async def test_wrong_speed_is_alarmed_and_blocks_auto(make_rig):
    rig = await make_rig()
    await rig.cycle(2)
    rig.link.speed = 20.0
    await rig.cycle()
    assert "speed" in rig.alarms()
    assert "the plant runs at speed 20" in await rig.loop.set_mode("AUTO", "ann")


# Sheds ---------------------------------------------------------------------------------------------------------------


async def shed_state(rig, fragment: str) -> None:
    """Shed for that reason, told to the operator, alarmed, recorded, plant in LOCAL, and it stays so."""
    assert rig.mode is Mode.SHED, rig.reason
    assert fragment in rig.reason
    assert "To return:" in rig.reason
    assert "shed" in rig.alarms()
    assert any(kind == "mode" and "AUTO -> SHED" in text for kind, _, text in rig.journal.events)
    written = len(rig.link.written)
    await rig.cycle(3)
    assert rig.mode is Mode.SHED
    assert len(rig.link.written) == written
    if not rig.link.down:
        assert rig.link.layer.mode is PlantMode.LOCAL


def bad(v):
    return replace(v, value=math.nan, quality=Quality.BAD, reason="BadSensorFailure")


@pytest.mark.parametrize(
    ("tag", "fault", "samples", "text"),
    [
        ("T", bad, 2, "T is bad: BadSensorFailure"),
        ("T", lambda v: replace(v, value=154.0), 2, "T is bad: out of range"),
        ("T", lambda v: replace(v, time_s=v.time_s - 100.0), 1, "T is stale"),
        ("T", lambda v: replace(v, value=50.0), 6, "T is frozen at 50"),
        ("U", bad, 2, "U is bad"),
    ],
)
async def test_critical_input_sheds_after_its_count(make_rig, tag, fault, samples, text):
    rig = await make_rig()
    await rig.auto()
    rig.link.faults[tag] = fault
    await rig.cycle(samples - 1)
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    await shed_state(rig, text)
    assert f"input:{tag}" in rig.alarms()
    rig.link.faults.clear()
    await rig.cycle(3)
    assert f"input:{tag}" not in rig.alarms()
    assert rig.mode is Mode.SHED
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_uncritical_input_is_held_then_missing_and_does_not_shed(make_rig, answer_with, scripted):
    seen = []
    rig = await make_rig(scripted(lambda o: seen.append(o) or answer_with(30.0)))
    await rig.auto()
    rig.link.faults["D"] = bad
    await rig.cycle(7)
    assert rig.mode is Mode.AUTO
    assert "input:D" in rig.alarms()
    dvs = [float(o.dvs[0, 0]) for o in seen[-7:]]
    assert len(set(dvs[:5])) == 1
    assert math.isfinite(dvs[0])
    assert all(map(math.isnan, dvs[5:]))


@pytest.mark.parametrize(
    ("changes", "samples", "text"),
    [
        ({"status": (Status.INFEASIBLE,)}, 1, "no answer at all"),
        ({"status": (Status.RECOVERY,), "violation": np.array([9.0])}, 5, "broke a guardrail"),
        ({"status": (Status.FALLBACK,)}, 5, "plans in a row"),
        ({"moves": np.array([[math.nan]]), "plan": np.full((1, 4, 1), math.nan)}, 1, "not finite"),
        ({"predicted": np.full((1, 4, 2), math.nan), "margins": np.full((1, 4, 2), math.nan)}, 1, "predictions"),
        ({"plan": np.zeros((1, 4, 3))}, 1, "shape"),
        ({"moves": np.zeros(7)}, 1, "shape"),
        ({"status": ()}, 1, "status"),
    ],
)
async def test_bad_plan_sheds_after_its_count(make_rig, answer_with, scripted, changes, samples, text):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller)
    await rig.auto()
    controller.answer = lambda o: answer_with(30.0, **changes)
    await rig.cycle(samples - 1)
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    await shed_state(rig, text)


async def test_a_tight_plan_is_executed_with_a_low_alarm_and_sheds_only_near_the_limit_itself(
    make_rig, answer_with, scripted
):
    """Its margin is short for as long as it likes; what counts is the reading, by one scale of the guardrail (1.5 degC)."""
    short = {
        "status": (Status.TIGHT,),
        "margins": np.full((1, 4, 2), -20.0),
        "why": ("warm keeps 3 of its margin of 23 degC",),
    }
    controller = scripted(lambda o: answer_with(30.0, **short))
    rig = await make_rig(controller)
    await rig.auto()
    controller.answer = lambda o: answer_with(31.0, **short)
    await rig.cycle(20)
    assert rig.mode is Mode.AUTO
    assert rig.link.written[-1]["U"] == pytest.approx(31.0)
    alarm = next(a for a in rig.loop.supervisor.alarms if a.key == "tight" and a.active)
    assert (alarm.severity, alarm.message) == (Severity.LOW, "The plan is TIGHT: warm keeps 3 of its margin of 23 degC")
    assert "plan" not in rig.alarms()
    now = rig.link.heater.T
    rig.link.faults["T"] = lambda v: replace(v, value=v.value + 84.2 - now)
    await rig.cycle(2)
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    await shed_state(rig, "the plan is TIGHT and T is 84")
    assert "near its limit 85 (warm)" in rig.reason
    controller.answer = lambda o: answer_with(31.0)
    rig.link.faults.clear()
    await rig.cycle(2)
    assert "tight" not in rig.alarms()


async def test_small_violation_is_executed_and_alarmed_and_a_large_one_goes_safe(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(40.0))
    rig = await make_rig(controller)
    await rig.auto()
    controller.answer = lambda o: answer_with(40.0, status=(Status.RECOVERY,), violation=np.array([1.0]))
    await rig.cycle(8)
    assert rig.mode is Mode.AUTO
    assert "plan" in rig.alarms()
    assert rig.link.written[-1]["U"] == pytest.approx(40.0)
    controller.answer = lambda o: answer_with(40.0, status=(Status.RECOVERY,), violation=np.array([8.0]))
    await rig.cycle()
    assert rig.link.written[-1]["U"] == pytest.approx(40.0 - 8.0), "the safe value, at its rate"


async def test_standby_takes_over_for_a_while_and_then_sheds(make_rig, answer_with, scripted):
    main = scripted(lambda o: answer_with(40.0))
    rig = await make_rig(Standby(main, scripted(lambda o: answer_with(42.0))))
    await rig.auto()
    assert rig.link.written[-1]["U"] == pytest.approx(40.0)
    main.answer = lambda o: answer_with(0.0, status=(Status.INFEASIBLE,))
    await rig.cycle(4)
    assert rig.mode is Mode.AUTO
    assert "plan" in rig.alarms()
    assert rig.link.written[-1]["U"] == pytest.approx(42.0)
    await rig.cycle()
    await shed_state(rig, "were the standby's")


async def test_raising_controller_sheds(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller)
    await rig.auto()

    def explode(_):
        raise ZeroDivisionError("no such luck")

    controller.answer = explode
    await rig.cycle()
    await shed_state(rig, "ZeroDivisionError: no such luck")


async def test_late_plans_follow_the_last_one_then_shed(make_rig, answer_with, scripted):
    plan = np.array([[[30.0], [31.0], [32.0], [33.0]]])
    controller = scripted(lambda o: answer_with(30.0, plan=plan))
    rig = await make_rig(controller, {"loop": {"deadline_max_s": 0.5}})
    await rig.auto()
    release, calls = threading.Event(), controller.calls

    def sleep(_):
        release.wait(20)
        return answer_with(80.0)

    controller.answer = sleep
    try:
        await rig.cycle(2)
        assert [w["U"] for w in rig.link.written[-2:]] == pytest.approx([31.0, 32.0])
        assert rig.mode is Mode.AUTO
        assert "late" in rig.alarms()
        await rig.cycle()
        await shed_state(rig, "3 plans in a row were late")
        assert controller.calls == calls + 1, "never two questions at once"
        assert rig.loop.figures.missed_deadlines >= 6
    finally:
        release.set()
    controller.answer = lambda o: answer_with(30.0)
    resets = controller.resets
    while rig.loop._solver.busy:
        await asyncio.sleep(0.001)
    await rig.cycle(2)
    assert controller.resets == resets + 1, "its history has a hole"
    assert rig.loop.state().prediction.moves["U"][0] == 30.0, "the late answer was thrown away"
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_refused_write_sheds(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.refuse = "BadOutOfRange"
    await rig.cycle()
    await shed_state(rig, "the plant refused a move (U: BadOutOfRange)")


async def test_read_back_that_differs_sheds(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.stuck = 5.0
    await rig.cycle()
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    await shed_state(rig, "U is 5 where")


async def test_interlock_that_overrides_sheds(make_rig, make_spec, answer_with, scripted):
    spec = make_spec()
    regulatory = spec.regulatory.model_dump() | {
        "interlocks": [{"tag": "T", "trip": 70.0, "reset": 60.0, "moves": {"U": 0.0}}]
    }
    rig = await make_rig(scripted(lambda o: answer_with(60.0)), spec=make_spec(regulatory=regulatory))
    await rig.auto()
    for _ in range(30):
        await rig.cycle()
        if rig.mode is not Mode.AUTO:
            break
    assert rig.mode is Mode.SHED
    assert "interlock" in rig.reason
    assert rig.link.heater.T < 75.0


@pytest.mark.parametrize(("value", "samples", "text"), [(96.0, 1, "(burns)"), (86.0, 3, "(warm)")])
async def test_guardrail_measured_past_its_limit_sheds(make_rig, value, samples, text):
    rig = await make_rig()
    await rig.auto()
    rig.link.faults["T"] = lambda v: replace(v, value=value + v.value * 1e-6)
    await rig.cycle(samples - 1)
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    await shed_state(rig, text)


async def test_standing_plant_sheds(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.standing = True
    await rig.cycle()
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    await shed_state(rig, "heartbeat stands still")


async def test_plant_that_goes_local_by_itself_sheds(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.layer.request_mode(PlantMode.LOCAL, rig.clock.wall_time())
    await rig.cycle()
    await shed_state(rig, "went to LOCAL by itself")


async def test_lost_link_sheds_between_samples_and_waits_for_a_person(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.down = True
    for _ in range(300):
        await asyncio.sleep(0.1)
        if rig.mode is Mode.SHED:
            break
        rig.clock.stand(1.0)  # far less than the watchdog waits: the loop goes on
    await shed_state(rig, "does not take our heartbeat")
    assert "link" in rig.alarms()
    assert rig.loop.state().sample_age_s > 8.0
    rig.link.down = False
    await rig.cycle(3)
    assert "link" not in rig.alarms()
    assert rig.mode is Mode.SHED
    assert rig.link.layer.mode is PlantMode.LOCAL
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_operator_sheds(make_rig):
    rig = await make_rig()
    await rig.auto()
    assert await rig.loop.set_mode("SHED", "ann", "smells odd") == ""
    assert rig.link.layer.mode is PlantMode.LOCAL
    await shed_state(rig, "ann asked for it: smells odd")


async def test_automatic_return_only_when_configured_and_after_its_count(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller, {"supervisor": {"return_to_auto": "automatic", "return_samples": 4}})
    await rig.auto()
    controller.answer = lambda o: answer_with(30.0, status=(Status.INFEASIBLE,))
    await rig.cycle(2)
    assert "returns to AUTO by itself" in rig.reason
    controller.answer = lambda o: answer_with(30.0)
    await rig.cycle(3)
    assert rig.mode is Mode.SHED
    await rig.cycle(2)
    assert rig.mode is Mode.AUTO
    assert await rig.loop.set_mode("SHED", "ann") == ""
    await rig.cycle(8)
    assert rig.mode is Mode.SHED, "an operator's word is not undone"


async def test_safe_fallback_goes_to_the_safe_value_at_its_rate(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(40.0))
    rig = await make_rig(controller, {"supervisor": {"fallback": "safe"}})
    await rig.auto()
    controller.answer = lambda o: answer_with(40.0, status=(Status.INFEASIBLE,))
    await rig.cycle(8)
    assert rig.mode is Mode.SHED
    assert rig.link.layer.mode is PlantMode.REMOTE
    assert rig.link.written[-1]["U"] == 0.0
    assert max(np.abs(np.diff([w["U"] for w in rig.link.written]))) <= 8.0 + 1e-9
    assert await rig.loop.set_mode("OFF", "ann") == ""
    assert rig.link.layer.mode is PlantMode.LOCAL


async def test_hold_fallback_leaves_the_moves_where_they_are(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(40.0))
    rig = await make_rig(controller, {"supervisor": {"fallback": "hold"}})
    await rig.auto()
    await rig.cycle(5)
    controller.answer = lambda o: answer_with(70.0, status=(Status.INFEASIBLE,))
    written = len(rig.link.written)
    await rig.cycle(5)
    assert rig.mode is Mode.SHED
    assert len(rig.link.written) == written
    assert rig.link.layer.mode is PlantMode.REMOTE
    assert rig.link.layer.outputs[0, 0] == pytest.approx(40.0)
    beats, end = rig.link.beats, rig.clock.wall_time() + 10
    while rig.link.beats == beats:
        assert rig.clock.wall_time() < end, "what is held is held with a heartbeat"
        await asyncio.sleep(0.02)


async def test_fault_of_the_loop_itself_sheds_and_the_loop_goes_on(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.faults["T"] = lambda v: v.no_such_attribute
    await rig.cycle()
    await shed_state(rig, "internal fault: AttributeError")
    assert "internal" in rig.alarms()
    rig.link.faults.clear()
    await rig.cycle(2)
    assert "internal" not in rig.alarms()
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_a_later_word_to_leave_beats_an_earlier_one_to_enter(make_rig):
    rig = await make_rig()
    await rig.cycle(3)
    grant, granted = rig.link.request_mode, asyncio.Event()

    async def slow(mode):
        receipt = await grant(mode)
        if mode is PlantMode.REMOTE:
            await granted.wait()
        return receipt

    rig.link.request_mode = slow
    entering = asyncio.create_task(rig.loop.set_mode("AUTO", "ann"))
    while rig.link.layer.mode is PlantMode.LOCAL:
        await asyncio.sleep(0)
    assert await rig.loop.set_mode("OFF", "bob") == ""
    granted.set()
    assert "meanwhile" in await entering
    assert rig.mode is Mode.OFF
    assert rig.link.layer.mode is PlantMode.LOCAL


# Hostile controllers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [80.0, 1e9, -1e9, 81.0, 0.0])
async def test_greedy_controller_never_leaves_limits_or_rate(make_rig, answer_with, scripted, move):
    rig = await make_rig(scripted(lambda o: answer_with(move)))
    await rig.cycle(3)
    assert rig.loop.set_limit("U", 10.0, 60.0, "ann") == ""
    await rig.auto()
    await rig.cycle(25)
    written = np.array([w["U"] for w in rig.link.written])
    assert written.min() >= 0.0
    assert written.max() <= 80.0
    assert written[10:].min() >= 10.0
    assert written[10:].max() <= 60.0
    assert np.abs(np.diff(written)).max() <= 2.0 * 4.0 + 1e-9
    assert np.abs(np.diff(rig.link.in_force)).max() <= 2.0 * 0.5 + 1e-9
    assert rig.link.heater.T < 95.0


async def test_erratic_controller_never_writes_anything_unsound(make_rig, answer_with, scripted):
    rng = np.random.default_rng(5)

    def answer(_):
        kind = rng.integers(16)
        if kind == 0:
            raise RuntimeError("fault")
        if kind == 1:
            return answer_with(math.nan)
        if kind == 2:
            return None
        if kind == 3:
            return answer_with(30.0, plan=np.zeros((2, 2)))
        return answer_with(float(rng.choice([-1e300, 1e300, math.inf, 75.0])))

    rig = await make_rig(scripted(answer))
    for _ in range(60):
        await rig.cycle()
        await rig.loop.set_mode("AUTO", "ann")
    written = np.array([w["U"] for w in rig.link.written])
    assert len(written) > 5
    assert np.isfinite(written).all()
    assert written.min() >= 0.0
    assert written.max() <= 80.0
    assert np.abs(np.diff(rig.link.in_force)).max() <= 2.0 * 0.5 + 1e-9


# The operator --------------------------------------------------------------------------------------------------------


async def test_targets_and_limits_outside_are_refused_with_the_reason(make_rig):
    rig = await make_rig()
    await rig.cycle()
    assert "outside [30, 80] degC" in rig.loop.set_target("T", 81.0, "ann")
    assert "outside" in rig.loop.set_target("T", math.nan, "ann")
    assert "no target" in rig.loop.set_target("F", 1.0, "ann")
    assert "engineer limits [0, 80]" in rig.loop.set_limit("U", 0.0, 81.0, "ann")
    assert "low < high" in rig.loop.set_limit("U", 50.0, 40.0, "ann")
    assert "not an MV" in rig.loop.set_limit("T", 0.0, 1.0, "ann")
    assert "need MANUAL" in rig.loop.set_move("U", 40.0, "ann")
    assert rig.loop.state().targets == {"T": 50.0}
    assert all(a[4] is False and a[5] for a in rig.journal.audits)
    assert len(rig.journal.audits) == 7


async def test_manual_moves_within_rate_and_limits(make_rig):
    rig = await make_rig()
    await rig.cycle(3)
    start = rig.link.layer.outputs[0, 0]
    assert await rig.loop.set_mode("MANUAL", "ann") == ""
    await rig.cycle(2)
    assert rig.link.written[-1]["U"] == pytest.approx(start, abs=1.0), "no bump"
    assert "outside the limits" in rig.loop.set_move("U", 81.0, "ann")
    assert rig.loop.set_move("U", 60.0, "ann") == ""
    await rig.cycle(5)
    assert rig.link.written[-1]["U"] == 60.0
    assert max(np.abs(np.diff([w["U"] for w in rig.link.written]))) <= 8.0 + 1e-9
    assert await rig.loop.set_mode("AUTO", "ann") == ""
    await rig.cycle(3)
    assert rig.mode is Mode.AUTO


async def test_scheduled_targets_are_seen_ahead(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller)
    await rig.cycle(2)
    now = rig.clock.plant_time()
    assert rig.loop.asking.schedule_target("T", 60.0, f"{now + 4.0 * 3}", "ann") == ""
    await rig.cycle()
    assert controller.targets.values[0, :, 0].tolist() == [50.0, 60.0, 60.0, 60.0]
    await rig.cycle(3)
    assert rig.loop.state().targets == {"T": 60.0}


async def test_alarm_stays_until_it_is_cleared_and_acknowledged(make_rig):
    rig = await make_rig()
    await rig.cycle(3)
    rig.link.faults["D"] = bad
    await rig.cycle()
    rig.link.faults.clear()
    await rig.cycle()
    (alarm,) = [a for a in rig.loop.state().alarms if a.key == "input:D"]
    assert (alarm.active, alarm.acknowledged) == (False, False)
    assert rig.loop.acknowledge("input:D", "ann") == ""
    assert "no alarm" in rig.loop.acknowledge("input:D", "ann")


async def test_historian_that_takes_nothing_is_an_alarm_and_control_goes_on(make_rig):
    rig = await make_rig()
    await rig.auto()

    def refuse(*_, **__):
        raise HistorianError("the disk is full")

    rig.journal.decision = rig.journal.event = refuse
    await rig.cycle(5)
    assert rig.mode is Mode.AUTO
    assert "historian" in rig.alarms()


async def test_locked_database_lets_control_go_on_and_loses_nothing(make_rig, tmp_path):
    path = tmp_path / "historian.db"
    with Historian(path, "heater") as historian:
        rig = await make_rig(historian=historian)
        await rig.auto()
        assert historian.flush()
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        end = rig.clock.wall_time() + 30
        while "historian" not in rig.alarms():
            assert rig.clock.wall_time() < end
            await rig.cycle()
            await asyncio.sleep(0.1)
        assert rig.mode is Mode.AUTO
        written, decided = len(rig.link.written), rig.loop.figures.cycles
        await rig.cycle(3)
        assert len(rig.link.written) == written + 3
        lock.execute("ROLLBACK")
        lock.close()
        assert await asyncio.to_thread(historian.flush)
        stored = historian.decisions(limit=10_000)
        assert stored.height == decided + 3
        assert stored["mode"][0] == "AUTO"
        end = rig.clock.wall_time() + 30
        while "historian" in rig.alarms():
            assert rig.clock.wall_time() < end
            await asyncio.sleep(0.1)


async def test_hung_loop_stops_the_heartbeat(make_rig):
    rig = await make_rig()
    await rig.auto()
    hung, over = asyncio.Event(), asyncio.Event()

    async def hang(_moves):
        hung.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):  # no timeout of the loop ends it
                await over.wait()
        return Receipt()

    rig.link.write = hang
    try:
        await rig.clock.advance(rig.clock.due)
        await asyncio.wait_for(hung.wait(), 10)
        for _ in range(2):  # longer than a loop may be silent, each time less than the watchdog waits
            rig.clock.stand(3.0)
            await asyncio.sleep(0.2)
        beats = rig.link.beats
        await asyncio.sleep(0.5)
        assert rig.link.beats == beats
        assert rig.mode is Mode.AUTO
        rig.clock.stand(rig.spec.handshake.watchdog.patience_s)
        rig.link.layer.watch(rig.clock.wall_time())
        assert rig.link.layer.mode is PlantMode.LOCAL
    finally:
        over.set()
    assert "heartbeat lost" in rig.link.layer.shed_reason
