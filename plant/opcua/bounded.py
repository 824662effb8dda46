"""Our own OPC UA servers: who calls is known, and nobody can exhaust them.

asyncua tells neither a write nor a method whose session it came from, gives sessions guessable secrets, counts silent
connections like working ones and keeps whatever a client sends until it is a whole message.
"""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Sized
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlparse

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.user_managers import UserManager

from plant.errors import LinkError
from plant.opcua.session import Service

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64  # a control room, its historians and a few engineers; each costs a task and some buffers
HELLO_S = 5.0  # from connecting to an activated session; a client on the slowest line needs three round trips
MAX_MESSAGE = 2**20  # bytes of one request: 10,000 values to write are half of it
MAX_CHUNK = 2**16 - 1  # bytes of one chunk: what asyncua's clients ask for
MAX_PENDING = 100  # requests of one connection that wait; a client that awaits its answers has one or two
MAX_OPERATIONS = 2000  # nodes of one request, as the server declares it: half a message of long node ids
MAX_SUBSCRIPTIONS = 4 * MAX_CONNECTIONS
MAX_QUEUE = 1000  # changes kept for one monitored item: a minute of scans at 20 a second
MAX_TEXT = 500  # characters of a text from a client: a name, a reason
_NAME = 64  # characters of a session's name that are kept

_caller: ContextVar[str] = ContextVar("session that calls", default="")


def caller() -> str:
    """Within a client's write or method call: which session calls, its name and its id; '' for the server itself."""
    return _caller.get()


class OrdinaryUsers(UserManager):
    """Every session is an ordinary user, whatever name it gives: none may change nodes or attributes."""

    def get_user(self, iserver, username=None, password=None, certificate=None) -> User:
        return User(role=UserRole.User, name=username)


class _Session(InternalSession):
    """A session with an id and a secret that nobody can guess, and that is known while it writes or calls."""

    def __init__(self, iserver: _InternalServer, name: str, external: bool) -> None:
        super().__init__(
            iserver, iserver.aspace, iserver.subscription_service, name, User(role=UserRole.Anonymous), False
        )
        self.external = external
        self.session_id = ua.NodeId(uuid.uuid4(), 1)
        self.auth_token = ua.NodeId(uuid.uuid4(), 1)
        self._given = ""
        if external:
            iserver.register_external_session(self)

    @property
    def label(self) -> str:
        """What others are told of it: never its secret."""
        return f"{self._given} ({self.session_id.to_string()})".strip()

    async def create_session(
        self, params: ua.CreateSessionParameters, sockname: tuple[str, int] | None = None
    ) -> ua.CreateSessionResult:
        self._given = "".join(c for c in str(params.SessionName or "") if c.isprintable())[:_NAME]
        return await super().create_session(params, sockname)

    async def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        self._bound(params.NodesToRead)
        return await super().read(params)

    async def browse(self, params: ua.BrowseParameters) -> list[ua.BrowseResult]:
        self._bound(params.NodesToBrowse)
        return await super().browse(params)

    async def translate_browsepaths_to_nodeids(self, params: list[ua.BrowsePath]) -> list[ua.BrowsePathResult]:
        self._bound(params)
        return await super().translate_browsepaths_to_nodeids(params)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        self._bound(params.ItemsToCreate)
        return await super().create_monitored_items(params)

    async def write(self, params: ua.WriteParameters) -> list[ua.StatusCode]:
        self._bound(params.NodesToWrite)
        with self._calling():
            return await super().write(params)

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        self._bound(params)
        with self._calling():
            return await super().call(params)

    def _bound(self, operations: Sized) -> None:
        if len(operations) > MAX_OPERATIONS:
            raise ua.UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)

    async def close_session(self, delete_subs: bool = True) -> None:
        await super().close_session(delete_subs)
        assert isinstance(self.iserver, _InternalServer)
        self.iserver.on_closed(self.label)

    @contextlib.contextmanager
    def _calling(self):
        token = _caller.set(self.label)
        try:
            yield
        finally:
            _caller.reset(token)


class _InternalServer(InternalServer):
    """asyncua's server with sessions of ours; `on_closed` is told the label of each that ends."""

    def __init__(self) -> None:
        super().__init__(user_manager=OrdinaryUsers())
        self.on_closed: Callable[[str], None] = lambda _: None
        self.max_connections = MAX_CONNECTIONS
        self.max_pending_activation_seconds = HELLO_S
        self.max_pending_messages_per_connection = MAX_PENDING
        self.max_subscriptions = MAX_SUBSCRIPTIONS
        self.max_monitored_item_queue_size = MAX_QUEUE
        self.allow_remote_admin = False
        self.supported_tokens = (ua.AnonymousIdentityToken,)  # pyright: ignore[reportAttributeAccessIssue]

    def create_session(
        self, name: str, user: User = User(role=UserRole.Anonymous), external: bool = False
    ) -> InternalSession:
        return _Session(self, name, external)


class _Protocol(OPCUAProtocol):
    """One connection. A full house makes room by closing the connection that has been silent longest; half a message that
    is already too long ends its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self.clients) >= self.iserver.max_connections:
            waiting = (c for c in self.clients if isinstance(c, _Protocol) and not c.active)
            if (oldest := next(waiting, None)) is not None:
                oldest.drop("to make room")
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self._buffer) > self.limits.max_recv_buffer:
            self.drop("its message is too long")

    @property
    def active(self) -> bool:
        """Whether a session is activated on it."""
        session = self.processor.session if self.processor is not None else None
        return session is not None and session.is_activated()

    def drop(self, why: str) -> None:
        """Close it at once, without waiting for what was to be sent."""
        log.warning("closing the connection from %s: %s", self.peer_name, why)
        if self in self.clients:
            self.clients.remove(self)
        self._buffer = b""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


class _BinaryServer(BinaryServer):
    def _make_protocol(self) -> OPCUAProtocol:
        return _Protocol(self.iserver, self._policies, self.clients, self.closing_tasks, self.limits)


class BoundedServer(Server):
    """An asyncua server for anonymous users who may read, call and write what `gate` takes; see `caller`.

    **Arguments:**

    - `endpoint`: an `opc.tcp://` URL; port 0 takes any free port. `url` says what it became after `start`.
    - `host`: the interface to bind.
    - `on_closed`: told the label of each session that ends.

    `LinkError` for an endpoint that is none, and from `start` for a port that is taken.
    """

    def __init__(self, name: str, endpoint: str, host: str, on_closed: Callable[[str], None] | None = None) -> None:
        parsed = urlparse(endpoint)
        if parsed.scheme != "opc.tcp" or parsed.port is None:
            raise LinkError("not an opc.tcp:// address with a port", endpoint, "Correct the endpoint.")
        internal = _InternalServer()
        if on_closed is not None:
            internal.on_closed = on_closed
        super().__init__(internal)
        self.url = endpoint
        self._parsed, self._port = parsed, parsed.port
        self.set_endpoint(endpoint)
        self.socket_address = (host, parsed.port)
        self.set_server_name(name)
        self.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        self.limits.max_recv_buffer = self.limits.max_send_buffer = MAX_CHUNK
        self.limits.max_message_size = MAX_MESSAGE
        self.limits.max_chunk_count = 2 + MAX_MESSAGE // MAX_CHUNK

    async def init(self, shelf_file: Path | None = None) -> None:
        await super().init(shelf_file)
        for service in Service:
            await self.get_node(service.node).write_value(ua.Variant(MAX_OPERATIONS, ua.VariantType.UInt32))

    async def start(self) -> None:
        assert self.socket_address is not None
        await self._setup_server_nodes()
        await self.iserver.start()
        try:
            self.bserver = _BinaryServer(self.iserver, *self.socket_address, self.limits)
            self.bserver.set_policies(self._policies)
            await self.bserver.start()
        except OSError as e:
            await self.iserver.stop()
            raise self.taken(e) from e
        self.url = self._parsed._replace(netloc=f"{self._parsed.hostname}:{self.bserver.port}").geturl()

    def taken(self, error: OSError) -> LinkError:
        """The port cannot be listened on."""
        host = self.socket_address[0] if self.socket_address else ""
        return LinkError(
            f"cannot listen on port {self._port} of {host}: {error.strerror or error}",
            self.url,
            "Stop the program that uses the port, or give another endpoint.",
        )
