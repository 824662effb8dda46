"""`OpcUaLink`: a plant behind an OPC UA endpoint, with a reconnect supervisor of its own."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping

from asyncua import ua

from plant.clock import Clock
from plant.errors import LinkError
from plant.link import PlantMode, Quality, Receipt, Sample, Value
from plant.opcua.check import Finding, Severity, check
from plant.opcua.nodes import (
    Reg,
    quality_of,
    reason_of,
    regulatory_node_id,
    regulatory_node_ids,
    tag_node_id,
    to_seconds,
)
from plant.opcua.session import Session
from plant.spec import PlantSpec

__all__ = ["Finding", "OpcUaLink", "Severity", "check"]

log = logging.getLogger(__name__)

_INTEGERS = {
    ua.VariantType.SByte,
    ua.VariantType.Byte,
    ua.VariantType.Int16,
    ua.VariantType.UInt16,
    ua.VariantType.Int32,
    ua.VariantType.UInt32,
    ua.VariantType.Int64,
    ua.VariantType.UInt64,
}
_WRITABLE = _INTEGERS | {ua.VariantType.Float, ua.VariantType.Double}
_READ_WITH_TAGS = (Reg.MODE, Reg.HEARTBEAT, Reg.CLOCK_SPEED)


class OpcUaLink:
    """A `Link` over OPC UA. A supervisor keeps one session open and replaces it, with growing pauses, when it is lost.

    **Arguments:**

    - `clock`: its wall time dates the connection state.
    - `endpoint`: default the spec's.
    - `timeout_s`: how long connecting, and each request, may take (wall time).
    - `backoff_s`: the first and the longest pause between two attempts.
    - `publish_s`: publishing interval asked for by `subscribe`.

    The first call connects and waits for the outcome; later calls raise `LinkError` at once while disconnected. Use it as
    an async context manager, or `close()` it.
    """

    def __init__(
        self,
        spec: PlantSpec,
        clock: Clock,
        endpoint: str | None = None,
        timeout_s: float = 4.0,
        backoff_s: tuple[float, float] = (0.2, 2.0),
        publish_s: float = 0.1,
    ) -> None:
        self.spec, self.endpoint = spec, endpoint or spec.endpoint
        self._clock, self._timeout_s, self._backoff_s, self._publish_s = clock, timeout_s, backoff_s, publish_s
        self._nodes = {tag_node_id(t): t.name for t in spec.online}
        self._node_of = {name: node for node, name in self._nodes.items()}
        self._reg = {name: ua.NodeId.from_string(i) for name, i in regulatory_node_ids(spec).items()}
        self._mv_types: dict[str, ua.VariantType] = {}
        self._has_regulatory = False
        self._speed = 1.0
        self._scenario = ""
        self._session: Session | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._changed = asyncio.Condition()
        self._closed = asyncio.Event()
        self._failure: LinkError | None = None
        self._since_wall_s = clock.wall_time()
        self.reconnects = 0

    async def __aenter__(self) -> OpcUaLink:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        return self._session is not None and not self._session.lost.is_set()

    @property
    def state(self) -> str:
        """The connection in words, for operators."""
        if self._closed.is_set():
            return "closed"
        for_s = self._clock.wall_time() - self._since_wall_s
        if self.connected:
            return f"connected for {for_s:.0f} s"
        return f"disconnected for {for_s:.0f} s ({self._failure.what if self._failure else 'connecting'})"

    @property
    def speed(self) -> float:
        """Plant seconds per wall second, as last read from the plant."""
        return self._speed

    @property
    def scenario(self) -> str:
        """What a simulated plant said it lives through when this link connected; '' for a real one."""
        return self._scenario

    async def read(self) -> Sample:
        """Every online tag, and the regulatory layer's mode and heartbeat, in one request."""
        session = await self._current()
        extra = [self._reg[name] for name in _READ_WITH_TAGS] if self._has_regulatory else []
        answers = await session.read([*self._nodes, *extra])
        tags, regulatory = answers[: len(self._nodes)], answers[len(self._nodes) :]
        values = {name: self._value(dv) for name, dv in zip(self._nodes.values(), tags, strict=True)}
        newest = max(v.time_s for v in values.values())
        mode, heartbeat, speed = (_good(dv) for dv in regulatory) if regulatory else (None, None, None)
        self._speed = self._speed if speed is None else float(speed)
        return Sample(
            newest,
            values,
            mode=PlantMode(mode) if mode in (0, 1) else None,
            heartbeat=None if heartbeat is None else int(heartbeat),
        )

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        """Write MVs in one request, each in its node's own data type."""
        session = await self._current()
        rejected: dict[str, str] = {}
        accepted: dict[str, ua.Variant] = {}
        for name, value in moves.items():
            if name not in self._mv_types:
                rejected[name] = f"not an MV of this plant; its MVs are {', '.join(self._mv_types)}"
            elif not math.isfinite(value):
                rejected[name] = "not a finite number"
            else:
                kind = self._mv_types[name]
                accepted[name] = ua.Variant(round(value) if kind in _INTEGERS else float(value), kind)
        if accepted:
            statuses = await session.write({self._node_of[name]: v for name, v in accepted.items()})
            rejected |= {n: reason_of(s) for n, s in zip(accepted, statuses, strict=True) if not s.is_good()}
        return Receipt(rejected)

    async def request_mode(self, mode: PlantMode) -> Receipt:
        """Ask for REMOTE or LOCAL. A refusal is under the key `Mode`."""
        session = await self._current()
        if not self._has_regulatory:
            return Receipt({Reg.MODE.value: "the plant has no regulatory layer"})
        parent = ua.NodeId.from_string(regulatory_node_id(self.spec))
        result = await session.call(parent, self._reg[Reg.REQUEST_MODE], ua.Variant(int(mode), ua.VariantType.Int32))
        if not result.StatusCode.is_good():
            return Receipt({Reg.MODE.value: reason_of(result.StatusCode)})
        refusal = str(result.OutputArguments[0].Value or "") if result.OutputArguments else ""
        return Receipt({Reg.MODE.value: refusal} if refusal else {})

    async def beat(self, counter: int) -> None:
        """Write the controller's heartbeat, modulo 2**32. Nothing to do for a plant without a regulatory layer."""
        session = await self._current()
        if self._has_regulatory:
            value = ua.Variant(counter % 2**32, ua.VariantType.UInt32)
            (status,) = await session.write({self._reg[Reg.CONTROLLER_HEARTBEAT]: value})
            if not status.is_good():
                raise LinkError(
                    f"the heartbeat was refused: {reason_of(status)}", self.endpoint, "Check access rights."
                )

    async def subscribe(self) -> AsyncIterator[Mapping[str, Value]]:
        """Every sample of every tag, in order, as batches of one source time; goes on after a reconnect."""
        last: dict[str, tuple[object, ...]] = {}
        self._start()
        while (session := await self._connected()) is not None:
            try:
                async with contextlib.aclosing(session.changes(self._nodes, self._publish_s)) as changes:
                    async for published in changes:
                        fresh: dict[str, deque[Value]] = {}
                        for name, data_value in published:
                            value = self._value(data_value)
                            # A new subscription repeats what was delivered before; NaN never equals itself, its text does.
                            key = (value.time_s, value.quality, repr(value.value))
                            if last.get(name) != key:
                                last[name] = key
                                fresh.setdefault(name, deque()).append(value)
                        for batch in _in_order(fresh):
                            yield batch
            except LinkError as e:
                log.info("subscription interrupted: %s", e)
                session.lost.set()

    async def close(self) -> None:
        """Close the connection and end every subscription."""
        self._closed.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._session = None
        async with self._changed:
            self._changed.notify_all()

    def _start(self) -> None:
        if self._closed.is_set():
            raise LinkError("the link is closed", self.endpoint, "Open a new one.")
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name=f"link {self.spec.name}")

    async def _current(self) -> Session:
        self._start()
        await self._tried.wait()
        if self._session is None or self._session.lost.is_set():
            why = self._failure
            raise LinkError(why.what if why else "connection lost", self.endpoint, why.fix if why else "Reconnecting.")
        return self._session

    async def _connected(self) -> Session | None:
        """Wait for a session; None when the link closes."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed.is_set() or self.connected)
            return None if self._closed.is_set() else self._session

    async def _supervise(self) -> None:
        """Keep a session open for as long as the link is. Nothing that happens to one may end this task."""
        pause, longest = self._backoff_s
        while True:
            began_s = self._clock.wall_time()
            try:
                session = await Session.open(self.endpoint, self._timeout_s)
                try:
                    await self._learn(session)
                    await self._serve(session)
                finally:
                    await session.close()
            except LinkError as e:
                self._fail(e)
            except Exception as e:
                log.exception("%s: the session failed in an unforeseen way", self.endpoint)
                self._fail(LinkError(f"unforeseen {type(e).__name__}: {e}", self.endpoint, "See the log."))
            self._tried.set()
            if self._clock.wall_time() - began_s > self._timeout_s + longest:
                pause = self._backoff_s[0]  # it was up for a while: no flapping, come back soon
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _serve(self, session: Session) -> None:
        """Offer a session until it is lost, which is raised."""
        if self._session is not None:
            self.reconnects += 1
        self._session, self._failure, self._since_wall_s = session, None, self._clock.wall_time()
        self._tried.set()
        log.info("connected to %s", self.endpoint)
        async with self._changed:
            self._changed.notify_all()
        await session.lost.wait()
        self._since_wall_s = self._clock.wall_time()
        raise LinkError("connection lost", self.endpoint, "Reconnecting; see that the server runs.")

    def _fail(self, error: LinkError) -> None:
        if self._failure is None or self._failure.what != error.what:
            log.warning("%s", error)
        self._failure = error

    async def _learn(self, session: Session) -> None:
        """Check that every tag is there and cache the MVs' data types: a Double written to a Float node is refused."""
        mvs = [t.name for t in self.spec.mvs]
        answers = await session.read_attributes(
            [(node, ua.AttributeIds.Value) for node in self._nodes]
            + [(self._node_of[name], ua.AttributeIds.DataType) for name in mvs]
            + [(self._reg[name], ua.AttributeIds.Value) for name in (Reg.MODE, Reg.CLOCK_SPEED, Reg.SCENARIO)]
        )
        values = dict(zip(self._nodes.values(), answers, strict=False))
        types = dict(zip(mvs, answers[len(self._nodes) :], strict=False))
        missing = [
            f"{name} ({self._node_of[name].to_string()})"
            for name, dv in values.items()
            if dv.StatusCode
            and dv.StatusCode.value in (ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadNodeIdInvalid)
        ]
        if missing:
            raise LinkError(
                f"the endpoint has no node for {', '.join(missing)}",
                self.endpoint,
                "Correct node_id in the plant file.",
            )
        self._mv_types = {name: self._mv_type(name, types[name], values[name]) for name in mvs}
        mode, speed, scenario = (_good(dv) for dv in answers[-3:])
        self._has_regulatory = mode is not None
        self._speed = float(speed or 1.0)  # type: ignore[arg-type]
        self._scenario = str(scenario or "")

    def _mv_type(self, name: str, data_type: ua.DataValue, value: ua.DataValue) -> ua.VariantType:
        declared = _good(data_type)
        kind = value.Value.VariantType if value.Value is not None else ua.VariantType.Null
        if isinstance(declared, ua.NodeId) and declared.NamespaceIndex == 0 and declared.Identifier in range(1, 26):
            kind = ua.VariantType(declared.Identifier)
        if kind not in _WRITABLE:
            raise LinkError(f"{name} is not numeric (its type is {kind.name})", self.endpoint, "Correct its node_id.")
        return kind

    def _value(self, dv: ua.DataValue) -> Value:
        stamp = dv.SourceTimestamp or dv.ServerTimestamp
        time_s = to_seconds(stamp) if stamp is not None else self._clock.plant_time()
        quality = quality_of(dv.StatusCode)
        reason = "" if quality is Quality.GOOD or dv.StatusCode is None else reason_of(dv.StatusCode)
        raw = dv.Value.Value if dv.Value is not None else None
        if quality is Quality.BAD:
            return Value(math.nan, quality, time_s, reason)
        if not isinstance(raw, int | float) or not math.isfinite(raw):
            return Value(math.nan, Quality.BAD, time_s, f"not a finite number: {raw!r}")
        return Value(float(raw), quality, time_s, reason)


def _good(dv: ua.DataValue) -> object | None:
    return dv.Value.Value if dv.Value is not None and quality_of(dv.StatusCode) is Quality.GOOD else None


def _in_order(changes: Mapping[str, deque[Value]]) -> Iterator[dict[str, Value]]:
    """Batches of one source time, oldest first, that keep each tag's own order."""
    waiting = {name: queue for name, queue in changes.items() if queue}
    while waiting:
        time_s = min(queue[0].time_s for queue in waiting.values())
        yield {name: queue.popleft() for name, queue in waiting.items() if queue[0].time_s == time_s}
        waiting = {name: queue for name, queue in waiting.items() if queue}
