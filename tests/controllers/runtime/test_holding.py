"""Whose the plant is, who may not act, and where the MVs go when AUTO is given up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.contracts import Mode, Status
from controllers.runtime.clamp import MoveClamp
from controllers.runtime.config import ControllerConfig
from controllers.runtime.fallback import Fallback
from controllers.runtime.observed import Cause
from plant.link import PlantMode


async def test_a_lost_lease_sheds_and_is_not_given_back(make_rig):
    rig = await make_rig()
    rig.link.owned = True
    await rig.auto()
    rig.link.owned, written, beats = False, len(rig.link.written), rig.link.beats
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "somebody else holds the plant" in rig.reason
    assert len(rig.link.written) == written
    await rig.cycle(2)
    assert len(rig.link.written) == written
    assert rig.link.beats <= beats + 3
    assert rig.link.layer.mode is PlantMode.REMOTE


async def test_a_grant_that_is_not_said_any_more_is_none(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.hidden, written = True, len(rig.link.written)
    await rig.cycle()
    assert rig.mode is Mode.AUTO
    assert len(rig.link.written) == written, "nothing is written on a guess"
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "handshake.granted says nothing that can be used" in rig.reason
    assert "handshake" in rig.alarms()
    assert "handshake.granted says nothing" in await rig.loop.set_mode("AUTO", "ann")


async def test_a_handshake_that_does_not_fit_is_never_auto(make_rig):
    rig = await make_rig()
    fault = "handshake.alive.node (a:i=4003): it reads text"
    await rig.cycle(3)
    rig.link.handshake_faults = (fault,)
    await rig.cycle()
    assert fault in await rig.loop.set_mode("AUTO", "ann")
    rig.link.handshake_faults = ()
    await rig.auto()
    rig.link.handshake_faults = (fault,)
    await rig.cycle()
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert fault in rig.reason


# Operator limits and the way to the safe side -------------------------------------------------------------------------


@given(
    low=st.floats(0, 75),
    width=st.floats(1, 80),
    now=st.floats(0, 80),
    wanted=st.floats(0, 80),
    ramped=st.integers(0, 30),
)
def test_no_operator_limit_bars_the_way_to_safety(make_spec, low, width, now, wanted, ramped):
    clamp = MoveClamp(make_spec(), limit_ramp=0.2)
    clamp.ask("U", low, min(80.0, low + width))
    for _ in range(ramped):
        clamp.ramp({"U": now})
    move = clamp.apply({"U": wanted}, {"U": now}, to_safety=True)["U"]
    assert move == min(max(wanted, now - 8.0), now + 8.0)


def test_limits_that_would_drive_an_mv_away_from_its_safe_value_are_refused(make_spec):
    clamp = MoveClamp(make_spec(), limit_ramp=0.05)
    clamp.ramp({"U": 30.0})
    assert "away from its safe value 0" in clamp.ask("U", 40.0, 60.0)
    assert clamp.asked["U"] == (0.0, 80.0)
    assert clamp.ask("U", 10.0, 60.0) == "", "no further away than it is"
    assert clamp.ask("U", 0.0, 20.0) == "", "towards it"


@pytest.mark.parametrize("levels", [{"levels": (0.0, 40.0, 80.0)}, {"step": 8.0}])
@given(wanted=st.floats(-100, 200), at=st.integers(0, 10), low=st.floats(0, 40), width=st.floats(40, 80))
def test_a_discrete_mv_gets_one_of_its_values(make_spec, levels, wanted, at, low, width):
    spec = make_spec()
    tags = [t.model_dump() for t in spec.tags]
    tags[3]["move"] |= levels | {"rate_per_s": 10.0}
    spec = make_spec(tags=tags)
    values = spec.mvs[0].move.discrete
    clamp = MoveClamp(spec, limit_ramp=1.0)
    now = values[at % len(values)]
    clamp.ask("U", low, min(80.0, low + width))
    clamp.ramp({"U": now})
    assert clamp.apply({"U": wanted}, {"U": now})["U"] in values
    safe = clamp.apply({"U": 0.0}, {"U": now}, to_safety=True)["U"]
    assert safe in values
    assert safe < now or now == 0.0


async def test_hostile_limits_do_not_hold_a_recovery_back(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(60.0))
    rig = await make_rig(controller)
    await rig.auto()
    await rig.cycle(6)
    assert rig.loop.set_limit("U", 59.0, 61.0, "mallory") == ""
    await rig.cycle(3)
    controller.answer = lambda o: answer_with(20.0, status=(Status.RECOVERY,), violation=np.array([0.5]))
    await rig.cycle()
    assert rig.link.written[-1]["U"] == pytest.approx(60.0 - 8.0)
    controller.answer = lambda o: answer_with(60.0, status=(Status.RECOVERY,), violation=np.array([5.0]))
    await rig.cycle()
    assert rig.link.written[-1]["U"] == pytest.approx(60.0 - 16.0), "safe"


async def test_hostile_limits_do_not_hold_the_fallback_back(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(60.0))
    rig = await make_rig(controller, {"supervisor": {"fallback": "safe"}})
    await rig.auto()
    await rig.cycle(6)
    assert rig.loop.set_limit("U", 59.0, 61.0, "mallory") == ""
    controller.answer = lambda o: answer_with(60.0, status=(Status.INFEASIBLE,))
    await rig.cycle(10)
    assert rig.link.written[-1]["U"] == 0.0
    assert rig.loop.state().limits == {"U": (59.0, 61.0)}


# Fallbacks ------------------------------------------------------------------------------------------------------------


def without_loops(make_spec, **move):
    """A plant whose own layer leaves the MV where we left it."""
    tags = [t.model_dump() for t in make_spec().tags]
    tags[3]["move"] |= move
    return make_spec(tags=tags, regulatory={})


async def test_set_points_go_back_at_their_rate_before_the_plant_is_given_back(
    make_rig, make_spec, answer_with, scripted
):
    controller = scripted(lambda o: answer_with(60.0))
    rig = await make_rig(controller, spec=without_loops(make_spec))
    await rig.auto()
    await rig.cycle(6)
    assert rig.link.written[-1]["U"] == pytest.approx(60.0)
    controller.answer = lambda o: answer_with(60.0, status=(Status.INFEASIBLE,))
    written = len(rig.link.written)
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "go back to where they stood, then the plant has them" in rig.reason
    assert rig.link.layer.mode is PlantMode.REMOTE
    await rig.cycle(6)
    moves = [w["U"] for w in rig.link.written[written:]]
    assert moves == pytest.approx([52.0, 44.0, 36.0, 30.0, *[30.0] * (len(moves) - 4)])
    assert rig.link.layer.mode is PlantMode.LOCAL
    assert rig.link.layer.outputs[0, 0] == pytest.approx(30.0)


async def test_no_set_point_is_put_back_where_nothing_can_be_seen(make_rig, make_spec, answer_with, scripted):
    rig = await make_rig(scripted(lambda o: answer_with(60.0)), spec=without_loops(make_spec))
    await rig.auto()
    await rig.cycle(6)
    rig.link.dead_bus = True
    await rig.cycle(2)
    assert rig.mode is Mode.SHED
    assert rig.link.layer.mode is PlantMode.LOCAL, "given back at once"


async def test_a_plant_that_takes_the_mvs_while_they_go_back_has_them(make_rig, make_spec, answer_with, scripted):
    controller = scripted(lambda o: answer_with(60.0))
    rig = await make_rig(controller, spec=without_loops(make_spec))
    await rig.auto()
    await rig.cycle(6)
    assert await rig.loop.set_mode("SHED", "ann") == ""
    await rig.cycle()
    rig.link.layer.request_mode(PlantMode.LOCAL, rig.clock.wall_time())
    written = len(rig.link.written)
    await rig.cycle(3)
    assert len(rig.link.written) == written
    assert not rig.loop.supervisor.holds_plant


@pytest.mark.parametrize(("fallback", "goal"), [("before_auto", 30.0), ("safe", 0.0), (44.0, 44.0), ("hold", 60.0)])
async def test_each_mv_has_its_own_fallback_where_no_layer_takes_it(
    make_rig, make_spec, answer_with, scripted, fallback, goal
):
    controller = scripted(lambda o: answer_with(60.0))
    spec = without_loops(make_spec, fallback=fallback)
    rig = await make_rig(controller, {"supervisor": {"fallback": "moves"}}, spec)
    await rig.auto()
    await rig.cycle(6)
    controller.answer = lambda o: answer_with(60.0, status=(Status.INFEASIBLE,))
    await rig.cycle(12)
    assert rig.mode is Mode.SHED
    assert rig.link.layer.outputs[0, 0] == pytest.approx(goal)
    assert rig.link.layer.mode is PlantMode.REMOTE
    assert await rig.loop.set_mode("OFF", "ann") == ""
    assert rig.link.layer.mode is PlantMode.LOCAL


def test_what_stood_before_auto_is_kept_until_a_person_has_had_a_say(make_spec):
    fallback = Fallback(without_loops(make_spec), ControllerConfig().supervisor)
    fallback.enter({"U": 30.0})
    fallback.begin(Cause.LINK, {"U": 55.0})
    fallback.enter({"U": 55.0})
    assert fallback.before_auto == {"U": 30.0}, "it stands where we left it"
    fallback.begin(Cause.LINK, {"U": 50.0})
    fallback.enter({"U": 20.0})
    assert fallback.before_auto == {"U": 20.0}, "somebody moved it since"
    fallback.leave()
    fallback.enter({"U": 25.0})
    assert fallback.before_auto == {"U": 25.0}
    assert math.isnan(fallback.before_auto.get("V", math.nan))
