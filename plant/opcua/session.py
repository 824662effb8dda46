"""One OPC UA session with one server, from connect to loss. It never reconnects: whoever owns it opens the next one."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TypeVar

from asyncua import Client, ua

from plant.errors import LinkError
from plant.opcua.nodes import good
from plant.opcua.types import builtin

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A")

_SESSION_TIMEOUT_MS = 60_000
_CHANNEL_LIFETIME_MS = 3_600_000
_KEEP_ALIVE_COUNT = 10
_LIFETIME_COUNT = 6 * _KEEP_ALIVE_COUNT
_QUEUE_SIZE = 1000  # changes a server keeps for one node between two publishes
_BACKLOG = 100  # publishes kept for a slow consumer before the server is made to wait
CONNECTION_ERRORS = (OSError, ua.UaError, asyncio.TimeoutError)
# How a server says that a request is too much at once (Part 4, 7.39.2).
_TOO_MUCH = (
    ua.uaerrors.BadTooManyOperations,
    ua.uaerrors.BadTooManyMonitoredItems,
    ua.uaerrors.BadRequestTooLarge,
    ua.uaerrors.BadResponseTooLarge,
    ua.uaerrors.BadEncodingLimitsExceeded,
    ua.uaerrors.BadTcpMessageTooLarge,
)
_GENERATIONS = 20  # no data type is further from its built-in one


class Service(StrEnum):
    """Services that take many operations at once; the value is the name of the server's limit (Part 5, 6.3.11)."""

    READ = "MaxNodesPerRead"
    WRITE = "MaxNodesPerWrite"
    MONITOR = "MaxMonitoredItemsPerCall"
    TRANSLATE = "MaxNodesPerTranslateBrowsePathsToNodeIds"

    @property
    def node(self) -> ua.NodeId:
        return ua.NodeId(
            getattr(ua.ObjectIds, f"Server_ServerCapabilities_OperationLimits_{self.value}")  # pyright: ignore[reportAttributeAccessIssue]
        )


class _Client(Client):
    """asyncua's client, which does not keep what the server calls our session."""

    session_id = ua.NodeId()

    async def create_session(self) -> ua.CreateSessionResult:
        created = await super().create_session()
        self.session_id = created.SessionId
        return created


class Session:
    """A connected asyncua client. Every call raises `LinkError` when the server cannot answer, and then `lost` is set.

    Requests are split by the operation limits that the server declares; a server that declares none and says
    BadTooManyOperations gets half as many from then on.
    """

    def __init__(self, client: _Client, endpoint: str) -> None:
        self._client, self._endpoint = client, endpoint
        self._limits: dict[Service, int] = {}
        self.lost = asyncio.Event()

    @property
    def name(self) -> str:
        """What the server calls this session, as text (`ns=1;g=...`)."""
        return self._client.session_id.to_string()

    @classmethod
    async def open(cls, endpoint: str, timeout_s: float) -> Session:
        """Connect. `timeout_s` bounds the connection as a whole, and later each request. Raises `LinkError`."""
        # auto_reconnect would loop on Republish against some servers and then deliver nothing: we open a fresh session.
        client = _Client(endpoint, timeout=timeout_s, auto_reconnect=False)
        client.name = client.description = "Homeostat"
        client.application_uri = "urn:homeostat:client"
        client.session_timeout = _SESSION_TIMEOUT_MS
        client.secure_channel_timeout = _CHANNEL_LIFETIME_MS
        session = cls(client, endpoint)
        client.connection_lost_callback = session._on_lost
        try:
            await asyncio.wait_for(client.connect(), timeout_s)
        except CONNECTION_ERRORS as e:
            client.disconnect_socket()
            raise session._error("cannot connect", e) from e
        try:
            await session._learn_limits()
        except LinkError:
            await session.close()
            raise
        return session

    async def close(self) -> None:
        """Say goodbye if the server still listens."""
        self.lost.set()
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._client.disconnect()

    async def read(
        self, nodes: Sequence[ua.NodeId], attribute: ua.AttributeIds = ua.AttributeIds.Value
    ) -> list[ua.DataValue]:
        """One attribute of many nodes in one request, with status and timestamps."""
        return await self.read_attributes([(node, attribute) for node in nodes])

    async def read_attributes(self, wanted: Sequence[tuple[ua.NodeId, ua.AttributeIds]]) -> list[ua.DataValue]:
        """Any attributes of any nodes, in as few requests as the server takes."""

        async def ask(part: Sequence[tuple[ua.NodeId, ua.AttributeIds]]) -> list[ua.DataValue]:
            nodes = [ua.ReadValueId(NodeId=node, AttributeId=attribute) for node, attribute in part]
            both = ua.TimestampsToReturn.Both
            return await self._client.uaclient.read(ua.ReadParameters(TimestampsToReturn=both, NodesToRead=nodes))

        return await self._in_parts(Service.READ, wanted, ask)

    async def write(self, values: Sequence[tuple[ua.NodeId, ua.Variant]]) -> list[ua.StatusCode]:
        """Write values, in as few requests as the server takes; one status code each, in order."""

        async def ask(part: Sequence[tuple[ua.NodeId, ua.Variant]]) -> list[ua.StatusCode]:
            # No timestamps or status with the value: many servers refuse those (BadWriteNotSupported).
            data = [ua.DataValue(value, StatusCode=None) for _, value in part]
            return await self._client.uaclient.write_attributes([node for node, _ in part], data)

        return await self._in_parts(Service.WRITE, values, ask)

    async def namespaces(self) -> list[str]:
        """The server's NamespaceArray now: the index of each URI is its place."""
        (answer,) = await self.read([ua.NodeId(ua.ObjectIds.Server_NamespaceArray)])
        table = good(answer)
        if not isinstance(table, list):
            raise LinkError("the server does not show its NamespaceArray", self._endpoint, "Correct the server.")
        return [str(uri) for uri in table]

    async def builtin(self, data_type: ua.NodeId) -> ua.VariantType | None:
        """The built-in type that a data type of the server comes down to by its supertypes; None for one that has none, as
        Number, or that the server does not show."""
        for _ in range(_GENERATIONS):
            if (kind := builtin(data_type)) is not None:
                return kind
            description = ua.BrowseDescription(
                NodeId=data_type,
                BrowseDirection=ua.BrowseDirection.Inverse,
                ReferenceTypeId=ua.NodeId(ua.ObjectIds.HasSubtype),
                IncludeSubtypes=True,
                NodeClassMask=0,
                ResultMask=0,
            )
            (result,) = await self._ask(self._client.uaclient.browse(ua.BrowseParameters(NodesToBrowse=[description])))
            if not result.StatusCode.is_good() or not result.References:
                return None
            data_type = result.References[0].NodeId
        return None

    async def call(self, parent: ua.NodeId, method: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
        """Call a method. A refusal by the server is in the result's status."""
        request = ua.CallMethodRequest(ObjectId=parent, MethodId=method, InputArguments=list(arguments))
        (result,) = await self._ask(self._client.uaclient.call([request]))
        return result

    async def children(self, parents: Sequence[ua.NodeId], names: Sequence[str]) -> list[ua.NodeId | None]:
        """Properties (namespace 0) by browse name: every name of every parent in turn; None where there is none."""
        paths = [
            ua.BrowsePath(
                StartingNode=parent,
                RelativePath=ua.RelativePath(
                    Elements=[
                        ua.RelativePathElement(
                            ReferenceTypeId=ua.NodeId(ua.ObjectIds.HasProperty),
                            IsInverse=False,
                            IncludeSubtypes=True,
                            TargetName=ua.QualifiedName(name, 0),
                        )
                    ]
                ),
            )
            for parent in parents
            for name in names
        ]
        results = await self._in_parts(Service.TRANSLATE, paths, self._client.uaclient.translate_browsepaths_to_nodeids)
        return [r.Targets[0].TargetId if r.StatusCode.is_good() and r.Targets else None for r in results]

    async def changes(
        self, nodes: Sequence[tuple[str, ua.NodeId]], period_s: float
    ) -> AsyncIterator[list[tuple[str, ua.DataValue]]]:
        """Every change of the nodes as (name, value), one list a publish, empty at a keep-alive.

        Raises `LinkError` when the connection is lost, or when the server has been silent for three keep-alives.
        """
        inbox: asyncio.Queue[ua.PublishResult] = asyncio.Queue(_BACKLOG)
        ended = False

        async def deliver(result: ua.PublishResult) -> None:
            if not ended:
                await inbox.put(result)

        # Subscribing below asyncua's Subscription class: publishes arrive in order, keep-alives count as signs of life,
        # and a slow consumer holds the server back instead of losing the oldest changes.
        created = await self._ask(
            self._client.uaclient.create_subscription(
                ua.CreateSubscriptionParameters(
                    RequestedPublishingInterval=period_s * 1000,
                    RequestedLifetimeCount=_LIFETIME_COUNT,
                    RequestedMaxKeepAliveCount=_KEEP_ALIVE_COUNT,
                    MaxNotificationsPerPublish=0,
                    PublishingEnabled=True,
                    Priority=0,
                ),
                deliver,
            )
        )
        keep_alive_s = created.RevisedPublishingInterval / 1000 * created.RevisedMaxKeepAliveCount
        try:
            await self._monitor(created.SubscriptionId, nodes)
            names = [name for name, _ in nodes]
            expected: int | None = None
            while True:
                result = await self._next(inbox, max(3 * keep_alive_s, 1.0))
                items = _data_changes(result)
                number = result.NotificationMessage.SequenceNumber
                if items and expected is not None and number != expected:
                    log.warning("%s: notifications %s to %s were lost", self._endpoint, expected, number - 1)
                expected = number + 1 if items else expected
                yield [(names[item.ClientHandle], item.Value) for item in items]
        finally:
            ended = True
            while not inbox.empty():  # lets go of a delivery that waits for room
                inbox.get_nowait()
            if not self.lost.is_set():
                with contextlib.suppress(LinkError):
                    await self._ask(self._client.uaclient.delete_subscriptions([created.SubscriptionId]))

    async def _monitor(self, subscription: int, nodes: Sequence[tuple[str, ua.NodeId]]) -> None:
        # A new timestamp counts as a change: a value that is measured again and is the same is still a sample.
        every_sample = ua.DataChangeFilter(
            Trigger=ua.DataChangeTrigger.StatusValueTimestamp, DeadbandType=0, DeadbandValue=0.0
        )

        async def ask(part: Sequence[ua.MonitoredItemCreateRequest]) -> list[ua.MonitoredItemCreateResult]:
            return await self._client.uaclient.create_monitored_items(
                ua.CreateMonitoredItemsParameters(
                    SubscriptionId=subscription,
                    TimestampsToReturn=ua.TimestampsToReturn.Both,
                    ItemsToCreate=list(part),
                )
            )

        for attempt in (every_sample, None):  # some servers know no filter
            wanted = [_item(node, handle, attempt) for handle, (_, node) in enumerate(nodes)]
            results = await self._in_parts(Service.MONITOR, wanted, ask)
            bad = {
                name: r.StatusCode for (name, _), r in zip(nodes, results, strict=True) if not r.StatusCode.is_good()
            }
            if not bad:
                return
            done = [r.MonitoredItemId for r in results if r.StatusCode.is_good()]
            if done:

                async def delete(part: Sequence[int]) -> list[ua.StatusCode]:
                    return await self._client.uaclient.delete_monitored_items(
                        ua.DeleteMonitoredItemsParameters(SubscriptionId=subscription, MonitoredItemIds=list(part))
                    )

                await self._in_parts(Service.MONITOR, done, delete)
        listed = ", ".join(f"{name} ({status.name})" for name, status in bad.items())
        raise LinkError(f"cannot subscribe to {listed}", self._endpoint, "Run `homeostat check` on the plant file.")

    async def _next(self, inbox: asyncio.Queue[ua.PublishResult], patience_s: float) -> ua.PublishResult:
        tasks = [asyncio.create_task(inbox.get()), asyncio.create_task(self.lost.wait())]
        try:
            await asyncio.wait(tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return tasks[0].result()  # type: ignore[return-value]
        finally:
            for task in tasks:
                task.cancel()
        if not self.lost.is_set():
            self.lost.set()
            raise LinkError(f"no sign of life for {patience_s:.0f} s", self._endpoint, "Reconnecting.")
        raise LinkError("connection lost", self._endpoint, "Reconnecting.")

    async def _learn_limits(self) -> None:
        """What the server says it takes at once; 0, or no such node, is no limit (Part 5, 6.3.11)."""
        for service, answer in zip(Service, await self.read([s.node for s in Service]), strict=True):
            limit = good(answer)
            self._limits[service] = limit if isinstance(limit, int) and limit > 0 else 0

    async def _in_parts(
        self, service: Service, items: Sequence[A], ask: Callable[[Sequence[A]], Awaitable[Sequence[T]]]
    ) -> list[T]:
        """All results of `ask`, in order, asked for in parts the server takes."""
        results: list[T] = []
        while len(results) < len(items):
            rest = items[len(results) :]
            part = rest[: self._limits.get(service) or len(rest)]
            try:
                answers = await self._ask(ask(part), _TOO_MUCH if len(part) > 1 else ())
            except _TOO_MUCH:
                self._limits[service] = (len(part) + 1) // 2
                log.info("%s takes fewer than %d at once: %s", self._endpoint, len(part), service.value)
                continue
            if len(answers) != len(part):
                self.lost.set()
                raise LinkError(
                    f"{len(answers)} answers to {len(part)} questions", self._endpoint, "The server is at fault."
                )
            results += answers
        return results

    async def _ask(self, request: Awaitable[T], survives: tuple[type[Exception], ...] = ()) -> T:
        try:
            return await request
        except CONNECTION_ERRORS as e:
            if isinstance(e, survives):
                raise
            self.lost.set()
            raise self._error("no answer", e) from e

    async def _on_lost(self, error: Exception) -> None:
        log.debug("%s: connection lost: %r", self._endpoint, error)
        self.lost.set()

    def _error(self, what: str, error: BaseException) -> LinkError:
        why = str(error) or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
        return LinkError(f"{what}: {why}", self._endpoint, "Check that the server runs and that the address is right.")


def _item(node: ua.NodeId, handle: int, sample_filter: ua.DataChangeFilter | None) -> ua.MonitoredItemCreateRequest:
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=ua.AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=handle, SamplingInterval=0.0, Filter=sample_filter, QueueSize=_QUEUE_SIZE, DiscardOldest=True
        ),
    )


def _data_changes(result: ua.PublishResult) -> list[ua.MonitoredItemNotification]:
    notifications = result.NotificationMessage.NotificationData or []
    return [i for n in notifications if isinstance(n, ua.DataChangeNotification) for i in n.MonitoredItems]
