"""Plant time and wall time stay apart, and each clock keeps its promise of when it returns."""

from __future__ import annotations

import asyncio
import time

import pytest

from plant.clock import LockStepClock, ScaledClock


def test_scaled_clock_scales_plant_time_only() -> None:
    clock = ScaledClock(speed=1000.0, start=5000.0)
    plant, wall = clock.plant_time(), clock.wall_time()
    until = time.monotonic() + 5.0
    while clock.wall_time() - wall < 0.02 and time.monotonic() < until:
        pass
    lived = clock.wall_time() - wall
    passed = clock.plant_time() - plant
    assert passed >= 1000.0 * lived * 0.99
    assert clock.speed == 1000.0
    assert plant >= 5000.0


def test_scaled_clock_starts_now_by_default() -> None:
    assert abs(ScaledClock().plant_time() - time.time()) < 60.0


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_scaled_clock_refuses_a_speed_that_is_not_positive(speed: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        ScaledClock(speed)


async def test_scaled_clock_never_wakes_early() -> None:
    clock = ScaledClock(speed=2000.0, start=0.0)
    for due in (10.0, 35.0, 36.0):
        await asyncio.wait_for(clock.sleep_until(due), 30.0)
        assert clock.plant_time() >= due


async def test_scaled_clock_does_not_wait_for_the_past() -> None:
    clock = ScaledClock(speed=1e-6, start=100.0)
    await asyncio.wait_for(clock.sleep_until(99.0), 30.0)


async def test_lock_step_clock_moves_only_when_waited_for() -> None:
    clock = LockStepClock(start=10.0)
    assert clock.plant_time() == clock.plant_time() == 10.0
    await clock.sleep_until(1e6)
    assert clock.plant_time() == 1e6
    await clock.sleep_until(5.0)
    assert clock.plant_time() == 1e6, "time does not run backwards"
    assert abs(clock.wall_time() - time.monotonic()) < 60.0


async def test_lock_step_clock_lets_others_run() -> None:
    clock, ran = LockStepClock(), asyncio.Event()

    async def other() -> None:
        ran.set()

    task = asyncio.create_task(other())
    await clock.sleep_until(1.0)
    assert ran.is_set()
    await task
