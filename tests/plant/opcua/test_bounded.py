"""Nobody exhausts our servers: silent connections, endless messages, crowds."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from asyncua import Client, ua

from plant.opcua import bounded
from plant.opcua.bounded import BoundedServer, caller
from plant.opcua.session import Session

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[BoundedServer]:
    server = BoundedServer("test", "opc.tcp://127.0.0.1:0/test", "127.0.0.1")
    await server.init()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def port(server: BoundedServer) -> int:
    return int(server.url.split(":")[2].split("/")[0])


async def test_a_crowd_of_silent_connections_keeps_nobody_out(server: BoundedServer, monkeypatch) -> None:
    monkeypatch.setattr(server.iserver, "max_connections", 20)
    async with contextlib.AsyncExitStack() as stack:
        early = await stack.enter_async_context(Client(server.url))
        silent = [await asyncio.open_connection("127.0.0.1", port(server)) for _ in range(100)]
        await asyncio.sleep(0)
        assert len(server.bserver.clients) <= 20
        began = time.monotonic()
        late = await stack.enter_async_context(Client(server.url))
        assert time.monotonic() - began < 4.0
        for client in (early, late):
            assert await client.nodes.server_state.read_value() == ua.ServerState.Running
        for _, writer in silent:
            writer.close()


async def test_working_sessions_are_not_thrown_out_for_a_newcomer(server: BoundedServer, monkeypatch) -> None:
    monkeypatch.setattr(server.iserver, "max_connections", 2)
    await asyncio.sleep(0.1)
    async with Client(server.url) as first, Client(server.url) as second:
        with pytest.raises((OSError, ua.UaError, asyncio.TimeoutError)):
            await Client(server.url, timeout=1).connect()
        for client in (first, second):
            assert await client.nodes.server_state.read_value() == ua.ServerState.Running


async def test_who_says_no_hello_is_closed(server: BoundedServer, monkeypatch) -> None:
    monkeypatch.setattr(server.iserver, "max_pending_activation_seconds", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    assert await asyncio.wait_for(reader.read(), 5.0) == b""
    writer.close()


async def test_half_a_message_without_end_is_closed(server: BoundedServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(struct.pack("<3scI", b"HEL", b"F", 2**31))
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 2**24:
            writer.write(b"x" * 2**16)
            await asyncio.wait_for(writer.drain(), 5.0)
            sent += 2**16
            if reader.at_eof():
                break
            await asyncio.sleep(0)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5.0) == b""
    assert all(len(c._buffer) <= 2 * bounded.MAX_CHUNK for c in server.bserver.clients)
    assert sent < 2**24
    writer.close()


async def test_a_message_that_is_too_large_is_refused_and_others_go_on(server: BoundedServer) -> None:
    async with Client(server.url) as good, Client(server.url, timeout=3) as big:
        wanted = ua.ReadParameters(
            NodesToRead=[ua.ReadValueId(NodeId=ua.NodeId("x" * 1000, 2), AttributeId=ua.AttributeIds.Value)] * 2000
        )
        with pytest.raises((OSError, ua.UaError, asyncio.TimeoutError)):
            await big.uaclient.read(wanted)
        assert await good.nodes.server_state.read_value() == ua.ServerState.Running
        with contextlib.suppress(Exception):
            big.disconnect_socket()


async def test_a_long_session_name_is_cut_and_the_server_itself_has_none(server: BoundedServer) -> None:
    seen = []

    async def who(_parent):
        seen.append(caller())
        return []

    node = await server.nodes.objects.add_method(2, "Who", who, [], [])
    client = Client(server.url)
    client.description = "a\nb" + "x" * 5000
    async with client:
        await client.nodes.objects.call_method(node.nodeid)
    (label,) = seen
    assert len(label) < 150
    assert "\n" not in label
    assert caller() == ""


async def test_a_request_for_too_many_nodes_is_refused_and_a_link_asks_for_fewer(server: BoundedServer) -> None:
    many = [ua.NodeId(ua.ObjectIds.Server_ServerStatus_State)] * (bounded.MAX_OPERATIONS + 1)
    async with Client(server.url) as client:
        with pytest.raises(ua.uaerrors.BadTooManyOperations):
            await client.uaclient.read(ua.ReadParameters(NodesToRead=[ua.ReadValueId(NodeId=n) for n in many]))
    session = await Session.open(server.url, 5.0)
    assert len(await session.read(many)) == len(many)
    await session.close()
