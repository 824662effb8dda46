"""The recorder against real OPC UA servers: every source time once, gaps as gaps, whatever happens to the link."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Mapping

import numpy as np
import pytest

from historian import Historian, database
from historian.queries import microseconds
from historian.recorder import record
from plant.clock import LockStepClock, ScaledClock
from plant.errors import LinkError
from plant.link import PlantMode, Quality, Receipt, Sample, Value
from plant.opcua.client import OpcUaLink
from plant.opcua.server import PlantServer

START = 1_750_000_000.0


class Noisy:
    """A process whose readings never repeat."""

    batch = 1

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        self.bad = False

    def advance(self, moves, dt_s: float) -> None: ...

    def measure(self):
        T = np.nan if self.bad else 50 + self.rng.normal()
        return {"T": np.array([T]), "F": np.array([1 + 0.1 * self.rng.normal()])}


@contextlib.asynccontextmanager
async def recording(link, store, spec, **options):
    """A recorder at work in the background; ended, and everything in the database, on leaving."""
    stop = asyncio.Event()
    task = asyncio.create_task(record(link, store, spec, ScaledClock(), stop, **options))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)
        assert await asyncio.to_thread(store.flush)


async def until(condition, what: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


def seconds(store, tag: str) -> list[float]:
    return [(ts - microseconds(START)) / 1e6 for ts in store.history([tag], START - 1e5, START + 1e5)["ts"]]


def stored(store, tag: str, count: int):
    def done() -> bool:
        store.flush(0.5)
        return store.count(tag) >= count

    return done


def spans(store) -> list[tuple[str, float, float]]:
    return [
        (r["kind"], r["start_ts"] / 1e6 - START, r["end_ts"] / 1e6 - START) for r in store.runs().iter_rows(named=True)
    ]


async def test_every_source_time_is_stored_once(store, spec):
    process, told = Noisy(), []
    async with (
        PlantServer(spec, process, LockStepClock(START), by_hand=True) as server,
        OpcUaLink(spec, ScaledClock(), server.endpoint) as link,
        recording(link, store, spec, on_progress=lambda n, t: told.append((n, t)), kind="excitation") as task,
    ):
        await until(lambda: told, "the first values")
        for k in range(200):
            process.bad = 50 <= k < 60
            await server.scan()
        await until(lambda: told[-1][1] >= START + 100, "the last scan")
    expected = [0.5 * k for k in range(201)]
    for tag in ("T", "F", "U"):
        assert seconds(store, tag) == expected
    assert task.result() == told[-1][0] == 3 * 201
    bad = store.history(["T"], START, START + 200)
    assert bad["value"].null_count() == 10
    assert bad.filter(bad["value"].is_null())["quality"].to_list() == [int(Quality.BAD)] * 10
    assert spans(store) == [("excitation", 0.0, 100.0)]
    assert store.events()["kind"].to_list() == ["bad_value"], "told once, however often"


async def test_server_that_goes_and_comes_back(store, spec):
    """Nothing twice over the new connection; the gap is an event, and ends the run."""
    process = Noisy()
    async with contextlib.AsyncExitStack() as stack:
        first = PlantServer(spec, process, LockStepClock(START), by_hand=True)
        async with first:
            endpoint = first.endpoint
            link = await stack.enter_async_context(OpcUaLink(spec, ScaledClock(), endpoint, timeout_s=1.0))
            await stack.enter_async_context(recording(link, store, spec))
            await until(stored(store, "T", 1), "the first values")
            for _ in range(10):
                await first.scan()
            await until(stored(store, "T", 11), "the first stretch")
        await until(lambda: "link_down" in store.events()["kind"].to_list(), "the loss is noticed")
        async with PlantServer(spec, process, LockStepClock(START + 60.0), endpoint, by_hand=True) as second:
            await until(stored(store, "T", 12), "the plant is back")
            for _ in range(4):
                await second.scan()
            await until(stored(store, "T", 16), "the second stretch")
            await stack.aclose()
    assert seconds(store, "T") == [0.5 * k for k in range(11)] + [60 + 0.5 * k for k in range(5)]
    events = store.events().reverse()
    assert events["kind"].to_list() == ["link_down", "link_up", "gap"]
    assert events["data"].to_list()[-1] == f'{{"from_s": {START + 5}, "to_s": {START + 60}}}'
    assert events["ts"].to_list() == [microseconds(START + 5), *[microseconds(START + 60)] * 2]
    assert spans(store) == [("recorded", 0.0, 5.0), ("recorded", 60.0, 62.0)]


async def test_locked_database_delays_nothing_and_the_run_is_kept(path, spec, locked, monkeypatch):
    """The run cannot be opened while the database is locked: it is stored at its end."""
    monkeypatch.setattr(database.open_engine, "__kwdefaults__", {"busy_s": 0.2})
    process, told = Noisy(), []
    async with (
        PlantServer(spec, process, LockStepClock(START), by_hand=True) as server,
        OpcUaLink(spec, ScaledClock(), server.endpoint) as link,
    ):
        with Historian(path, spec.name) as store:
            store.register(spec)
            with locked(path):
                task = recording(link, store, spec, on_progress=lambda n, t: told.append(n))
                await task.__aenter__()
                await until(lambda: told, "the first values")
                for _ in range(20):
                    await server.scan()
                await until(lambda: told[-1] == 63, "all of them are taken")
                assert store.history(["T"], START, START + 100).is_empty()
            await task.__aexit__(None, None, None)
            assert seconds(store, "T") == [0.5 * k for k in range(21)]
            assert spans(store) == [("recorded", 0.0, 10.0)]


async def test_run_of_a_killed_recorder_is_ended(path, store, spec):
    store.open_run("recorded", START - 1000)
    store.sample("T", Value(1.0, Quality.GOOD, START - 900))
    assert store.flush()
    async with (
        PlantServer(spec, Noisy(), LockStepClock(START), by_hand=True) as server,
        OpcUaLink(spec, ScaledClock(), server.endpoint) as link,
        recording(link, store, spec),
    ):
        await until(stored(store, "F", 1), "the first values")
    assert spans(store) == [("recorded", -1000.0, -900.0), ("recorded", 0.0, 0.0)]


class Scripted:
    """A link whose changes a test dictates: what a server of another make may send."""

    speed = math.inf

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Mapping[str, Value] | None] = asyncio.Queue()
        self.now: Sample | None = None

    def report(self, **rows: tuple[float, float]) -> None:
        self.queue.put_nowait({t: Value(v, Quality.GOOD, START + at) for t, (v, at) in rows.items()})

    async def subscribe(self) -> AsyncIterator[Mapping[str, Value]]:
        while (batch := await self.queue.get()) is not None:
            yield batch

    async def read(self) -> Sample:
        if self.now is None:
            raise LinkError("no answer", "scripted")
        return self.now

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        raise NotImplementedError

    async def request_mode(self, mode: PlantMode) -> Receipt:
        raise NotImplementedError

    async def beat(self, counter: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.queue.put_nowait(None)


async def taken(link: Scripted, store: Historian, spec) -> int:
    """Record what was dictated, to its end."""
    await link.close()
    count = await asyncio.wait_for(record(link, store, spec, ScaledClock(), asyncio.Event()), 30)
    assert await asyncio.to_thread(store.flush)
    return count


async def test_repeats_are_not_counted_and_corrections_replace(store, spec):
    link = Scripted()
    for batch in ({"T": (1.0, 0)}, {"T": (1.0, 0)}, {"T": (math.nan, 1)}, {"T": (math.nan, 1)}, {"T": (2.0, 0)}):
        link.report(**batch)
    assert await taken(link, store, spec) == 3
    assert store.history(["T"], START, START + 2)["value"].to_list() == [2.0, None]


async def test_set_point_that_rested_for_hours_is_no_gap(store, spec):
    link = Scripted()
    link.now = Sample(START, {})
    link.report(U=(30.0, -7200))
    for k in range(5):
        link.report(T=(50.0 + k, k), F=(1.0, k))
    await taken(link, store, spec)
    assert store.events().is_empty()
    assert seconds(store, "U") == [-7200]
    assert spans(store) == [("recorded", 0.0, 4.0)]


async def test_silence_is_a_gap_and_a_clock_set_back_too(store, spec):
    link = Scripted()
    for at in (0, 2, 4, 20, 22, -100, -98):
        link.report(T=(float(at), at), F=(1.0, at))
    assert await taken(link, store, spec) == 14
    events = store.events(limit=10).sort("ts", descending=True)
    assert events["kind"].to_list() == ["gap", "clock_step"]
    assert events["message"].to_list() == ["no samples for 16 s of plant time", "the plant's clock went back by 122 s"]
    assert sorted(spans(store)) == [("recorded", -100.0, -98.0), ("recorded", 0.0, 4.0), ("recorded", 20.0, 22.0)]


async def test_quiet_plant_is_asked_and_stays_one_run(store, spec, monkeypatch):
    """A server that reports changes only says nothing of a value that rests; the plant is read instead."""
    monkeypatch.setattr("historian.recorder._LEAST_PATIENCE_S", 0.02)
    link, told = Scripted(), []
    link.report(T=(50.0, 0))
    async with recording(link, store, spec, on_progress=lambda n, t: told.append(t)):
        for at in range(0, 40, 4):
            link.now = Sample(START + at, {"T": Value(50.0, Quality.GOOD, START + at)})
            await until(lambda at=at: told and told[-1] == START + at, "the plant was read")
    assert seconds(store, "T") == [float(at) for at in range(0, 40, 4)]
    assert store.events().is_empty()
    assert spans(store) == [("recorded", 0.0, 36.0)]


@pytest.mark.parametrize("time_s", [math.nan, math.inf, 1e18, -5.0])
async def test_value_without_a_time_is_bad_and_told(store, spec, time_s, caplog):
    link = Scripted()
    for at in range(3):
        link.queue.put_nowait({"T": Value(1.0, Quality.GOOD, time_s), "F": Value(2.0, Quality.GOOD, START + at)})
    assert await taken(link, store, spec) == 6
    latest = {row["tag"]: row for row in store.latest().to_dicts()}
    assert (latest["T"]["quality"], latest["F"]["quality"]) == (Quality.BAD, Quality.GOOD)
    (event,) = store.events().to_dicts()
    assert (event["kind"], event["message"].startswith("T is stored as bad: its source time")) == ("bad_value", True)
    assert len([r for r in caplog.records if "T is stored as bad" in r.getMessage()]) == 1


async def test_a_text_is_bad_and_told(store, spec):
    link = Scripted()
    for at in range(3):
        why = "not a number but String: 'Bad Input'"
        link.queue.put_nowait(
            {"T": Value(math.nan, Quality.BAD, START + at, why), "F": Value(2.0, Quality.GOOD, START + at)}
        )
    await taken(link, store, spec)
    (event,) = store.events().to_dicts()
    assert event["message"] == f"T is stored as bad: {why}"
    assert store.history(["T"], START, START + 2)["value"].to_list() == [None] * 3


async def test_a_clock_that_steps_ahead_begins_a_new_run(store, spec):
    link = Scripted()
    link.speed = 1.0  # our own clock says that no hour has passed
    for at in (0, 1, 2, 3600, 3601):
        link.report(T=(float(at), at), F=(1.0, at))
    assert await taken(link, store, spec) == 10
    (event,) = store.events().to_dicts()
    assert (event["kind"], event["message"]) == ("clock_step", "the plant's clock went ahead by 3598 s")
    assert sorted(spans(store)) == [("recorded", 0.0, 2.0), ("recorded", 3600.0, 3601.0)]


@pytest.mark.parametrize("off", [3600.0, -3600.0])
async def test_one_odd_clock_is_no_step_of_the_plants(store, spec, off):
    link = Scripted()
    link.speed = 1.0
    for at in range(10):
        odd = off if at > 4 else 0.0
        link.report(T=(float(at), at + odd))
        link.report(F=(1.0, at))
    await taken(link, store, spec)
    assert store.events().is_empty()
    assert spans(store) == [("recorded", 0.0, 9.0)]


async def test_stop_before_anything_came(store, spec):
    link, stop = Scripted(), asyncio.Event()
    task = asyncio.create_task(record(link, store, spec, ScaledClock(), stop))
    await asyncio.sleep(0)
    stop.set()
    assert await asyncio.wait_for(task, 10) == 0
    assert store.runs().is_empty()
