"""REMOTE at the simulated plant is a lease of one session: what strangers, successors and the operator can and cannot do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from asyncua import Client, ua

from plant.clock import LockStepClock, ScaledClock
from plant.errors import SpecError
from plant.handshake import SIMULATED, Alive, Watchdog
from plant.link import PlantMode
from plant.opcua.client import OpcUaLink, Severity, check
from plant.opcua.server import PlantServer
from plant.spec import PlantSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = 1_750_000_000.25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(heater_dict, make_heater) -> AsyncIterator[PlantServer]:
    slow = {**SIMULATED.model_dump(), "watchdog": {**SIMULATED.watchdog.model_dump(), "period_s": 5.0}}
    spec = PlantSpec.model_validate(heater_dict(handshake=slow))
    async with PlantServer(spec, make_heater(), LockStepClock(START), by_hand=True) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def held(served: PlantServer) -> AsyncIterator[tuple[PlantServer, Client, Client]]:
    """The plant, the client that holds it, and a stranger."""
    served.regulatory.take_local("the next test")
    async with Client(served.endpoint) as holder, Client(served.endpoint) as stranger:
        holder.description = "the holder"
        assert await ask(holder, PlantMode.REMOTE) == ""
        yield served, holder, stranger
    served.regulatory.take_local("the next test")


async def ask(client: Client, mode: PlantMode) -> str:
    answer = await client.get_node("ns=2;s=Regulatory").call_method(
        "2:RequestMode", ua.Variant(int(mode), ua.VariantType.Int32)
    )
    return answer or ""


async def write(client: Client, node: str, value: float, kind: ua.VariantType) -> str:
    (status,) = await client.uaclient.write_attributes(
        [ua.NodeId.from_string(f"ns=2;s={node}")], [ua.DataValue(ua.Variant(value, kind), StatusCode=None)]
    )
    return status.name


async def owner(client: Client) -> str:
    return await client.get_node("ns=2;s=Regulatory.Owner").read_value()


async def test_nothing_of_a_stranger_is_taken(held) -> None:
    server, holder, stranger = held
    beats = [await write(stranger, "Regulatory.ControllerHeartbeat", k, ua.VariantType.UInt32) for k in range(20)]
    moves = [await write(stranger, "heater.U", 20.0 + k, ua.VariantType.Double) for k in range(20)]
    assert set(beats + moves) == {"BadUserAccessDenied"}
    for mode in PlantMode:
        refusal = await ask(stranger, mode)
        assert refusal.startswith("held by ")
        assert await owner(stranger) in refusal
    assert server.regulatory.mode is PlantMode.REMOTE
    assert await write(holder, "heater.U", 33.0, ua.VariantType.Double) == "Good"
    assert await write(holder, "Regulatory.ControllerHeartbeat", 1, ua.VariantType.UInt32) == "Good"


async def test_a_strangers_heartbeat_does_not_keep_a_dead_controllers_plant(
    heater_spec, make_heater, eventually
) -> None:
    async with (
        PlantServer(heater_spec, make_heater(), ScaledClock(1.0, START)) as server,
        Client(server.endpoint) as holder,
        Client(server.endpoint) as stranger,
    ):
        assert await ask(holder, PlantMode.REMOTE) == ""
        began = server.clock.wall_time()
        k = 0
        while server.regulatory.mode is PlantMode.REMOTE:
            k += 1
            await write(stranger, "Regulatory.ControllerHeartbeat", k, ua.VariantType.UInt32)
            assert server.clock.wall_time() - began < 10.0
            await asyncio.sleep(0.05)
        assert "heartbeat lost" in server.regulatory.shed_reason


async def test_the_lease_ends_with_the_session_at_once(held, eventually) -> None:
    server, _, stranger = held
    server.regulatory.take_local("the next test")
    async with Client(server.endpoint) as second:
        assert await ask(second, PlantMode.REMOTE) == ""
        name = await owner(stranger)
    await eventually(lambda: server.regulatory.mode is PlantMode.LOCAL, "the holder left", deadline_s=3.0)
    assert server.regulatory.shed_reason == f"the session of {name} ended"

    async def told() -> bool:
        return await owner(stranger) == ""

    await eventually(told, "clients see it, with no scan in between")
    assert await ask(stranger, PlantMode.REMOTE) == "", "and the next may have it"


async def test_whoever_was_taken_from_can_neither_move_nor_take_it_from_the_next(held) -> None:
    """As a controller that stood still (SIGSTOP) and wakes up after another has taken over."""
    server, paused, successor = held
    server.regulatory.take_local("its heartbeat stopped")
    assert await ask(successor, PlantMode.REMOTE) == ""
    assert await write(paused, "heater.U", 20.0, ua.VariantType.Double) == "BadUserAccessDenied"
    assert await write(paused, "Regulatory.ControllerHeartbeat", 7, ua.VariantType.UInt32) == "BadUserAccessDenied"
    assert (await ask(paused, PlantMode.LOCAL)).startswith("held by ")
    assert server.regulatory.mode is PlantMode.REMOTE


async def test_the_operator_at_the_plant_takes_it_by_name(held) -> None:
    server, holder, stranger = held
    parent = stranger.get_node("ns=2;s=Regulatory")
    assert "say who" in await parent.call_method("2:TakeLocal", "")
    assert "say who" in await parent.call_method("2:TakeLocal", "x" * 10_000)
    assert server.regulatory.mode is PlantMode.REMOTE
    assert not await parent.call_method("2:TakeLocal", "ann, local panel")
    assert server.regulatory.mode is PlantMode.LOCAL
    reason = await holder.get_node("ns=2;s=Regulatory.ShedReason").read_value()
    assert reason == "taken into local control by ann, local panel"
    assert await write(holder, "heater.U", 33.0, ua.VariantType.Double) == "BadInvalidState"


async def test_a_session_cannot_be_taken_over_by_guessing_its_secret(held) -> None:
    server, _, _ = held
    internal = server._server.iserver  # type: ignore[union-attr]
    for token, session in internal._external_sessions.items():
        assert token.NodeIdType is ua.NodeIdType.Guid
        assert token.to_string() not in session.label
        assert token != session.session_id


async def test_a_link_knows_whether_the_lease_is_its_own(held) -> None:
    server, _, _ = held
    server.regulatory.take_local("the next test")
    async with (
        OpcUaLink(server.spec, ScaledClock(), server.endpoint) as link,
        OpcUaLink(server.spec, ScaledClock(), server.endpoint) as other,
    ):
        assert (await link.read()).owned is False
        assert (await link.request_mode(PlantMode.REMOTE)).ok
        sample = await link.read()
        assert (sample.mode, sample.owned, sample.faults) == (PlantMode.REMOTE, True, ())
        theirs = await other.read()
        assert (theirs.mode, theirs.owned) == (PlantMode.REMOTE, False)
        assert "held by Homeostat" in (await other.request_mode(PlantMode.REMOTE)).rejected["Mode"]
        assert "BadUserAccessDenied" in (await other.write({"U": 20.0})).rejected["U"]
        assert (await other.request_mode(PlantMode.LOCAL)).ok
        assert (await link.read()).mode is PlantMode.REMOTE, "what is not ours stays whose it is"
        assert (await link.request_mode(PlantMode.LOCAL)).ok
        assert (await link.read()).mode is PlantMode.LOCAL


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"watchdog": Watchdog(node="p:s=W", form="toggle")}, "handshake.watchdog"),
        ({"alive": Alive(node="p:s=A", form="toggle")}, "handshake.alive"),
        ({"speed": 20.0}, "handshake.speed"),
        ({"permit": None}, "handshake.permit"),
    ],
)
async def test_a_handshake_that_the_layer_does_not_speak_is_refused(heater_dict, make_heater, change, field) -> None:
    handshake = SIMULATED.model_dump() | {k: getattr(v, "model_dump", lambda v=v: v)() for k, v in change.items()}
    spec = PlantSpec.model_validate(heater_dict(handshake=handshake))
    with pytest.raises(SpecError, match=field):
        PlantServer(spec, make_heater(), LockStepClock(START))


async def test_a_plant_without_a_handshake_shows_its_tags_and_takes_nothing(heater_dict, make_heater) -> None:
    spec = PlantSpec.model_validate(heater_dict(handshake=None))
    clock = ScaledClock()
    async with PlantServer(spec, make_heater(), clock) as server, Client(server.endpoint) as client:
        found = [n for n in await client.nodes.objects.get_children() if n.nodeid.Identifier == "heater"]
        names = [(await n.read_browse_name()).Name for n in await found[0].get_children()]
        assert names == ["T", "D", "F", "U", "V"]
        assert await write(client, "heater.U", 20.0, ua.VariantType.Double) == "BadNotWritable"
        assert [f.severity for f in await check(spec, server.endpoint)] == [Severity.WARNING]


async def test_the_layer_stands_where_the_plant_file_says(heater_dict, make_heater) -> None:
    handshake = SIMULATED.model_dump()
    handshake["granted"]["node"] = "v:i=77"
    handshake["owner"] = None
    spec = PlantSpec.model_validate(
        heater_dict(handshake=handshake, namespaces={"p": "urn:homeostat:plant", "v": "urn:vendor"})
    )
    async with PlantServer(spec, make_heater(), LockStepClock(START), by_hand=True) as server:
        async with Client(server.endpoint) as client:
            index = await client.get_namespace_index("urn:vendor")
            assert await client.get_node(ua.NodeId(77, index)).read_value() == 0
            with contextlib.suppress(ua.UaError):
                await owner(client)
                pytest.fail("there is no owner node")
        assert await check(spec, server.endpoint) == []


async def test_a_link_is_told_what_a_simulated_plant_lives_through(heater_spec, make_heater) -> None:
    async with (
        PlantServer(
            heater_spec, make_heater(), LockStepClock(START), by_hand=True, scenario='{"name": "day"}'
        ) as server,
        OpcUaLink(heater_spec, ScaledClock(), server.endpoint) as link,
    ):
        assert (await link.read()).faults == ()
        assert link.scenario == '{"name": "day"}'
