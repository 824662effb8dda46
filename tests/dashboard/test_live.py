"""What the background polls hold while nobody answers."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from dashboard.live import LiveSource
from plant.clock import ScaledClock
from plant.opcua.server import PlantServer


@pytest.fixture
def nobody():
    """An endpoint whose port is reserved and never answered."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"opc.tcp://127.0.0.1:{s.getsockname()[1]}/nobody"


def test_who_does_not_answer_is_named_and_asked_again_without_blocking_the_page(spec, nobody):
    live = LiveSource(spec, nobody, nobody)
    try:
        live.wait_for_answer(20.0)
        assert live.controller is None
        assert nobody in live.controller_error
        end = time.monotonic() + 20
        while not live.plant_error:
            assert time.monotonic() < end, "the plant's silence must be told"
            time.sleep(0.02)
        assert live.plant is None
        assert nobody in live.plant_error
        live.refresh()
    finally:
        live.close()
    live.close()


async def test_a_plant_that_answers_and_stands_still_is_silent_and_its_clock_is_watched(make_spec, heater, nobody):
    """A server whose scan has stopped answers as ever: only what it says tells."""
    spec = make_spec(scan_time_s=2.5)
    async with PlantServer(spec, heater, ScaledClock(10.0), by_hand=True) as server:
        live = LiveSource(spec, nobody, server.endpoint)
        try:
            await scanning(server, lambda: live.plant_news.fresh, "values that change are news")
            assert live.clock_step is None
            await until(lambda: live.plant_news.silent, "values that stand are none")
            assert live.plant_error == ""
            assert live.plant is not None
            server._time_s -= 18_000
            await scanning(server, lambda: live.clock_step is not None, "the clock was set back")
            assert live.clock_step is not None
            assert live.clock_step.by_s == pytest.approx(-18_000, abs=400)
            await scanning(server, lambda: live.plant_news.fresh, "older stamps are news too")
        finally:
            await asyncio.to_thread(live.close)


async def scanning(server, condition, what):
    async with asyncio.TaskGroup() as group:
        scans = group.create_task(scan_forever(server))
        try:
            await until(condition, what)
        finally:
            scans.cancel()


async def scan_forever(server):
    while True:
        await server.scan()
        await asyncio.sleep(0.25)  # the pace of its clock, which nobody set with its stamps


async def until(condition, what, deadline_s=30.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.05)
