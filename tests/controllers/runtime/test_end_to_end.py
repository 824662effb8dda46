"""The loop over real OPC UA: a plant's server that dies and comes back, a controller that is killed, its node set."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from asyncua import Client, ua

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Mode
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from controllers.runtime.nodes import ControllerServer
from plant.clock import ScaledClock
from plant.controller_nodes import Variable, controller_node_id
from plant.errors import LinkError
from plant.handshake import SIMULATED
from plant.link import PlantMode, Quality
from plant.opcua.client import OpcUaLink
from plant.opcua.controller_client import ControllerClient
from plant.opcua.server import PlantServer

SPEED = 20.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def eventually(condition, what: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


def shown_alarms(client: ControllerClient, wanted: str) -> list[str]:
    """The alarms a client sees, once `wanted` is among them or a deadline has passed."""
    end = time.monotonic() + 10
    while True:
        keys = [a.key for a in client.snapshot().alarms]
        if wanted in keys or time.monotonic() > end:
            return keys
        time.sleep(0.02)


@pytest.fixture
async def site(make_spec, make_heater, journal):
    """A plant's server, a link to it, and a loop that runs in ADVISORY. The server may be stopped and started."""
    spec = make_spec(endpoint=f"opc.tcp://127.0.0.1:{free_port()}/heater")
    async with Site(spec, make_heater(), journal()) as built:
        yield built


class Site:
    def __init__(self, spec, heater, journal) -> None:
        self.spec, self.heater, self.journal, self.clock = spec, heater, journal, ScaledClock(SPEED)
        self.server: PlantServer | None = None
        self.link = OpcUaLink(spec, self.clock, timeout_s=2.0, backoff_s=(0.05, 0.2))
        controller = PidController(spec, (PidLoop(pv="T", mv="U", gain=1.0, integral_s=20.0),))
        # Other work on the test machine may hold the plant's scans up: that is not what these tests are about.
        config = ControllerConfig.model_validate({"loop": {"speed_tolerance": 0.9}})
        self.loop = ControlLoop(spec, config, self.link, controller, journal, self.clock)

    async def start_plant(self) -> None:
        self.server = await PlantServer(self.spec, self.heater, ScaledClock(SPEED)).__aenter__()

    async def stop_plant(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            await server.__aexit__(None, None, None)

    async def __aenter__(self) -> Site:
        await self.start_plant()
        self.task = asyncio.create_task(self.loop.run(who="test"))
        return self

    async def __aexit__(self, *_) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.link.close()
        await self.stop_plant()

    @property
    def mode(self) -> Mode:
        return self.loop.supervisor.mode

    async def auto(self) -> None:
        await eventually(lambda: not self.loop.supervisor.blockers(Mode.AUTO), "AUTO is possible")
        assert await self.loop.set_mode("AUTO", "ann") == ""
        cycles = self.loop.figures.cycles
        await eventually(lambda: self.loop.figures.cycles > cycles + 3, "cycles in AUTO")
        assert self.mode is Mode.AUTO, self.loop.supervisor.reason


async def test_server_killed_and_restarted_sheds_and_waits_for_a_person(site):
    await site.auto()
    assert site.server.regulatory.mode is PlantMode.REMOTE
    await site.stop_plant()
    await eventually(lambda: site.mode is Mode.SHED, "shed")
    assert "restore the connection" in site.loop.supervisor.reason
    cycles = site.loop.figures.cycles
    await eventually(lambda: site.loop.figures.cycles > cycles + 2, "the loop goes on without a plant")
    assert {"link", "shed"} <= {a.key for a in site.loop.state().alarms}
    await site.start_plant()
    await eventually(lambda: not site.loop.supervisor.blockers(Mode.AUTO), "the plant is back")
    cycles = site.loop.figures.cycles
    await eventually(lambda: site.loop.figures.cycles > cycles + 3, "samples with the plant back")
    assert site.mode is Mode.SHED
    assert site.server.regulatory.mode is PlantMode.LOCAL
    await site.auto()
    assert site.server.regulatory.mode is PlantMode.REMOTE


async def test_sensor_that_fails_at_the_plant_sheds(site):
    await site.auto()
    site.server.override("T", quality=Quality.BAD)
    await eventually(lambda: site.mode is Mode.SHED, "shed")
    assert "T is bad" in site.loop.supervisor.reason
    await eventually(lambda: site.server.regulatory.mode is PlantMode.LOCAL, "the plant has its MVs back")


async def test_frozen_sensor_at_the_plant_sheds(site):
    await site.auto()
    site.server.override("T", frozen=True)
    await eventually(lambda: site.mode is Mode.SHED, "shed")
    assert "T is frozen" in site.loop.supervisor.reason


async def test_stopping_leaves_the_plant_in_local(site):
    await site.auto()
    site.task.cancel()
    await asyncio.gather(site.task, return_exceptions=True)
    assert site.server.regulatory.mode is PlantMode.LOCAL
    assert site.server.regulatory.shed_reason == "", "asked for, not lost"


async def test_operating_through_the_node_set(site):
    async with ControllerServer(site.loop, "opc.tcp://127.0.0.1:0/homeostat/controller", publish_s=0.1) as served:
        with ControllerClient(served.endpoint) as client:
            await eventually(lambda: not site.loop.supervisor.blockers(Mode.AUTO), "AUTO is possible")
            shown = await asyncio.to_thread(client.snapshot)
            assert (shown.mode_actual, shown.plan_status) == ("ADVISORY", "FEASIBLE")
            assert await asyncio.to_thread(client.set_target, "T", 55.0, "ann") == ""
            refusal = await asyncio.to_thread(client.set_target, "T", 500.0, "ann")
            assert "outside [30, 80] degC" in refusal
            assert await asyncio.to_thread(client.set_mode, "AUTO", "ann", "start") == ""
            assert "need MANUAL" in await asyncio.to_thread(client.set_move, "U", 40.0, "ann")
            assert await asyncio.to_thread(client.set_limit, "U", 5.0, 70.0, "ann") == ""
            cycles = site.loop.figures.cycles
            await eventually(lambda: site.loop.figures.cycles > cycles + 2, "cycles in AUTO")
            shown = await asyncio.to_thread(client.snapshot)
            assert (shown.mode_target, shown.mode_actual) == ("AUTO", "AUTO")
            assert shown.targets == {"T": 55.0}
            assert shown.limits == {"U": (5.0, 70.0)}
            assert shown.margins["burns"].now > 0
            assert len(shown.prediction.moves["U"]) == 1
            assert shown.heartbeat > 0
            assert shown.cycles > 0
            site.server.regulatory.take_local("taken at the plant")
            await eventually(lambda: site.mode is Mode.SHED, "shed")
            assert "shed" in await asyncio.to_thread(shown_alarms, client, "shed")
            assert await asyncio.to_thread(client.acknowledge, "shed", "ann") == ""
            assert [a[1:3] for a in site.journal.audits[:3]] == [
                ("SetTarget", "T"), ("SetTarget", "T"), ("SetMode", "controller")
            ]  # fmt: skip
            await asyncio.to_thread(client.close)


async def test_nodes_are_read_only_and_wrong_arguments_are_refused(site):
    async with ControllerServer(site.loop, "opc.tcp://127.0.0.1:0/homeostat/controller") as served:
        async with Client(served.endpoint) as client:
            for variable in (Variable.MODE_ACTUAL, Variable.TARGETS):
                with pytest.raises(ua.UaStatusCodeError):
                    await client.get_node(controller_node_id(variable)).write_value("AUTO")
            parent = client.get_node("ns=2;s=Controller")
            with pytest.raises(ua.UaStatusCodeError):
                await parent.call_method("2:SetTarget", "T", 50.0)
            with pytest.raises(ua.UaStatusCodeError):
                await parent.call_method("2:SetTarget", "T", "hot", "ann")
            with pytest.raises(ua.UaStatusCodeError):
                await parent.call_method("2:SetTarget", "T", [50.0, 51.0], "ann")
        with pytest.raises(LinkError, match="cannot listen"):
            await ControllerServer(site.loop, served.endpoint).__aenter__()


async def test_killed_controller_leaves_the_plant_in_local_within_three_heartbeats(make_spec, make_heater):
    spec = make_spec(handshake=SIMULATED.model_dump())
    patience_s = spec.handshake.watchdog.patience_s
    heater = make_heater()
    script = Path(__file__).with_name("controller_process.py")
    clock = ScaledClock(SPEED)
    async with PlantServer(spec, heater, clock) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), spec.model_dump_json(), server.endpoint, str(SPEED),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        hottest = []
        try:
            await eventually(lambda: server.regulatory.mode is PlantMode.REMOTE, "the controller has the plant", 30)
            held_s = clock.wall_time() + patience_s + 1.0
            while clock.wall_time() < held_s:  # longer than the watchdog: it is the heartbeat that holds REMOTE
                assert server.regulatory.mode is PlantMode.REMOTE
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            killed_s = clock.wall_time()
            while server.regulatory.mode is PlantMode.REMOTE:
                hottest.append(heater.T)
                assert clock.wall_time() - killed_s < patience_s + 1.0
                await asyncio.sleep(0.02)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        assert "ended" in server.regulatory.shed_reason, "the holder's session went with it"
        scans = server.scans
        await eventually(lambda: server.scans > scans + 20, "local control goes on")
        assert max([*hottest, heater.T]) < 85.0


async def test_a_controller_that_was_stopped_writes_nothing_when_it_goes_on(make_spec, make_heater):
    """SIGSTOP for longer than the watchdog waits, then SIGCONT; meanwhile nobody, or a second controller, has the plant."""
    spec = make_spec(handshake=SIMULATED.model_dump())
    script, clock = Path(__file__).with_name("controller_process.py"), ScaledClock(SPEED)
    async with PlantServer(spec, make_heater(), clock) as server:
        layer, written = server.regulatory, []
        write = layer.write

        def note(moves, *who):
            written.append(dict(moves))
            return write(moves, *who)

        layer.write = note
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), spec.model_dump_json(), server.endpoint, str(SPEED),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        try:
            await eventually(lambda: len(written) > 3, "the controller moves the plant", 40)
            process.send_signal(signal.SIGSTOP)
            await eventually(lambda: layer.mode is PlantMode.LOCAL, "the watchdog takes the plant")
            count = len(written)
            async with OpcUaLink(spec, clock, server.endpoint) as other:
                assert (await other.request_mode(PlantMode.REMOTE)).ok
                process.send_signal(signal.SIGCONT)
                for beat in range(40):
                    await other.beat(beat)
                    await asyncio.sleep(0.05)
                    assert layer.mode is PlantMode.REMOTE, "the second controller keeps it"
                assert len(written) == count
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_a_node_that_cannot_be_published_fails_no_command(site):
    async with ControllerServer(site.loop, "opc.tcp://127.0.0.1:0/homeostat/controller", publish_s=0.1) as served:
        with ControllerClient(served.endpoint) as client:
            before = await asyncio.to_thread(client.snapshot)
            assert abs(before.published_s - time.time()) < 60.0
            state = site.loop.state
            site.loop.state = lambda: 1 / 0
            assert await asyncio.to_thread(client.set_target, "T", 55.0, "ann") == ""
            assert site.loop.targets.values == {"T": 55.0}
            shown = await asyncio.to_thread(client.snapshot)
            await asyncio.sleep(0.3)
            later = await asyncio.to_thread(client.snapshot)
            assert later.published_s == shown.published_s, "it says that what is shown is old"
            site.loop.state = state
            end = time.monotonic() + 20.0
            while (again := await asyncio.to_thread(client.snapshot)).published_s == later.published_s:
                assert time.monotonic() < end, "published again"
                await asyncio.sleep(0.02)
            assert again.targets == {"T": 55.0}
            assert "name of a person" in await asyncio.to_thread(client.override, "", "")
            await asyncio.to_thread(client.close)
