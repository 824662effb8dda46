"""`OpcUaLink` and `check` on a server of another make: its ids, its types, its handshake, its faults."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from plant.clock import ScaledClock
from plant.errors import LinkError
from plant.link import PlantMode, Quality, Sample
from plant.opcua.client import OpcUaLink, Severity, check
from plant.opcua.proof import prove_watchdog
from plant.spec import PlantSpec
from tests.foreign.plant import ALIVE, GRANTED, OWNER, PERMIT, SP, SP_WRITE, ST, WATCHDOG, ForeignPlant, plant_file

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def linked(plant: ForeignPlant, without: tuple[str, ...] = (), **changes) -> AsyncIterator[OpcUaLink]:
    spec = PlantSpec.model_validate(plant_file(plant.endpoint, without, **changes))
    async with OpcUaLink(spec, ScaledClock(), backoff_s=(0.05, 0.1)) as link:
        yield link


async def until(link: OpcUaLink, holds: Callable[[Sample], object], what: str, beat: bool = False) -> Sample:
    end = time.monotonic() + 15.0
    counter = 0
    while not holds(sample := await link.read()):
        assert time.monotonic() < end, f"not within 15 s: {what}; {sample}"
        if beat:
            await link.beat(counter := counter + 1)
        await asyncio.sleep(0.05)
    return sample


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[ForeignPlant]:
    async with ForeignPlant(shift=2) as plant:
        yield plant


@pytest_asyncio.fixture(loop_scope="module")
async def plant(served: ForeignPlant) -> ForeignPlant:
    await served.reset()
    return served


async def test_it_is_asked_moved_kept_and_given_back(plant: ForeignPlant) -> None:
    async with linked(plant) as link:
        first = await link.read()
        assert (first.mode, first.owned, first.faults) == (PlantMode.LOCAL, False, ())
        assert dict(first.loops) == {"SP": True}
        assert "BadInvalidState" in (await link.write({"SP": 60.0})).rejected["SP"]
        assert (await link.request_mode(PlantMode.REMOTE)).ok
        held = await until(link, lambda s: s.mode is PlantMode.REMOTE, "the grant is shown")
        assert held.owned
        receipt = await link.write({"SP": 60.5, "ST": 1.0})
        assert receipt.ok
        await until(link, lambda s: (s.values["SP"].value, s.values["ST"].value) == (60.5, 1.0), "taken", beat=True)
        assert "neither 0 nor 1" in (await link.write({"ST": 0.5})).rejected["ST"]
        kept_s = time.monotonic() + 3.0
        while time.monotonic() < kept_s:  # longer than the countdown
            await link.beat(1)
            assert (await link.read()).mode is PlantMode.REMOTE
            await asyncio.sleep(0.3)
        lost = await until(link, lambda s: s.mode is PlantMode.LOCAL, "without a beat it takes the MVs")
        assert lost.reason == "watchdog expired"
        assert (await link.request_mode(PlantMode.REMOTE)).ok
        assert (await link.request_mode(PlantMode.LOCAL)).ok
        await until(link, lambda s: s.mode is PlantMode.LOCAL and not s.owned, "given back")
    assert plant.trespasses == 0


async def test_set_points_may_rest_and_are_stamped_when_they_change(plant: ForeignPlant) -> None:
    async with linked(plant) as link:
        sample = await link.read()
    set_point = sample.values["SP"]
    assert set_point.quality is Quality.GOOD
    assert sample.time_s - set_point.time_s > 29 * 3600.0, "older than a day, and no wonder"
    assert abs(sample.time_s - time.time()) < 5.0


async def test_the_alive_bit_is_counted_between_samples(plant: ForeignPlant) -> None:
    async with linked(plant) as link:
        counts = []
        for _ in range(5):  # two scans each: the bit looks the same every time
            counts.append((await link.read()).heartbeat)
            await asyncio.sleep(0.4)
        assert counts == sorted(set(counts)), counts
        plant.faults.alive_stopped = True
        await asyncio.sleep(0.5)
        still = {(await link.read()).heartbeat for _ in range(3)}
        assert len(still) == 1


async def test_another_token_is_not_ours(plant: ForeignPlant) -> None:
    async with linked(plant) as link, linked(plant) as second:
        assert (await link.request_mode(PlantMode.REMOTE)).ok
        await until(link, lambda s: s.mode is PlantMode.REMOTE, "granted")
        refusal = (await second.request_mode(PlantMode.REMOTE)).rejected["Mode"]
        assert refusal.startswith("handshake.granted.node reads 1 before we asked")
        assert not (await second.read()).owned
        assert (await second.request_mode(PlantMode.LOCAL)).ok, "what is not ours stays whose it is"
        assert (await link.read()).mode is PlantMode.REMOTE
        assert (await link.read()).owned


@pytest.mark.parametrize(
    ("fault", "field", "seen"),
    [
        ({"granted_bad": True}, "handshake.granted.node", "BadNoCommunication"),
        ({"granted_value": "ON"}, "handshake.granted.node", "can never be 1"),
    ],
)
async def test_a_grant_that_cannot_be_read_is_none(plant: ForeignPlant, fault: dict, field: str, seen: str) -> None:
    async with linked(plant) as link:
        await link.read()
        for name, value in fault.items():
            setattr(plant.faults, name, value)
        sample = await until(link, lambda s: s.faults, "the fault is seen")
        assert sample.mode is None
        (line,) = sample.faults
        assert line.startswith(f"{field} (a:i={GRANTED}): ")
        assert seen in line
        found = await check(link.spec)
        assert [f.what for f in found if f.severity is Severity.ERROR] == [line]


async def test_a_grant_that_was_there_before_we_asked_is_no_answer(plant: ForeignPlant) -> None:
    plant.faults.granted_value = 1
    async with linked(plant) as link:
        await until(link, lambda s: s.mode is PlantMode.REMOTE, "it lies")
        assert "before we asked" in (await link.request_mode(PlantMode.REMOTE)).rejected["Mode"]
        assert (PERMIT, True, True) not in plant.writes
        assert any("given away" in f.what for f in await check(link.spec))


async def test_a_refused_permit_says_which_node(plant: ForeignPlant) -> None:
    plant.faults.refuse_permit = True
    async with linked(plant) as link:
        refusal = (await link.request_mode(PlantMode.REMOTE)).rejected["Mode"]
        assert refusal.startswith("handshake.permit.node refuses True: BadUserAccessDenied")


async def test_a_watchdog_is_proved_by_silence(plant: ForeignPlant) -> None:
    spec = PlantSpec.model_validate(plant_file(plant.endpoint))
    assert await prove_watchdog(spec) == []
    assert not plant.granted
    plant.faults.watchdog_ignored = True
    (finding,) = await prove_watchdog(spec)
    assert finding.severity is Severity.ERROR
    assert finding.what.startswith("handshake.watchdog.node: without a heartbeat for 4.5 s the MVs are still granted")
    assert not plant.granted, "given back all the same"
    assert not [w for w in plant.writes if w[0] in (SP, ST, SP_WRITE)], "and nothing was moved"
    await plant.reset()
    plant.faults.refuse_permit = True
    (finding,) = await prove_watchdog(spec)
    assert "handshake.permit.node refuses" in finding.what


def changed(part: str, **fields) -> dict:
    handshake = plant_file("opc.tcp://127.0.0.1:1/x")["handshake"]
    handshake[part] = {**handshake[part], **fields} if fields else None
    return {k: v for k, v in handshake.items() if v is not None}


@pytest.mark.parametrize(
    ("part", "fields", "seen"),
    [
        ("permit", {"node": "a:i=9"}, "handshake.permit.node (a:i=9): no such node on the server (BadNodeIdUnknown)"),
        ("permit", {"on": 3}, "handshake.permit.node (a:i=5005): 3 is neither 0 nor 1"),
        ("permit", {"node": f"a:i={ALIVE}"}, "the node may not be written by us"),
        ("permit", {"node": "a:i=1000"}, "not a Variable but a Object"),
        ("granted", {"node": "a:i=9"}, "handshake.granted.node (a:i=9): no such node"),
        ("granted", {"equals": "ON"}, "which can never be 'ON'"),
        ("watchdog", {"node": "a:i=9"}, "handshake.watchdog.node (a:i=9): no such node"),
        ("watchdog", {"value": 70000}, "70000 does not fit into the node's type UInt16"),
        ("watchdog", {"form": "counter", "value": None, "node": f"a:i={PERMIT}"}, "a counter needs a number"),
        ("alive", {"node": "a:i=9"}, "handshake.alive.node (a:i=9): no such node"),
        ("alive", {"form": "counter"}, "its type is Boolean, which is no counter"),
        ("alive", {"node": f"a:i={OWNER}"}, "its type is String, which is no toggle"),
        ("owner", {"node": f"a:i={PERMIT}"}, "a token needs a text or an integer"),
        ("owner", {"node": f"a:i={GRANTED}"}, "handshake.owner.node (a:i=5006): the node may not be written by us"),
        ("reason", {"node": f"a:i={WATCHDOG}"}, "which is no text"),
    ],
)  # fmt: skip
async def test_each_wrong_field_is_one_line(plant: ForeignPlant, part: str, fields: dict, seen: str) -> None:
    async with linked(plant, handshake=changed(part, **fields)) as link:
        sample = await link.read()
        assert len(sample.faults) == 1, sample.faults
        assert seen in sample.faults[0]
        assert "\n" not in sample.faults[0]
        assert (await link.request_mode(PlantMode.REMOTE)).rejected == {"Mode": sample.faults[0]}
        found = [f.what for f in await check(link.spec) if f.severity is Severity.ERROR]
        assert found == [sample.faults[0]]
    assert not plant.writes, "never asked for"


@pytest.mark.parametrize(
    ("field", "node", "seen"),
    [
        ("write_node", "a:i=9", "SP.move.write_node (a:i=9): no such node on the server (BadNodeIdUnknown)"),
        ("write_node", f"a:i={ALIVE}", "SP.move.write_node (a:i=5003): the node may not be written by us"),
        ("mode", "a:i=9", "SP.move.mode.node (a:i=9): no such node on the server (BadNodeIdUnknown)"),
        ("mode", f"a:i={OWNER}", "SP.move.mode.node (a:i=5007): it reads '', which can never be one of [3]"),
    ],
)
async def test_each_wrong_node_of_an_mv_is_one_line(plant: ForeignPlant, field: str, node: str, seen: str) -> None:
    tags = plant_file("")["tags"]
    (set_point,) = [t for t in tags if t["name"] == "SP"]
    set_point["move"][field] = node if field == "write_node" else {**set_point["move"][field], "node": node}
    async with linked(plant, tags=tags) as link:
        sample = await link.read()
        assert sample.faults == (seen,)
        assert sample.values["SP"].quality is Quality.GOOD, "what can be read is recorded all the same"
        assert seen in [f.what for f in await check(link.spec) if f.severity is Severity.ERROR]


async def test_a_counter_that_runs_backwards_is_named(plant: ForeignPlant) -> None:
    async with linked(plant, handshake={"alive": {"node": "a:i=3004"}}) as link:  # a reading stands in for the counter
        for k in range(6):
            plant.faults.values["N"] = 1000 - k
            await until(link, lambda s, k=k: s.heartbeat == 1000 - k, "the next count")
        (line,) = (await link.read()).faults
        assert line.startswith("handshake.alive.node (a:i=3004): it fell")
        assert "runs backwards" in line


async def test_odd_stamps_are_bad_and_never_reach_arithmetic(plant: ForeignPlant, caplog) -> None:
    caplog.set_level(logging.WARNING)
    async with linked(plant) as link:
        await link.read()
        for year in (1601, 9999):
            plant.faults.stamp = {"F": datetime(year, 1, 1, tzinfo=UTC)}
            sample = await until(link, lambda s: s.values["F"].quality is Quality.BAD, f"{year} is seen")
            assert f"source time {year}-01-01" in sample.values["F"].reason
            assert abs(sample.values["F"].time_s - time.time()) < 5.0
            assert abs(sample.time_s - time.time()) < 5.0
            plant.faults.stamp = {}
            await until(link, lambda s: s.values["F"].quality is Quality.GOOD, "it comes back")
        plant.faults.shift_tag_s = {"P": 3600.0}
        sample = await until(link, lambda s: s.values["P"].time_s > s.time_s + 3000.0, "one clock is ahead")
        assert abs(sample.time_s - time.time()) < 5.0, "the odd one does not move the sample"
        plant.faults.shift_tag_s, plant.faults.stamp = {}, datetime(1601, 1, 1, tzinfo=UTC)
        sample = await until(link, lambda s: s.values["T"].quality is Quality.BAD, "all are seen")
        assert abs(sample.time_s - time.time()) < 5.0, "the server's time stands in"
    assert len([r for r in caplog.records if "area21: F " in r.getMessage()]) == 1, "one warning a tag"


async def test_texts_and_arrays_are_bad_with_the_reason(plant: ForeignPlant, caplog) -> None:
    caplog.set_level(logging.WARNING)
    plant.faults.values = {"T": "5.0", "P": [1.0, 2.0]}
    async with linked(plant) as link:
        sample = await until(link, lambda s: s.values["T"].quality is Quality.BAD, "seen")
        assert "not a number but String: '5.0'" in sample.values["T"].reason
        assert "an array of 2" in sample.values["P"].reason
        assert [r for r in caplog.records if "area21: P is not usable" in r.getMessage()]
        refused = {f.tag: f.what for f in await check(link.spec) if f.severity is Severity.ERROR}
        assert refused == {
            "T": "its value is not a number but String: '5.0'",
            "P": "its value is an array of 2, not a number",
        }


async def test_a_loop_an_operator_has_takes_no_moves(plant: ForeignPlant) -> None:
    plant.faults.loop_dropped = True
    async with linked(plant) as link:
        sample = await until(link, lambda s: not s.loops["SP"], "seen")
        assert sample.faults == ()


async def test_a_namespace_that_is_not_there_is_one_clear_error(plant: ForeignPlant) -> None:
    async with linked(plant, namespaces={"a": "urn:nobody"}) as link:
        with pytest.raises(LinkError, match=r"no namespace 'urn:nobody' \(of T, F, P and \d+ more\)"):
            await link.read()
        found = await check(link.spec)
        assert any("no namespace 'urn:nobody'" in f.what and f.severity is Severity.ERROR for f in found)


async def test_namespaces_that_move_are_followed_by_uri_and_refused_by_index(free_port) -> None:
    port = free_port()

    def plain(index: int) -> list[dict]:
        tags = plant_file("")["tags"][:1]
        return [{**tags[0], "node_id": f"ns={index};i=3001"}]

    async with contextlib.AsyncExitStack() as stack:
        async with ForeignPlant(port, shift=0) as plant:
            by_uri = await stack.enter_async_context(linked(plant))
            by_index = await stack.enter_async_context(
                linked(plant, tags=plain(2), guardrails=[], targets=[], handshake=None)
            )
            assert (await by_uri.read()).values["T"].quality is Quality.GOOD
            assert (await by_index.read()).values["T"].quality is Quality.GOOD
            found = await check(by_index.spec)
            assert any("ns=2, which may be another's" in f.what for f in found if f.severity is Severity.WARNING)
        async with ForeignPlant(port, shift=1) as moved:
            end = time.monotonic() + 20.0
            while True:
                try:
                    sample = await by_uri.read()
                    break
                except LinkError:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.05)
            assert sample.values["T"].value != 77.0
            assert (await by_uri.request_mode(PlantMode.REMOTE)).ok
            assert (await by_uri.write({"SP": 55.0})).ok
            while "is now" not in by_index.state:
                assert time.monotonic() < end, by_index.state
                await asyncio.sleep(0.05)
            with pytest.raises(LinkError, match=r"namespace 2 was '.*Area21' and is now '.*Area22'.*T \(ns=2;i=3001\)"):
                await by_index.read()
            assert moved.trespasses == 0


@pytest.mark.parametrize("declared", [True, False])
async def test_no_request_is_larger_than_the_server_takes(declared: bool) -> None:
    async with ForeignPlant(limit=3, declared=declared) as plant, linked(plant) as link:
        assert (await link.read()).values["N"].quality is Quality.GOOD
        changes = link.subscribe()
        seen = set()
        end = time.monotonic() + 15.0
        while {"T", "F", "P", "N", "SP", "ST"} - seen:
            assert time.monotonic() < end, seen
            seen |= set(await asyncio.wait_for(anext(changes), 10))
        await changes.aclose()
        assert not [f for f in await check(link.spec) if f.severity is Severity.ERROR]


async def test_a_plant_without_any_handshake_is_watched(plant: ForeignPlant) -> None:
    async with linked(plant, handshake=None) as link:
        sample = await link.read()
        assert (sample.mode, sample.heartbeat, sample.owned) == (None, None, None)
        assert "no handshake" in (await link.request_mode(PlantMode.REMOTE)).rejected["Mode"]


async def test_an_mv_of_an_odd_type_is_read_and_its_writing_refused(plant: ForeignPlant) -> None:
    tags = plant_file("")["tags"]
    (set_point,) = [t for t in tags if t["name"] == "SP"]
    set_point["move"]["write_node"] = f"a:i={OWNER}"
    async with linked(plant, tags=tags) as link:
        assert (await link.read()).values["SP"].quality is Quality.GOOD
        assert "no text, and the node's type is String" in (await link.write({"SP": 50.0})).rejected["SP"]
        errors = [f for f in await check(link.spec) if f.tag == "SP" and f.severity is Severity.ERROR]
        assert "cannot be written within its limits" in errors[0].what
    assert not [w for w in plant.writes if w[0] in (SP, OWNER)]
