"""Partial service: what drops out alone is gone on without, what cannot be done without sheds, and every tag has its word."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from controllers.contracts import Mode
from controllers.runtime.nodes import node_values
from plant.controller_nodes import Variable
from plant.link import Quality, Receipt


@pytest.fixture
def two_mvs(make_spec):
    """two_mvs(**move): the heater with a second MV, V, that does nothing; `move` completes V's."""

    def make(**move):
        tags = [t.model_dump() for t in make_spec().tags]
        v = {"limits": (0.0, 10.0), "rate_per_s": 1.0, "safe": 0.0, "optional": True, **move}
        tags.append(
            {**tags[3], "name": "V", "range": (0.0, 10.0), "nominal": 5.0, "node_id": "ns=2;s=heater.V", "move": v}
        )
        return make_spec(tags=tags)

    return make


def moves(answer_with, u: float, v: float):
    return answer_with(u, moves=np.array([[u, v]]), plan=np.tile([u, v], (1, 4, 1)))


def words(rig) -> dict[str, str]:
    return json.loads(node_values(rig.loop.state())[Variable.TAG_STATUS])


def bad(v):
    return replace(v, value=math.nan, quality=Quality.BAD, reason="BadSensorFailure")


async def test_an_optional_mv_whose_loop_leaves_is_not_written_and_comes_back_by_itself(
    make_rig, two_mvs, answer_with, scripted
):
    controller = scripted(lambda o: moves(answer_with, 30.0, 5.0))
    rig = await make_rig(controller, spec=two_mvs(mode={"node": "ns=2;s=V.Mode", "accepts": ["RCAS"]}))
    rig.link.loops = {"V": True}
    await rig.auto()
    assert rig.link.written[-1].keys() == {"U", "V"}
    rig.link.loops = {"V": False}
    await rig.cycle()
    assert rig.mode is Mode.AUTO
    assert rig.link.written[-1].keys() == {"U"}
    assert controller.targets.dropped.tolist() == [False, True]
    assert controller.targets.move_high.tolist() == [80.0, 10.0]
    assert words(rig)["V"] == "DROPPED"
    assert "dropped:V" in rig.alarms()
    rig.link.loops = {"V": True}
    await rig.cycle()
    assert rig.link.written[-1].keys() == {"U"}
    await rig.cycle()
    assert rig.link.written[-1].keys() == {"U", "V"}
    assert controller.targets.dropped is None
    assert words(rig)["V"] == "ON"


async def test_an_mv_that_somebody_moved_waits_for_a_person(make_rig, two_mvs, answer_with, scripted):
    rig = await make_rig(scripted(lambda o: moves(answer_with, 30.0, 5.0)), spec=two_mvs())
    await rig.auto()
    rig.link.faults["V"] = lambda v: replace(v, value=9.0)
    await rig.cycle(3)
    assert rig.mode is Mode.AUTO
    assert rig.link.written[-1].keys() == {"U"}
    assert "somebody else moves it" in rig.loop.supervisor.partial.dropped["V"]
    rig.link.faults.clear()
    await rig.cycle(4)
    assert rig.link.written[-1].keys() == {"U"}
    assert await rig.loop.set_mode("AUTO", "ann") == ""
    await rig.cycle()
    assert rig.link.written[-1].keys() == {"U", "V"}


async def test_an_optional_mv_that_is_refused_drops_out_alone(make_rig, two_mvs, answer_with, scripted):
    rig = await make_rig(scripted(lambda o: moves(answer_with, 30.0, 5.0)), spec=two_mvs())
    await rig.auto()
    write = rig.link.write

    async def refuse(asked):
        receipt = await write(asked)
        return Receipt({"V": "BadUserAccessDenied"}) if "V" in asked else receipt

    rig.link.write = refuse
    await rig.cycle(3)
    assert rig.mode is Mode.AUTO
    assert rig.link.written[-1].keys() == {"U"}


@pytest.mark.parametrize("loops", [{"V": False}, {}])
async def test_an_mv_that_is_not_optional_sheds_with_its_loop(make_rig, two_mvs, answer_with, scripted, loops):
    spec = two_mvs(optional=False, mode={"node": "ns=2;s=V.Mode", "accepts": ["RCAS"]})
    rig = await make_rig(scripted(lambda o: moves(answer_with, 30.0, 5.0)), spec=spec)
    rig.link.loops = {"V": True}
    await rig.auto()
    rig.link.loops = loops
    await rig.cycle(2)
    assert rig.mode is Mode.SHED
    assert "the loop under V does not" in rig.reason


async def test_with_every_mv_gone_there_is_nothing_to_control(make_rig, make_spec, answer_with, scripted):
    tags = [t.model_dump() for t in make_spec().tags]
    tags[3]["move"]["optional"] = True
    rig = await make_rig(scripted(lambda o: answer_with(30.0)), spec=make_spec(tags=tags))
    await rig.auto()
    rig.link.loops = {"U": False}
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "every MV has dropped out" in rig.reason


async def test_a_lost_cv_is_held_predicted_and_left_out(make_rig, make_spec, answer_with, scripted):
    tags = [t.model_dump() | ({"critical": False} if t.name == "T" else {}) for t in make_spec().tags]
    seen = []
    controller = scripted(lambda o: seen.append(float(o.measured[0, 0])) or answer_with(30.0))
    config = {"quality": {"hold_samples": 2, "predict_samples": 3}}
    zones = [{"tag": "T", "low": 40.0, "limits": (30.0, 80.0)}]
    rig = await make_rig(controller, config, make_spec(tags=tags, guardrails=[], zones=zones))
    controller.answer = lambda o: (
        seen.append(float(o.measured[0, 0]))
        or answer_with(30.0, margins=np.zeros((1, 4, 0)), calibrated=np.zeros((4, 0)), guardrails=())
    )
    await rig.auto()
    rig.link.faults["T"] = bad
    told, left_out, zoned = [], [], []
    for _ in range(7):
        await rig.cycle()
        told.append(words(rig)["T"])
        left_out.append(controller.targets.left_out is not None and bool(controller.targets.left_out[0]))
        zoned.append(controller.targets.zones[0, 0])
    assert told == ["HELD"] * 2 + ["PREDICTED"] * 3 + ["BAD"] * 2
    assert left_out == [False] * 5 + [True] * 2
    assert zoned[:5] == [40.0] * 5
    assert np.isnan(zoned[5:]).all(), "nor does its zone ask for anything"
    assert all(map(math.isnan, seen[-5:]))
    assert rig.mode is Mode.AUTO
    rig.link.faults.clear()
    await rig.cycle()
    assert controller.targets.left_out is None


async def test_a_guardrail_that_can_no_longer_be_seen_sheds(make_rig, make_spec, answer_with, scripted):
    tags = [t.model_dump() | ({"critical": False} if t.name == "T" else {}) for t in make_spec().tags]
    config = {"quality": {"hold_samples": 1, "predict_samples": 2}}
    rig = await make_rig(scripted(lambda o: answer_with(30.0)), config, make_spec(tags=tags))
    await rig.auto()
    rig.link.faults["T"] = bad
    await rig.cycle(3)
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "T can no longer be seen (burns)" in rig.reason


async def test_an_mv_at_its_limit_says_so(make_rig, answer_with, scripted):
    rig = await make_rig(scripted(lambda o: answer_with(80.0)))
    await rig.auto()
    rig.loop.set_limit("U", 0.0, 40.0, "ann")
    await rig.cycle(12)
    assert words(rig)["U"] == "AT HIGH"
    assert words(rig)["T"] == "ON"


async def test_a_plant_without_guardrails_or_targets_is_run(make_rig, make_spec, answer_with, scripted):
    spec = make_spec(guardrails=[], targets=[])
    none = {"margins": np.zeros((1, 4, 0)), "calibrated": np.zeros((4, 0)), "guardrails": ()}
    rig = await make_rig(scripted(lambda o: answer_with(30.0, **none)), spec=spec)
    await rig.auto()
    await rig.cycle(2)
    assert rig.mode is Mode.AUTO
    assert rig.loop.state().margins == {}


async def test_a_plant_without_mvs_is_watched(make_rig, make_spec, answer_with, scripted):
    tags = [t.model_dump() for t in make_spec().tags if t.name != "U"]
    spec = make_spec(tags=tags, regulatory={})
    nothing = {"moves": np.zeros((1, 0)), "plan": np.zeros((1, 4, 0))}
    rig = await make_rig(scripted(lambda o: answer_with(30.0, **nothing)), spec=spec)
    await rig.cycle(4)
    assert rig.loop.state().plan_status == "OPTIMAL"
    assert "no MVs" in await rig.loop.set_mode("AUTO", "ann")
    assert rig.loop.supervisor.alarms.active("internal") is False
