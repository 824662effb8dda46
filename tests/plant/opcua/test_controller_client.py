"""`ControllerClient` from blocking threads, against a real server with the controller's node set."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio
from asyncua import Server, ua

from plant.controller_nodes import (
    CONTROLLER_NODE_ID,
    CONTROLLER_URI,
    METHOD_INPUTS,
    VARIABLE_KINDS,
    Method,
    Variable,
    controller_node_id,
)
from plant.errors import LinkError
from plant.opcua.controller_client import ControllerClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUES = {
    Variable.MODE_TARGET: "AUTO",
    Variable.MODE_ACTUAL: "SHED",
    Variable.MODE_REASON: "TI101 is bad",
    Variable.SOLVE_TIME: 12.5,
    Variable.CYCLES: 77,
    Variable.TARGETS: json.dumps({"AI101": 0.87}),
    Variable.LIMITS: json.dumps({"TC101": [290.0, 310.0]}),
    Variable.MARGINS: json.dumps({"high_temperature": {"now": 20.0, "worst": 3.5, "calibrated": None}}),
    Variable.PREDICTION: json.dumps({"time_s": [1.0, 2.0], "tags": {"AI101": [0.8, 0.9]}, "moves": {"TC101": [300, 301]}}),
    Variable.ALARMS: json.dumps(
        [{"key": "k", "severity": "high", "message": "m", "since_s": 5.0, "active": True, "acknowledged": False}]
    ),
}  # fmt: skip


@contextlib.asynccontextmanager
async def controller(endpoint: str, calls: list):
    """A server with the agreed nodes; each method notes its arguments, SetMode refuses OFF."""
    server = Server()
    await server.init()
    server.set_endpoint(endpoint)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.register_namespace(CONTROLLER_URI)
    parent = await server.nodes.objects.add_object(ua.NodeId.from_string(CONTROLLER_NODE_ID), "2:Controller")
    for variable in Variable:
        kind = ua.VariantType[VARIABLE_KINDS[variable]]
        value = VALUES.get(variable, ua.get_default_value(kind))
        await parent.add_variable(controller_node_id(variable), f"2:{variable.value}", value, kind)

    def note(method: Method):
        async def called(_parent, *arguments):
            calls.append((method, *[a.Value for a in arguments]))
            refusal = "not from here" if arguments[0].Value == "OFF" else ""
            return [ua.Variant(refusal, ua.VariantType.String)]

        return called

    for method, inputs in METHOD_INPUTS.items():
        kinds = [ua.VariantType[kind] for _, kind in inputs]
        await parent.add_method(
            ua.NodeId.from_string(controller_node_id(method)),
            f"2:{method.value}",
            note(method),
            kinds,
            [ua.VariantType.String],
        )
    async with server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(free_port):
    calls: list = []
    endpoint = f"opc.tcp://127.0.0.1:{free_port()}/controller"
    async with controller(endpoint, calls) as server:
        yield server, endpoint, calls


async def test_snapshot_is_parsed_whole(served):
    _, endpoint, _ = served
    with ControllerClient(endpoint) as client:
        shown = await asyncio.to_thread(client.snapshot)
        await asyncio.to_thread(client.close)
    assert (shown.mode_target, shown.mode_actual, shown.mode_reason) == ("AUTO", "SHED", "TI101 is bad")
    assert (shown.solve_time_ms, shown.cycles, shown.heartbeat) == (12.5, 77, 0)
    assert shown.targets == {"AI101": 0.87}
    assert shown.limits == {"TC101": (290.0, 310.0)}
    margin = shown.margins["high_temperature"]
    assert (margin.now, margin.worst, math.isnan(margin.calibrated)) == (20.0, 3.5, True)
    assert shown.prediction.time_s == (1.0, 2.0)
    assert shown.prediction.moves == {"TC101": (300.0, 301.0)}
    (alarm,) = shown.alarms
    assert (alarm.key, alarm.active, alarm.acknowledged) == ("k", True, False)


async def test_commands_carry_their_arguments_and_return_the_refusal(served):
    _, endpoint, calls = served
    calls.clear()

    def command() -> list[str]:
        with ControllerClient(endpoint) as client:
            return [
                client.set_mode("AUTO", "ann", "start"),
                client.set_mode("OFF", "ann"),
                client.set_target("AI101", 1, "ann"),
                client.set_limit("TC101", 291, 309, "ann"),
                client.set_move("TC101", 300.5, "ann"),
                client.acknowledge("k", "ann"),
            ]

    assert await asyncio.to_thread(command) == ["", "not from here", "", "", "", ""]
    assert calls == [
        (Method.SET_MODE, "AUTO", "ann", "start"),
        (Method.SET_MODE, "OFF", "ann", ""),
        (Method.SET_TARGET, "AI101", 1.0, "ann"),
        (Method.SET_LIMIT, "TC101", 291.0, 309.0, "ann"),
        (Method.SET_MOVE, "TC101", 300.5, "ann"),
        (Method.ACKNOWLEDGE, "k", "ann"),
    ]


async def test_many_threads_may_share_one_client(served):
    _, endpoint, _ = served

    def work() -> list[str]:
        with ControllerClient(endpoint) as client, ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda _: client.snapshot().mode_actual, range(40)))

    assert await asyncio.to_thread(work) == ["SHED"] * 40


async def test_nodes_that_do_not_read_as_agreed_are_an_error(served):
    server, endpoint, _ = served
    node = server.get_node(controller_node_id(Variable.LIMITS))
    good = await node.read_value()
    with ControllerClient(endpoint) as client:
        for wrong in ("{not json", '{"TC101": [1]}', "[]"):
            await node.write_value(wrong)
            with pytest.raises(LinkError, match="do not read as agreed"):
                await asyncio.to_thread(client.snapshot)
        await node.write_value(good)
        assert (await asyncio.to_thread(client.snapshot)).limits == {"TC101": (290.0, 310.0)}
        await asyncio.to_thread(client.close)


async def test_lost_controller_is_an_error_until_it_is_back(free_port):
    endpoint = f"opc.tcp://127.0.0.1:{free_port()}/controller"
    client = ControllerClient(endpoint)
    with pytest.raises(LinkError, match="cannot connect"):
        await asyncio.to_thread(client.snapshot)
    for _ in range(2):
        async with controller(endpoint, []):
            end = time.monotonic() + 10
            while True:
                try:
                    assert (await asyncio.to_thread(client.snapshot)).cycles == 77
                    break
                except LinkError:
                    assert time.monotonic() < end, "it must find the controller again"
        with pytest.raises(LinkError):
            await asyncio.to_thread(client.snapshot)
    await asyncio.to_thread(client.close)
    client.close()
    with pytest.raises(LinkError, match="closed"):
        client.snapshot()
