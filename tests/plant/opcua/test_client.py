"""`OpcUaLink` against real servers over loopback, through drops, restarts and silence."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time

import pytest
import pytest_asyncio
from asyncua import Server, ua

from plant.clock import LockStepClock, ScaledClock
from plant.errors import LinkError
from plant.link import PlantMode, Quality
from plant.opcua.client import OpcUaLink, Severity, check
from plant.opcua.nodes import to_datetime
from plant.opcua.server import PlantServer
from plant.spec import PlantSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = 1_750_000_000.25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(heater_spec, make_heater):
    async with PlantServer(heater_spec, make_heater(), LockStepClock(START), by_hand=True) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def plant(served, heater_spec, make_heater):
    """The shared server back at its beginning, and a link to it."""
    served.process = make_heater()
    for tag in heater_spec.online:
        served.release(tag.name)
    served.regulatory.take_local("the next test")
    for _ in range(40):
        await served.scan()
    async with OpcUaLink(heater_spec, ScaledClock(), served.endpoint) as link:
        yield served, link


class Collector:
    """Consumes a subscription in the background."""

    def __init__(self, link: OpcUaLink) -> None:
        self.batches: list[dict] = []
        self._task = asyncio.create_task(self._run(link))

    async def _run(self, link: OpcUaLink) -> None:
        async for batch in link.subscribe():
            self.batches.append(dict(batch))

    def of(self, tag: str) -> list:
        return [b[tag] for b in self.batches if tag in b]

    async def ended(self) -> None:
        await asyncio.wait_for(self._task, 10)


async def test_read_has_values_quality_and_plant_time(plant):
    server, link = plant
    server.process.F = 10.1
    server.override("D", quality=Quality.BAD)
    await server.scan()
    sample = await link.read()
    assert set(sample.values) == {"T", "D", "F", "U", "V"}
    assert sample.values["T"].value == pytest.approx(50.0, abs=0.1)
    assert sample.values["T"].quality is Quality.GOOD
    assert sample.values["F"].quality is Quality.UNCERTAIN
    assert "EngineeringUnitsExceeded" in sample.values["F"].reason
    assert sample.values["D"].quality is Quality.BAD
    assert math.isnan(sample.values["D"].value)
    assert "BadSensorFailure" in sample.values["D"].reason
    assert sample.mode is PlantMode.LOCAL
    server.override("T", stale=True)
    await server.scan()
    later = await link.read()
    assert later.heartbeat == sample.heartbeat + 1
    assert later.time_s == pytest.approx(sample.time_s + 1.0, abs=1e-6)
    assert later.values["T"].time_s == pytest.approx(sample.time_s, abs=1e-6)
    assert link.connected
    assert "connected" in link.state


async def test_writes_are_answered_one_by_one(plant):
    server, link = plant
    refused = await link.write({"U": 31.0})
    assert "BadInvalidState" in refused.rejected["U"]
    assert (await link.request_mode(PlantMode.REMOTE)).ok
    receipt = await link.write({"U": 31.0, "V": 95.0, "T": 1.0, "Q": 2.0})
    assert set(receipt.rejected) == {"V", "T", "Q"}
    assert "BadOutOfRange" in receipt.rejected["V"]
    assert "U, V" in receipt.rejected["Q"]
    assert (await link.write({"U": math.nan})).rejected == {"U": "not a finite number"}
    await server.scan()
    sample = await link.read()
    assert sample.values["U"].value == pytest.approx(31.0)
    assert sample.mode is PlantMode.REMOTE


async def test_refused_mode_has_the_plants_reason(plant):
    server, link = plant
    server.process.T_bad = True
    await server.scan()
    assert "interlock active on T" in (await link.request_mode(PlantMode.REMOTE)).rejected["Mode"]
    assert (await link.request_mode(PlantMode.LOCAL)).ok


async def test_beating_keeps_the_plant_in_remote_and_silence_sheds(plant, eventually):
    _, link = plant
    assert (await link.request_mode(PlantMode.REMOTE)).ok
    for counter in range(2**32 - 7, 2**32 + 7):
        await link.beat(counter)
        assert (await link.read()).mode is PlantMode.REMOTE
        await asyncio.sleep(0.05)

    async def local() -> bool:
        return (await link.read()).mode is PlantMode.LOCAL

    await eventually(local, "three heartbeats missed")


async def test_every_change_is_delivered_in_order_and_none_twice(plant, eventually):
    server, link = plant
    collector = Collector(link)
    await eventually(lambda: collector.batches, "the first values")
    server.override("D", stale=True)
    marks = [1.5, 1.5, 2.5, 1.5, 2.5]
    for mark in marks:  # in one go: far faster than the publishing interval
        server.process.F = mark
        await server.scan()
    await eventually(lambda: len(collector.of("F")) == 1 + len(marks), "all changes")
    assert [v.value for v in collector.of("F")][1:] == marks
    times = [v.time_s for v in collector.of("F")]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([1.0] * len(marks))
    assert len(collector.of("D")) == 1, "a value that is not sampled again is not repeated"
    assert all(len({v.time_s for v in b.values()}) == 1 for b in collector.batches[1:])
    server.release("D")
    server.process.T_bad = True
    await server.scan()
    await eventually(lambda: collector.of("T")[-1].quality is Quality.BAD, "a bad value is delivered too")
    await link.close()
    await collector.ended()
    with pytest.raises(LinkError, match="closed"):
        await link.read()


async def test_two_subscriptions_of_one_link_both_see_everything(plant, eventually):
    server, link = plant
    first, second = Collector(link), Collector(link)
    await eventually(lambda: first.batches and second.batches, "both start")
    for _ in range(20):
        await server.scan()
    await eventually(lambda: len(first.of("T")) == 21 and len(second.of("T")) == 21, "both are complete")


async def test_slow_consumer_loses_nothing_and_a_consumer_that_leaves_blocks_nobody(plant, eventually, monkeypatch):
    monkeypatch.setattr("plant.opcua.session._BACKLOG", 2)
    server, link = plant
    slow = link.subscribe()
    first = await anext(slow)
    fast = Collector(link)
    await eventually(lambda: fast.batches, "the other consumer starts")
    for _ in range(10):
        await server.scan()
        await asyncio.sleep(0.12)  # one publish each, more than the backlog holds
    seen = [first["T"].time_s]
    while len(seen) < 8:
        seen.append((await asyncio.wait_for(anext(slow), 10))["T"].time_s)
    assert [b - a for a, b in itertools.pairwise(seen)] == pytest.approx([1.0] * 7)
    for _ in range(10):
        await server.scan()
        await asyncio.sleep(0.12)
    await slow.aclose()
    await eventually(lambda: len(fast.of("T")) == 21, "the other consumer gets everything")
    assert link.reconnects == 0


async def test_secure_channel_is_renewed(plant, heater_spec, monkeypatch, eventually):
    monkeypatch.setattr("plant.opcua.session._CHANNEL_LIFETIME_MS", 1000)
    server, _ = plant
    async with OpcUaLink(heater_spec, ScaledClock(), server.endpoint) as link:
        collector = Collector(link)
        for _ in range(25):
            await server.scan()
            assert (await link.read()).heartbeat == server.scans
            await asyncio.sleep(0.12)
        await eventually(lambda: len(collector.of("T")) >= 25, "the subscription goes on too")
        assert link.reconnects == 0


async def test_unknown_node_is_named(plant, spec_with):
    server, _ = plant
    spec = spec_with(F={"node_id": "p:s=heater.Nowhere"})
    async with OpcUaLink(spec, ScaledClock(), server.endpoint) as link:
        with pytest.raises(LinkError, match=r"no node for F \(p:s=heater\.Nowhere\)"):
            await link.read()
    findings = await check(spec, server.endpoint)
    (finding,) = [f for f in findings if f.severity is Severity.ERROR]
    assert (finding.tag, "Nowhere" in finding.what) == ("F", True)


async def test_check_agrees_with_a_right_file_and_names_what_is_wrong(plant, spec_with, heater_spec):
    server, _ = plant
    await server.scan()
    assert await check(heater_spec, server.endpoint) == []
    server.process.D = -15.0
    server.override("F", quality=Quality.BAD)
    await server.scan()
    spec = spec_with(
        T={"unit": "K"},
        D={"range": (-10.0, 10.0)},
        V={"node_id": "p:s=Regulatory.Heartbeat"},
        U={"node_id": "p:s=Regulatory.ShedReason"},
    )
    found = {(f.tag, f.severity): f for f in await check(spec, server.endpoint)}
    assert "'degC'" in found["T", Severity.WARNING].what
    texts = [f.what for f in await check(spec, server.endpoint) if f.tag == "D"]
    assert any("out of range: -15" in t for t in texts)
    assert any("EURange is [-20.0, 20.0]" in t for t in texts)
    assert "may not be written" in found["V", Severity.ERROR].what
    assert any("String" in f.what for f in await check(spec, server.endpoint) if f.tag == "U")
    assert "BadSensorFailure" in found["F", Severity.WARNING].what
    assert all(f.fix for f in found.values())


async def test_check_tells_what_is_wanted_that_fights(plant, heater_spec):
    server, _ = plant
    await server.scan()
    value = heater_spec.targets[0].value if heater_spec.targets else 50.0
    target = {"tag": "T", "value": value, "limits": (0.0, 100.0), "scale": 1.0}
    zone = {"tag": "T", "low": value + 1, "high": value + 2, "limits": (0.0, 100.0)}
    spec = type(heater_spec).model_validate({**heater_spec.model_dump(), "targets": [target], "zones": [zone]})
    (finding,) = await check(spec, server.endpoint)
    assert (finding.severity, finding.tag) == (Severity.WARNING, "T")
    assert "is outside its zone" in finding.what


async def test_unreachable_plant_fails_quickly_and_says_where(heater_spec, free_port):
    endpoint = f"opc.tcp://127.0.0.1:{free_port()}/nobody"
    async with OpcUaLink(heater_spec, ScaledClock(), endpoint, backoff_s=(30.0, 30.0)) as link:
        for _ in range(3):  # with a pause of 30 s between attempts, none of these may wait for one
            with pytest.raises(LinkError, match="cannot connect"):
                await asyncio.wait_for(link.read(), 5)
        assert "disconnected" in link.state
    with pytest.raises(LinkError, match=endpoint):
        await check(heater_spec, endpoint)


async def test_restarted_server_is_found_again(heater_spec, make_heater, free_port, eventually):
    endpoint = f"opc.tcp://127.0.0.1:{free_port()}/heater"
    clock = ScaledClock(20.0)
    async with OpcUaLink(heater_spec, clock, endpoint) as link:
        async with PlantServer(heater_spec, make_heater(), clock, endpoint):
            collector = Collector(link)
            await eventually(lambda: len(collector.of("T")) > 3, "values")
            assert link.speed == 20.0
        await eventually(lambda: not link.connected, "the loss is noticed")
        with pytest.raises(LinkError):
            await link.read()
        with pytest.raises(LinkError):
            await link.write({"U": 1.0})
        before = len(collector.of("T"))
        async with PlantServer(heater_spec, make_heater(), clock, endpoint):
            await eventually(lambda: len(collector.of("T")) > before + 3, "values again, by the same subscription")
            assert (await link.read()).values["T"].quality is Quality.GOOD
            assert link.reconnects == 1
            await link.close()
            await collector.ended()
    times = [v.time_s for v in collector.of("T")]
    assert times == sorted(set(times)), "nothing out of order, nothing twice"


class Wire:
    """A TCP relay that can go silent without closing, as a network does."""

    def __init__(self, port: int) -> None:
        self._target, self._open = port, asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()

    def silence(self, silent: bool) -> None:
        self._open.clear() if silent else self._open.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
        writer.close()


async def test_silent_network_is_noticed_and_survived(plant, heater_spec, eventually):
    server, _ = plant
    async with (
        Wire(int(server.endpoint.split(":")[2].split("/")[0])) as wire,
        OpcUaLink(heater_spec, ScaledClock(), f"opc.tcp://127.0.0.1:{wire.port}/heater", timeout_s=1.0) as link,
    ):
        collector = Collector(link)
        await eventually(lambda: collector.batches, "values")
        wire.silence(True)
        with pytest.raises(LinkError):
            await asyncio.wait_for(link.read(), 5)
        await eventually(lambda: not link.connected, "the silence is noticed")
        wire.silence(False)
        await eventually(lambda: link.connected, "the link comes back")
        count = len(collector.of("T"))

        async def delivered() -> bool:
            await server.scan()
            return len(collector.of("T")) > count

        await eventually(delivered, "the subscription comes back")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def foreign(free_port, heater_dict):
    """A plant of another make: an Int32 and a Float MV, no regulatory layer, no engineering data."""
    server = Server()
    await server.init()
    endpoint = f"opc.tcp://127.0.0.1:{free_port()}/foreign"
    server.set_endpoint(endpoint)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace("urn:foreign")
    nodes = {}
    kinds = {"U": ua.VariantType.Float, "V": ua.VariantType.Int32, "F": ua.VariantType.Int64}
    for name in ("T", "D", "F", "U", "V"):
        kind = kinds.get(name, ua.VariantType.Double)
        nodes[name] = await server.nodes.objects.add_variable(f"ns=2;s=heater.{name}", f"2:{name}", 20, kind)
    for name in ("U", "V"):
        await nodes[name].set_writable()
    spec = PlantSpec.model_validate(heater_dict(namespaces={"p": "urn:foreign"}, handshake=None))
    async with server:
        yield endpoint, nodes, spec


async def test_foreign_plant_is_written_in_its_own_types_and_has_no_mode(foreign):
    endpoint, nodes, heater_spec = foreign
    now_s = round(time.time()) - 2.0
    stamp = to_datetime(now_s)
    await nodes["T"].write_value(ua.DataValue(ua.Variant(21.5, ua.VariantType.Double), SourceTimestamp=stamp))
    async with OpcUaLink(heater_spec, ScaledClock(), endpoint) as link:
        sample = await link.read()
        assert (sample.mode, sample.heartbeat, link.speed) == (None, None, 1.0)
        assert (sample.values["T"].value, sample.values["T"].time_s) == (21.5, now_s)
        assert (await link.write({"U": 12.5, "V": 41.7})).ok
        assert await nodes["U"].read_value() == 12.5
        assert await nodes["V"].read_value() == 42
        await link.beat(1)
        assert "no regulatory layer" in (await link.request_mode(PlantMode.REMOTE)).rejected["Mode"]
    found = await check(heater_spec, endpoint)
    assert any(f.tag == "" and "no regulatory layer" in f.what for f in found)
    assert {f.tag for f in found if f.severity is Severity.NOTE} == {"T", "D", "F", "U", "V"}
    assert not [f for f in found if f.severity is Severity.ERROR]


async def test_foreign_values_that_are_no_numbers_are_bad(foreign):
    endpoint, nodes, heater_spec = foreign
    await nodes["T"].write_value(ua.DataValue(ua.Variant(math.nan, ua.VariantType.Double)))
    async with OpcUaLink(heater_spec, ScaledClock(), endpoint) as link:
        value = (await link.read()).values["T"]
        assert value.quality is Quality.BAD
        assert "not a finite number" in value.reason
