"""`OpcUaLink`: a plant behind an OPC UA endpoint, with a reconnect supervisor of its own."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from asyncua import ua

from plant.clock import Clock
from plant.errors import LinkError
from plant.judgement import judged
from plant.link import PlantMode, Quality, Receipt, Sample, Value
from plant.opcua.check import Finding, Severity, check
from plant.opcua.holding import Holder, kind_of
from plant.opcua.nodes import moved, quality_of, reason_of, resolve, to_seconds
from plant.opcua.session import Session
from plant.opcua.stamps import PlantDate, middle
from plant.opcua.types import NUMBERS, number_in, written
from plant.spec import PlantSpec, Tag

__all__ = ["Finding", "OpcUaLink", "Severity", "check"]

log = logging.getLogger(__name__)

MODE = "Mode"
"""The key of a receipt under which a refusal of `request_mode` stands."""


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
        self._tags = spec.online
        self._by_name = {t.name: t for t in self._tags}
        self._addresses = spec.addresses
        self._table: list[str] = []
        self._nodes: dict[str, ua.NodeId] = {}
        self._mv_types: dict[str, ua.VariantType | None] = {}
        self._holder = Holder(spec)
        self._date = PlantDate(spec, clock)
        self._told: set[str] = set()
        speed = spec.handshake.speed if spec.handshake is not None else 1.0
        self._speed = speed if isinstance(speed, float) else 1.0
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
        return self._holder.scenario

    async def read(self) -> Sample:
        """Every online tag and the handshake's nodes, in one request where the server takes so many."""
        session = await self._current()
        answers = await session.read([*(self._nodes[t.name] for t in self._tags), *self._holder.reads])
        received_s = self._clock.wall_time()
        held = self._holder.judge(answers[len(self._tags) :])
        self._speed = self._speed if held.speed is None else held.speed
        raw = [(tag, _stamps(dv), dv) for tag, dv in zip(self._tags, answers, strict=False)]
        now_s = self._date.follow([source for tag, (source, _), _ in raw if tag.scanned], self._speed)
        values = {tag.name: self._judged(tag, dv, stamps, now_s) for tag, stamps, dv in raw}
        return Sample(
            self._time_s(raw, values, now_s),
            values,
            held.mode,
            held.heartbeat,
            held.owned,
            held.loops,
            received_s,
            held.reason,
            held.interlock,
            held.faults,
        )

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        """Write MVs, each to its write node in that node's own data type (a Boolean as 0 or 1)."""
        session = await self._current()
        rejected: dict[str, str] = {}
        accepted: dict[str, ua.Variant] = {}
        for name, value in moves.items():
            if name not in self._mv_types:
                rejected[name] = f"not an MV of this plant; its MVs are {', '.join(self._mv_types)}"
            elif not math.isfinite(value):
                rejected[name] = "not a finite number"
            elif (kind := self._mv_types[name]) is None:
                rejected[name] = "the server does not say the type of its node"
            else:
                try:
                    accepted[name] = written(float(value), kind, nearest=True)
                except ValueError as e:
                    rejected[name] = str(e)
        if accepted:
            statuses = await session.write([(self._write_node(n), v) for n, v in accepted.items()])
            rejected |= {n: reason_of(s) for n, s in zip(accepted, statuses, strict=True) if not s.is_good()}
        return Receipt(rejected)

    async def request_mode(self, mode: PlantMode) -> Receipt:
        """Ask for REMOTE or LOCAL, as the plant's handshake says. A refusal is under the key `Mode`."""
        refusal = await self._holder.request(await self._current(), mode)
        return Receipt({MODE: refusal} if refusal else {})

    async def beat(self, counter: int) -> None:
        """Show the plant that we live, in the form its watchdog wants; nothing to do for a plant that watches nothing. Raises
        `LinkError` when the plant refuses it."""
        if refusal := await self._holder.beat(await self._current(), counter):
            raise LinkError(refusal, self.endpoint, "Run `homeostat check` on the plant file.")

    async def subscribe(self) -> AsyncIterator[Mapping[str, Value]]:
        """Every sample of every tag, in order, as batches of one source time; goes on after a reconnect."""
        last: dict[str, tuple[object, ...]] = {}
        self._start()
        while (session := await self._connected()) is not None:
            try:
                nodes = [(t.name, self._nodes[t.name]) for t in self._tags]
                async with contextlib.aclosing(session.changes(nodes, self._publish_s)) as changes:
                    async for published in changes:
                        fresh: dict[str, deque[Value]] = {}
                        for name, value in self._published(published):
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
                watching = None
                try:
                    await self._learn(session)
                    watching = asyncio.create_task(self._holder.watch_alive(session, self._speed), name="alive bit")
                    await self._serve(session)
                finally:
                    if watching is not None:
                        watching.cancel()
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
        """Find every node by the server's present namespaces, check that the tags are there, learn the MVs' types and look at
        the handshake. Raises `LinkError` naming what is missing."""
        table = await session.namespaces()
        if self._table and (why := moved(self._addresses, self._table, table)):
            raise LinkError(
                why, self.endpoint, "Write node ids by URI (namespaces, or nsu=URI;s=Name), then start again."
            )
        self._nodes = resolve(self._addresses, table, self.endpoint)
        self._table = table
        mvs = [t.name for t in self.spec.mvs]
        answers = await session.read_attributes(
            [(self._nodes[t.name], ua.AttributeIds.Value) for t in self._tags]
            + [(self._write_node(n), a) for n in mvs for a in (ua.AttributeIds.Value, ua.AttributeIds.DataType)]
        )
        missing = [
            f"{tag.name} ({tag.node_id})"
            for tag, dv in zip(self._tags, answers, strict=False)
            if dv.StatusCode
            and dv.StatusCode.value in (ua.StatusCodes.BadNodeIdUnknown, ua.StatusCodes.BadNodeIdInvalid)
        ]
        if missing:
            raise LinkError(
                f"the endpoint has no node for {', '.join(missing)}",
                self.endpoint,
                "Correct node_id in the plant file.",
            )
        of_mvs = answers[len(self._tags) :]
        self._mv_types = {name: await kind_of(session, of_mvs[2 * i + 1], of_mvs[2 * i]) for i, name in enumerate(mvs)}
        for name, kind in self._mv_types.items():
            if kind not in NUMBERS:
                self._warn(name, f"cannot be written: its type is {'unknown' if kind is None else kind.name}")
        await self._holder.learn(session, self._nodes)
        held = await self._holder.look(session)
        self._speed = held.speed or self._speed
        for fault in held.faults:
            log.warning("%s: %s", self.spec.name, fault)

    def _write_node(self, mv: str) -> ua.NodeId:
        return self._nodes.get(f"{mv}.move.write_node", self._nodes[mv])

    def _published(self, published: Sequence[tuple[str, ua.DataValue]]) -> Iterator[tuple[str, Value]]:
        """What a subscription delivered, judged. A batch tells the date only where most scanned tags are in it."""
        raw = [(self._by_name[name], _stamps(dv), dv) for name, dv in published]
        scanned = {tag.name: source for tag, (source, _), _ in raw if tag.scanned}
        enough = 2 * len(scanned) > sum(t.scanned for t in self._tags)
        now_s = self._date.follow(list(scanned.values()) if enough else [], self._speed)
        for tag, stamps, dv in raw:
            yield tag.name, self._judged(tag, dv, stamps, now_s)

    def _judged(self, tag: Tag, dv: ua.DataValue, stamps: tuple[float, float], now_s: float) -> Value:
        source_s, server_s = stamps
        time_s = next((s for s in (source_s, server_s) if not math.isnan(s)), now_s)
        quality, number = quality_of(dv.StatusCode), number_in(dv.Value)
        reason = "" if quality is Quality.GOOD or dv.StatusCode is None else reason_of(dv.StatusCode)
        if quality is Quality.BAD:
            return judged(tag, Value(math.nan, quality, time_s, reason, server_s), now_s, self.spec.stamp_window_s)
        if isinstance(number, str):
            value = Value(math.nan, Quality.BAD, time_s, number, server_s)
        else:
            value = Value(number, quality, time_s, reason, server_s)
        value = judged(tag, value, now_s, self.spec.stamp_window_s)
        if value.quality is Quality.BAD:
            self._warn(tag.name, f"is not usable: {value.reason}")
        return value

    def _time_s(
        self, raw: Sequence[tuple[Tag, tuple[float, float], ua.DataValue]], values: Mapping[str, Value], now_s: float
    ) -> float:
        """The plant time of a sample: the middle of what scanned tags are stamped, else when the server had it, else now."""
        possible = [source for tag, (source, _), _ in raw if tag.scanned and values[tag.name].time_s == source]
        # The server of a plant on a date of its own may well stamp by the wall clock.
        served = [] if self._date.own else [server for _, (_, server), _ in raw]
        for stamps in (possible, served):
            if not math.isnan(time_s := middle(stamps)):
                return time_s
        return now_s

    def _warn(self, tag: str, what: str) -> None:
        """Once a tag: the log must name it, and not be full of it."""
        if tag not in self._told:
            self._told.add(tag)
            log.warning("%s: %s %s", self.spec.name, tag, what)


def _stamps(dv: ua.DataValue) -> tuple[float, float]:
    """Source and server time of an answer (s since the Unix epoch); NaN for one it does not have."""
    source, server = (math.nan if t is None else to_seconds(t) for t in (dv.SourceTimestamp, dv.ServerTimestamp))
    return source, server


def _in_order(changes: Mapping[str, deque[Value]]) -> Iterator[dict[str, Value]]:
    """Batches of one source time, oldest first, that keep each tag's own order."""
    waiting = {name: queue for name, queue in changes.items() if queue}
    while waiting:
        time_s = min(queue[0].time_s for queue in waiting.values())
        yield {name: queue.popleft() for name, queue in waiting.items() if queue[0].time_s == time_s}
        waiting = {name: queue for name, queue in waiting.items() if queue}
