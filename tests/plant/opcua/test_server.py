"""The plant's server, seen by a plain asyncua client as any SCADA would see it."""

from __future__ import annotations

import asyncio
import math

import pytest
import pytest_asyncio
from asyncua import Client, ua

from plant.clock import LockStepClock, ScaledClock
from plant.errors import LinkError, SpecError
from plant.link import PlantMode, Quality
from plant.opcua.nodes import to_seconds
from plant.opcua.server import PlantServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = 1_750_000_000.25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(heater_spec, make_heater):
    async with (
        PlantServer(heater_spec, make_heater(), LockStepClock(START), by_hand=True) as server,
        Client(server.endpoint) as client,
    ):
        yield server, client


@pytest_asyncio.fixture(loop_scope="module")
async def plant(served, make_heater):
    """The shared server back at its beginning: fresh process, LOCAL, no faults, one scan done."""
    server, client = served
    server.process = make_heater()
    for tag in server.spec.online:
        server.release(tag.name)
    server.regulatory.take_local("the next test")
    for _ in range(40):  # long enough for every output to come home at its rate
        await server.scan()
    return server, client


def node(client: Client, tag: str):
    return client.get_node(f"ns=2;s=heater.{tag}")


def reg(client: Client, name: str):
    return client.get_node(f"ns=2;s=Regulatory.{name}")


async def request_mode(client: Client, *arguments: ua.Variant):
    parent = client.get_node("ns=2;s=Regulatory")
    return await parent.call_method("2:RequestMode", *arguments)


def int32(value: int) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.Int32)


def double(value: float) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.Double)


async def test_engineering_data_is_visible_to_any_client(plant):
    server, client = plant
    assert (await client.get_namespace_array())[2] == "urn:homeostat:plant"
    (found,) = [n for n in await client.nodes.objects.get_children() if n.nodeid.Identifier == "heater"]
    names = [(await n.read_browse_name()).Name for n in await found.get_children()]
    assert names == ["T", "D", "F", "U", "V", "Regulatory"], "every online tag, no hidden one"
    for tag in server.spec.online:
        n = client.get_node(f"ns=2;s=heater.{tag.name}")
        assert await n.read_type_definition() == ua.NodeId(ua.ObjectIds.AnalogItemType)
        assert await n.read_data_type() == ua.NodeId(ua.ObjectIds.Double)
        assert (await n.read_description()).Text == tag.description
        eu_range = await (await n.get_child("0:EURange")).read_value()
        assert (eu_range.Low, eu_range.High) == tag.range
        units = await (await n.get_child("0:EngineeringUnits")).read_value()
        assert units.DisplayName.Text == tag.unit
        writable = ua.AccessLevel.CurrentWrite in await n.get_user_access_level()
        assert writable is (tag.role == "MV")
    assert await reg(client, "ClockSpeed").read_value() == float("inf")


async def test_each_scan_stamps_plant_time(plant):
    server, client = plant
    before = await node(client, "T").read_data_value()
    beats = await reg(client, "Heartbeat").read_value()
    await server.scan()
    await server.scan()
    after = await node(client, "T").read_data_value()
    assert to_seconds(after.SourceTimestamp) - to_seconds(before.SourceTimestamp) == 2 * server.spec.scan_time_s
    assert (to_seconds(after.SourceTimestamp) - START) % 1.0 == 0.0
    assert await reg(client, "Heartbeat").read_value() == beats + 2
    assert after.ServerTimestamp is not None


async def test_local_loop_holds_the_process(plant):
    server, client = plant
    server.process.D = 5.0
    for _ in range(150):
        await server.scan()
    assert await node(client, "T").read_value() == pytest.approx(50.0, abs=0.1)
    assert await node(client, "U").read_value() == pytest.approx(25.0, abs=0.2)


async def test_failed_sensor_is_bad_without_a_value_and_trips_the_interlock(plant):
    server, client = plant
    server.process.T_bad = True
    await server.scan()
    bad = await node(client, "T").read_data_value(raise_on_bad_status=False)
    assert bad.StatusCode.value == ua.StatusCodes.BadSensorFailure
    assert bad.Value.Value is None
    assert await reg(client, "Interlock").read_value() is True
    assert "interlock active on T" in await request_mode(client, int32(1))
    server.process.T_bad = False
    await server.scan()
    assert (await node(client, "T").read_data_value()).StatusCode.is_good()
    assert await reg(client, "Interlock").read_value() is False


async def test_value_outside_the_engineering_range_is_uncertain(plant):
    server, client = plant
    server.process.F = 12.0
    await server.scan()
    value = await node(client, "F").read_data_value(raise_on_bad_status=False)
    assert value.StatusCode.value == ua.StatusCodes.UncertainEngineeringUnitsExceeded
    assert value.Value.Value == 12.0


async def status_of_write(client: Client, n, value: ua.Variant) -> str:
    (status,) = await client.uaclient.write_attributes([n.nodeid], [ua.DataValue(value, StatusCode=None)])
    return status.name


async def test_every_refused_write_has_a_real_status(plant):
    server, client = plant
    u = node(client, "U")
    assert await status_of_write(client, u, double(31.0)) == "BadInvalidState"
    assert await request_mode(client, int32(1)) in ("", None)
    assert await status_of_write(client, u, double(80.5)) == "BadOutOfRange"
    assert await status_of_write(client, u, double(math.nan)) == "BadInvalidArgument"
    assert await status_of_write(client, u, int32(31)) == "BadTypeMismatch"
    assert await status_of_write(client, u, ua.Variant([31.0], ua.VariantType.Double)) == "BadTypeMismatch"
    assert await status_of_write(client, node(client, "T"), double(31.0)) == "BadNotWritable"
    assert await status_of_write(client, reg(client, "Mode"), int32(1)) == "BadNotWritable"
    assert await status_of_write(client, node(client, "X"), double(31.0)) == "BadNodeIdUnknown"
    assert await status_of_write(client, reg(client, "ControllerHeartbeat"), int32(1)) == "BadTypeMismatch"
    server.process.T = 120.0
    await server.scan()
    assert await status_of_write(client, u, double(31.0)) == "BadRequestNotAllowed"
    assert await status_of_write(client, node(client, "V"), double(41.0)) == "Good", "the interlock does not hold V"


async def test_partly_refused_batch_moves_the_rest(plant):
    server, client = plant
    await request_mode(client, int32(1))
    values = [ua.DataValue(double(35.0)), ua.DataValue(double(99.0))]
    statuses = await client.uaclient.write_attributes([node(client, "U").nodeid, node(client, "V").nodeid], values)
    assert [s.name for s in statuses] == ["Good", "BadOutOfRange"]
    await server.scan()
    assert await node(client, "U").read_value() == pytest.approx(35.0, abs=0.1)
    assert await node(client, "V").read_value() == pytest.approx(40.0)


async def test_remote_move_travels_at_its_rate(plant):
    server, client = plant
    await request_mode(client, int32(1))
    await node(client, "V").write_value(44.5)
    seen = []
    for _ in range(6):
        await server.scan()
        seen.append(await node(client, "V").read_value())
    assert seen == pytest.approx([41.0, 42.0, 43.0, 44.0, 44.5, 44.5])


async def test_clients_can_change_nothing_else(served, plant):
    server, client = plant
    t = node(client, "T")
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await t.write_attribute(
            ua.AttributeIds.AccessLevel, ua.DataValue(ua.Variant(ua.AccessLevel.CurrentWrite.mask, ua.VariantType.Byte))
        )
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await client.nodes.objects.add_object(2, "Intruder")
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await client.delete_nodes([t])
    assert await status_of_write(client, client.nodes.namespace_array, ua.Variant(["x"])) == "BadNotWritable"
    admin = Client(server.endpoint)
    admin.set_user("admin")
    with pytest.raises((ua.UaError, ConnectionError)):
        await admin.connect()


async def test_request_mode_checks_its_arguments(plant):
    _, client = plant
    with pytest.raises(ua.uaerrors.BadArgumentsMissing):
        await request_mode(client)
    with pytest.raises(ua.uaerrors.BadInvalidArgument):
        await request_mode(client, ua.Variant("REMOTE"))
    with pytest.raises(ua.uaerrors.BadTooManyArguments):
        await request_mode(client, int32(1), int32(1))
    assert "unknown mode 7" in await request_mode(client, int32(7))


async def test_silent_controller_is_shed_without_a_bump(plant, eventually):
    server, client = plant
    await request_mode(client, int32(1))
    await node(client, "U").write_value(45.0)
    for _ in range(5):
        await server.scan()
    heartbeat = reg(client, "ControllerHeartbeat")
    for counter in range(1, 15):  # beating, it stays in REMOTE for far longer than three heartbeats
        await heartbeat.write_value(ua.Variant(counter, ua.VariantType.UInt32))
        assert await reg(client, "Mode").read_value() == PlantMode.REMOTE
        await asyncio.sleep(0.05)

    async def local() -> bool:
        return await reg(client, "Mode").read_value() == PlantMode.LOCAL

    await eventually(local, "the watchdog sheds, with no scan in between")
    assert "heartbeat" in await reg(client, "ShedReason").read_value()
    before = await node(client, "U").read_value()
    await server.scan()
    assert await node(client, "U").read_value() == pytest.approx(before, abs=1e-9)


async def test_faults_can_be_injected(plant):
    server, client = plant

    async def read(tag: str) -> ua.DataValue:
        return await node(client, tag).read_data_value(raise_on_bad_status=False)

    server.override("D", 7.0, Quality.UNCERTAIN)
    server.override("F", quality=Quality.BAD)
    server.override("U", 11.0)
    await server.scan()
    assert (await read("D")).Value.Value == 7.0
    assert (await read("D")).StatusCode.is_uncertain()
    assert (await read("F")).StatusCode.is_bad()
    assert (await read("U")).Value.Value == 11.0
    assert server.regulatory.outputs[0, 0] == pytest.approx(30.0, abs=0.5), "an MV lies to clients only"

    server.override("F", frozen=True)
    server.override("D", stale=True)
    server.process.F = 3.0
    stamp = (await read("D")).SourceTimestamp
    await server.scan()
    frozen, stale = await read("F"), await read("D")
    assert frozen.Value.Value == 1.0
    assert frozen.SourceTimestamp > stamp
    assert (stale.Value.Value, stale.SourceTimestamp) == (7.0, stamp)

    for tag in ("D", "F", "U"):
        server.release(tag)
    await server.scan()
    assert (await read("F")).Value.Value == 3.0
    assert (await read("D")).SourceTimestamp > stamp
    with pytest.raises(SpecError, match="not on the endpoint"):
        server.override("H", 1.0)


async def test_port_in_use_is_one_clear_error(served, heater_spec, make_heater):
    server, _ = served
    with pytest.raises(LinkError, match=r"port \d+ of 127\.0\.0\.1.*Stop the program"):
        await PlantServer(heater_spec, make_heater(), LockStepClock(), endpoint=server.endpoint).run()
    with pytest.raises(LinkError, match="with a port"):
        await PlantServer(heater_spec, make_heater(), LockStepClock(), endpoint="opc.tcp://127.0.0.1").run()


async def test_late_scans_are_caught_up_none_is_skipped(heater_spec, make_heater, eventually, caplog):
    process = make_heater()
    process.pause_s = 0.01
    async with (
        PlantServer(heater_spec, process, ScaledClock(1000.0, START)) as server,
        Client(server.endpoint) as client,
    ):
        await eventually(lambda: server.scans > 60, "it goes on scanning, and still answers clients")
        first = await reg(client, "Heartbeat").read_data_value()
        await eventually(lambda: server.scans > 90, "and on")
        second = await reg(client, "Heartbeat").read_data_value()
        stamps_s = to_seconds(second.SourceTimestamp) - to_seconds(first.SourceTimestamp)
        assert stamps_s == pytest.approx(second.Value.Value - first.Value.Value)
        assert process.steps == server.scans
    late = [r for r in caplog.records if "late" in r.message]
    assert len(late) == 1


async def test_failing_process_ends_the_server(heater_spec, make_heater, eventually):
    process = make_heater()
    server = PlantServer(heater_spec, process, ScaledClock(50.0))
    running = asyncio.create_task(server.run())
    await eventually(lambda: server.scans > 3, "it runs")
    process.error = RuntimeError("integrator diverged")
    with pytest.raises(RuntimeError, match="integrator diverged"):
        await asyncio.wait_for(running, 10)
