"""What AUTO may believe: old readings behind a live server, clocks that are set, one odd tag, and our own stalls."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from controllers.contracts import Mode
from controllers.runtime.config import QualityConfig
from controllers.runtime.freshness import Freshness, Repeats, log_chance_of_repeat, unwatched
from plant.link import Quality, Receipt, Sample, Value

STALL_S = 20.0  # longer than the plant's watchdog waits


def reading(time_s: float, **values: float) -> Sample:
    return Sample(time_s, {name: Value(v, Quality.GOOD, time_s) for name, v in values.items()})


def test_a_coarse_reading_is_not_taken_for_a_frozen_one(make_spec):
    tags = [t.model_dump() | ({"resolution": 0.05} if t.name in "TD" else {}) for t in make_spec().tags]
    coarse = make_spec(tags=tags)
    assert log_chance_of_repeat(coarse.tag("T")) == pytest.approx(-1.27, abs=0.01)
    assert Repeats(coarse, QualityConfig()).limits["T"] == 11, "so many equal readings are no chance any more"
    repeats, fine = Repeats(coarse, QualityConfig()), Repeats(make_spec(), QualityConfig())
    for k in range(4):
        for judge in (repeats, fine):
            judge.follow(reading(4.0 * k, T=50.0, D=0.1, F=1.0, U=30.0))
    assert (repeats.together, fine.together) == (0, 3)


def test_a_tag_coarser_than_its_noise_says_nothing(make_spec):
    tags = [t.model_dump() | ({"resolution": 1.0} if t.name in "TD" else {}) for t in make_spec().tags]
    repeats = Repeats(make_spec(tags=tags), QualityConfig())
    assert repeats.limits == {}
    for k in range(40):
        repeats.follow(reading(4.0 * k, T=50.0, D=0.1, F=1.0, U=30.0))
    assert repeats.together == 0


def test_a_slow_tag_repeats_between_its_values(make_spec):
    tags = [t.model_dump() | ({"period_s": 40.0} if t.name == "T" else {}) for t in make_spec().tags]
    assert Repeats(make_spec(tags=tags), QualityConfig()).limits["T"] == 50


def test_a_scan_that_stands_is_named(make_spec):
    config = QualityConfig()
    repeats = Repeats(make_spec(), config)
    fresh = Freshness(make_spec(), config, repeats)
    assert fresh.judge(0, 0.0).standing == ""
    assert not fresh.judge(1, 4.0).lasting
    assert fresh.judge(2, 8.0).lasting
    assert "newer than 8 s" in fresh.judge(2, 8.0).standing


def test_what_is_declared_stale_early_sheds_early_unless_the_server_may_be_busy(make_spec):
    tags = [t.model_dump() | ({"stale_s": 8.0} if t.name == "T" else {}) for t in make_spec().tags]
    spec, config = make_spec(tags=tags), QualityConfig()
    assert Freshness(spec, config, Repeats(spec, config)).judge(1, 4.0).lasting, "the next look would be too late"
    assert not Freshness(make_spec(), config, Repeats(spec, config)).judge(1, 4.0).lasting
    assert not Freshness(spec, config, Repeats(spec, config), speed=20.0).judge(1, 4.0).lasting


async def test_a_plant_whose_scan_nothing_watches_is_doubted(make_rig, make_spec):
    tags = [t.model_dump() | {"noise": 0.0, "stamps": "on_change"} for t in make_spec().tags]
    handshake = make_spec().handshake.model_dump() | {"alive": None}
    assert unwatched(make_spec(tags=tags)) == ""
    rig = await make_rig(spec=make_spec(tags=tags, handshake=handshake))
    await rig.cycle(3)
    assert "nothing tells whether the plant's scan is alive" in await rig.loop.set_mode("AUTO", "ann")
    assert rig.loop.override("ann", "a clean simulator") == ""
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def shed_without_a_move(rig, text: str, samples: int) -> None:
    """It sheds by the given sample, says why, and writes nothing from then on."""
    written = len(rig.link.written)
    await rig.cycle(samples)
    assert rig.mode is Mode.SHED, rig.reason
    assert text in rig.reason
    assert len(rig.link.written) <= written + samples - 1
    written = len(rig.link.written)
    await rig.cycle(3)
    assert len(rig.link.written) == written
    assert "AUTO is not possible" in await rig.loop.set_mode("AUTO", "ann")


async def test_dead_field_bus_behind_a_live_server_sheds(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.dead_bus = True  # the heartbeat runs on, values and stamps stop
    await shed_without_a_move(rig, "every source time stands", 2)
    assert "scan" in rig.alarms()
    rig.link.dead_bus = False
    await rig.cycle(3)
    assert "scan" not in rig.alarms()
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_values_that_freeze_under_running_stamps_shed(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.frozen = True
    await shed_without_a_move(rig, "noisy readings stand still", 1)


@pytest.mark.parametrize("shift_s", [-3600.0, 3600.0])
async def test_a_plant_clock_that_is_set_sheds_and_settles(make_rig, shift_s):
    rig = await make_rig(config={"loop": {"settle_samples": 3}})
    await rig.auto()
    rig.link.shift_s = shift_s
    written = len(rig.link.written)
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "clock was set 3600 s" in rig.reason
    assert len(rig.link.written) == written
    assert any(kind == "clock" for kind, _, _ in rig.journal.events)
    assert rig.loop.state().time_s == pytest.approx(rig.link.time_s + shift_s, abs=5.0), (
        "the newest received is followed"
    )
    assert "until it has settled" in await rig.loop.set_mode("AUTO", "ann")
    await rig.cycle(4)
    assert "clock" not in rig.alarms()
    assert await rig.loop.set_mode("AUTO", "ann") == ""


async def test_a_clock_that_is_set_starts_a_new_history(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(30.0))
    rig = await make_rig(controller)
    await rig.cycle(5)
    resets = controller.resets
    rig.link.shift_s = 3600.0
    await rig.cycle(2)
    assert controller.resets == resets + 1


async def test_one_tag_an_hour_ahead_is_the_odd_one(make_rig):
    rig = await make_rig()
    await rig.auto()
    rig.link.faults["D"] = lambda v: replace(v, time_s=v.time_s + 3600.0)
    await rig.cycle(3)
    assert rig.mode is Mode.AUTO
    assert {a for a in rig.alarms() if a.startswith("input")} == {"input:D"}
    rig.link.faults["T"] = lambda v: replace(v, time_s=v.time_s + 3600.0)
    await rig.cycle()
    assert "T is stale: its source time is 3600 s ahead" in rig.reason


async def test_what_is_stamped_on_change_holds_while_the_scan_lives(make_rig):
    rig = await make_rig()
    rig.link.faults["U"] = lambda v: replace(v, time_s=v.time_s - 40 * 86400.0)
    await rig.auto()
    await rig.cycle(3)
    assert rig.mode is Mode.AUTO


async def test_after_a_stall_nothing_is_written(make_rig):
    rig = await make_rig()
    await rig.auto()
    read = rig.link.read

    async def stopped():
        rig.clock.stand(STALL_S)  # the whole process stands, as under SIGSTOP
        return await read()

    rig.link.read, written = stopped, len(rig.link.written)
    await rig.cycle()
    rig.link.read = read
    assert rig.mode is Mode.SHED
    assert "stood still" in rig.reason
    await rig.cycle(3)
    assert len(rig.link.written) == written


async def test_a_stall_between_reading_and_writing_writes_nothing(make_rig, answer_with, scripted):
    controller = scripted(lambda o: answer_with(40.0))
    rig = await make_rig(controller)
    await rig.auto()
    running = asyncio.get_running_loop()

    def stop(_):
        running.call_soon_threadsafe(rig.clock.stand, STALL_S)
        return answer_with(41.0)

    controller.answer, written = stop, len(rig.link.written)
    await rig.cycle()
    controller.answer = lambda o: answer_with(40.0)
    assert rig.mode is Mode.SHED
    assert "stood still" in rig.reason
    assert len(rig.link.written) == written


async def test_a_controller_that_stood_still_does_not_take_the_plant_from_the_next_one(make_rig):
    rig = await make_rig()
    await rig.auto()
    read, asked = rig.link.read, []

    async def request(mode):
        asked.append(mode)
        return Receipt()

    rig.link.request_mode = request

    async def stopped():
        rig.clock.stand(STALL_S)
        rig.link.owned = False  # meanwhile another has it
        return await read()

    rig.link.read = stopped
    await rig.cycle()
    rig.link.read = read
    assert rig.mode is Mode.SHED
    await rig.cycle(2)
    assert asked == [], "it is not ours to give back"
