"""Zones, prices and scheduled changes: what may be asked for, by whom it is recorded, and what a restart keeps."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from asyncua import Client, ua

from controllers.contracts import Status
from controllers.runtime.memory import Memory
from controllers.runtime.nodes import ControllerServer
from controllers.runtime.targets import Change, TargetBoard
from plant.controller_nodes import Variable, controller_node_id
from plant.opcua.controller_client import ControllerClient, Scheduled

WANTS = {
    "zones": [{"tag": "T", "low": 45.0, "high": 60.0, "limits": [30.0, 80.0]}, {"tag": "F", "high": 5.0, "limits": [0.0, 8.0]}],
    "prices": [{"tag": "U", "per_unit": 2.0, "currency": "EUR"}],
}  # fmt: skip
START_S = 1_700_000_000.0


@pytest.fixture
def spec(make_spec):
    return make_spec(**WANTS)


def test_zones_and_prices_are_those_of_the_plant_until_somebody_changes_them(spec):
    board = TargetBoard(spec)
    assert board.zones == {"T": (45.0, 60.0), "F": (None, 5.0)}
    np.testing.assert_equal(board.zones_now(), [[45.0, 60.0], [np.nan, 5.0]])
    np.testing.assert_equal(board.prices_now(), [2.0])
    assert board.set_zone("T", 50.0, math.nan) == ""
    assert board.set_cost("U", -1.0) == ""
    np.testing.assert_equal(board.zones_now(), [[50.0, np.nan], [np.nan, 5.0]])
    np.testing.assert_equal(board.prices_now(), [-1.0])


def test_a_plant_without_zones_and_prices_has_none(make_spec):
    board = TargetBoard(make_spec())
    assert board.zones_now() is None
    assert board.prices_now() is None
    assert board.set_zone("T", 1.0, 2.0) == "T has no zone; zones: none"
    assert board.set_cost("U", 1.0) == "U has no price; prices: none"


@pytest.mark.parametrize(
    ("sides", "refusal"),
    [
        ((60.0, 50.0), "low must be below high"),
        ((50.0, 50.0), "low must be below high"),
        ((20.0, 50.0), "low 20 of the zone of T is outside [30, 80] degC"),
        ((50.0, 81.0), "high 81 of the zone of T is outside [30, 80] degC"),
        ((-math.inf, 50.0), "outside"),
        ((math.nan, math.nan), "needs low, high or both"),
    ],
)
def test_a_zone_that_is_none_is_refused_and_the_old_one_stands(spec, sides, refusal):
    board = TargetBoard(spec)
    assert refusal in board.set_zone("T", *sides)
    assert board.zones["T"] == (45.0, 60.0)


def test_a_price_must_be_a_number(spec):
    board = TargetBoard(spec)
    assert "must be a number" in board.set_cost("U", math.nan)
    assert board.prices == {"U": 2.0}


def test_scheduled_targets_are_seen_ahead_and_zones_change_when_they_are_due(spec):
    board = TargetBoard(spec)
    assert board.schedule(Change(START_S + 8.0, "T", 60.0)) == ""
    assert board.schedule(Change(START_S + 8.0, "T", (50.0, 70.0))) == ""
    assert "outside" in board.schedule(Change(START_S + 8.0, "T", 90.0))
    assert board.due(START_S) == []
    assert board.ahead(START_S, 4)[0, :, 0].tolist() == [50.0, 60.0, 60.0, 60.0]
    assert board.zones["T"] == (45.0, 60.0)
    assert {c.of for c in board.due(START_S + 8.0)} == {("T", False), ("T", True)}
    assert board.zones["T"] == (50.0, 70.0)
    assert board.values["T"] == 60.0
    assert board.coming == ()


def test_without_preview_a_change_is_seen_when_it_is_due(spec):
    board = TargetBoard(spec, preview=False)
    board.schedule(Change(START_S + 4.0, "T", 60.0))
    assert board.ahead(START_S, 2)[0, :, 0].tolist() == [50.0, 50.0]


def test_what_a_file_said_once_does_not_undo_what_a_person_did_since(spec):
    board = TargetBoard(spec)
    rows = [Change(START_S - 20.0, "T", 55.0), Change(START_S - 10.0, "T", 56.0), Change(START_S + 100.0, "T", 57.0)]
    board.file(rows)
    assert board.due(START_S) == [rows[1]], "of what is due at once only the last"
    assert board.set("T", 70.0) == ""
    board.file(rows)
    assert board.due(START_S + 4.0) == []
    assert board.values["T"] == 70.0
    again = TargetBoard(spec)
    again.restore_taken(board.taken)
    again.set("T", 70.0)
    again.file(rows)
    again.due(START_S + 4.0)
    assert again.values["T"] == 70.0
    again.due(START_S + 100.0)
    assert again.values["T"] == 57.0


# In the loop ----------------------------------------------------------------------------------------------------------


async def test_the_controller_is_told_of_zones_and_prices_at_each_sample(make_rig, spec, answer_with, scripted):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller, spec=spec)
    await rig.cycle(2)
    np.testing.assert_equal(controller.targets.zones, [[45.0, 60.0], [np.nan, 5.0]])
    assert rig.loop.asking.set_zone("T", 48.0, math.nan, "ann") == ""
    assert rig.loop.asking.set_cost("U", 3.5, "ann") == ""
    await rig.cycle()
    np.testing.assert_equal(controller.targets.zones, [[48.0, np.nan], [np.nan, 5.0]])
    np.testing.assert_equal(controller.targets.prices, [3.5])
    assert rig.journal.audits[-2:] == [
        ("ann", "SetZone", "T", "[48.0, None]", True, ""), ("ann", "SetCost", "U", "3.5", True, "")
    ]  # fmt: skip


async def test_a_plant_without_wants_of_the_kind_tells_none(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller)
    await rig.cycle(2)
    assert controller.targets.zones is None
    assert controller.targets.prices is None


async def test_who_scheduled_a_change_is_recorded_and_that_it_came(make_rig, spec):
    rig = await make_rig(spec=spec)
    await rig.cycle(2)
    now = rig.clock.plant_time()
    assert rig.loop.asking.schedule_target("T", 60.0, f"{now + 8.0}", "ann") == ""
    assert "is in the past; set it now instead" in rig.loop.asking.schedule_target("T", 60.0, f"{now - 8.0}", "ann")
    assert "has no time zone" in rig.loop.asking.schedule_target("T", 60.0, "2030-01-01T10:00", "ann")
    assert "is no time" in rig.loop.asking.schedule_target("T", 60.0, "tomorrow", "ann")
    assert "outside [30, 80] degC" in rig.loop.asking.schedule_target("T", 90.0, f"{now + 8.0}", "ann")
    assert [(c.tag, c.asked) for c in rig.loop.state().schedule] == [("T", 60.0)]
    await rig.cycle(3)
    assert rig.loop.state().targets == {"T": 60.0}
    assert ("schedule", "SetTarget", "T", "60.0", True, "") in rig.journal.audits
    assert rig.loop.asking.schedule_target("T", 65.0, "2100-01-01T10:00Z", "ann") == ""
    assert rig.loop.asking.unschedule("T", "ann") == ""
    assert rig.loop.asking.unschedule("T", "ann") == "nothing is scheduled by hand for T"
    assert rig.loop.state().schedule == ()


async def test_a_restart_keeps_zones_prices_and_scheduled_zones(make_rig, spec, tmp_path):
    path = tmp_path / "heater.controller.json"
    memory = Memory(path, "heater")
    rig = await make_rig(memory=memory, spec=spec)
    await rig.cycle(2)
    assert rig.loop.asking.set_zone("T", math.nan, 58.0, "ann") == ""
    assert rig.loop.asking.set_cost("U", -4.0, "ann") == ""
    assert rig.loop.targets.schedule(Change(rig.clock.plant_time() + 1e6, "F", (1.0, 2.0))) == ""
    await rig.cycle()
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)
    memory.close()
    rig = await make_rig(memory=Memory(path, "heater"), spec=spec)
    await rig.cycle(2)
    assert rig.loop.state().zones == {"T": (None, 58.0), "F": (None, 5.0)}
    assert rig.loop.state().prices == {"U": -4.0}
    assert [c.asked for c in rig.loop.targets.by_hand] == [(1.0, 2.0)]


async def test_a_decision_is_recorded_with_what_was_asked_for_and_what_holds_it(make_rig, spec, answer_with, scripted):
    kept = []
    said = {"why": ("T ends short",), "active": ("production is held by T",), "rest": np.array([[25.0]])}
    rig = await make_rig(scripted(lambda o: answer_with(30.0, status=(Status.TIGHT,), **said)), spec=spec)
    rig.journal.decision = lambda *a: kept.append(a)
    await rig.cycle(2)
    _, _, status, _, _, _, data, *_ = kept[-1]
    assert status == "TIGHT"
    assert data["targets"] == {"T": 50.0}
    assert data["zones"] == {"T": [45.0, 60.0], "F": [None, 5.0]}
    assert data["prices"] == {"U": 2.0}
    assert data["rest"] == {"U": 25.0}
    assert (data["why"], data["active"]) == ("T ends short", "production is held by T")
    state = rig.loop.state()
    assert (state.rest, state.why, state.active) == ({"U": 25.0}, "T ends short", "production is held by T")
    assert await rig.loop.set_mode("OFF", "ann") == ""
    await rig.cycle()
    state = rig.loop.state()
    assert (state.rest, state.why, state.active) == ({}, "", ""), "what is no longer planned explains nothing"


async def test_what_is_asked_for_is_seen_and_set_over_the_node_set(make_rig, spec):
    rig = await make_rig(spec=spec)
    await rig.cycle(2)
    at_s = rig.clock.plant_time() + 1e6
    async with ControllerServer(rig.loop, "opc.tcp://127.0.0.1:0/homeostat/controller", publish_s=0.1) as served:
        with ControllerClient(served.endpoint) as client:
            assert await asyncio.to_thread(client.set_zone, "T", 46.0, math.nan, "ann") == ""
            assert "low must be below high" in await asyncio.to_thread(client.set_zone, "T", 60.0, 50.0, "ann")
            assert await asyncio.to_thread(client.set_cost, "U", 2.5, "ann") == ""
            assert "no price" in await asyncio.to_thread(client.set_cost, "T", 2.5, "ann")
            assert await asyncio.to_thread(client.schedule_target, "T", 60.0, f"{at_s}", "ann") == ""
            shown = await asyncio.to_thread(client.snapshot)
            assert shown.zones["T"][0] == 46.0
            assert math.isnan(shown.zones["T"][1])
            assert shown.prices == {"U": 2.5}
            assert shown.schedule == (Scheduled(at_s, "T", 60.0),)
            assert await asyncio.to_thread(client.unschedule, "T", "ann") == ""
        async with Client(served.endpoint) as client:
            parent = client.get_node("ns=2;s=Controller")
            nothing = ua.Variant(None, ua.VariantType.Null)
            assert await parent.call_method("2:SetZone", "T", nothing, 55.0, "bob") == ""
            zones = await client.get_node(controller_node_id(Variable.ZONES)).read_value()
            assert '"T": [null, 55.0]' in zones
            with pytest.raises(ua.UaStatusCodeError):
                await parent.call_method("2:SetZone", "T", "open", 55.0, "bob")
            with pytest.raises(ua.UaStatusCodeError):
                await parent.call_method("2:SetCost", "U", nothing, "bob")
