"""A plant as an OPC UA server: a process, its regulatory layer, and the address space that shows them."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from asyncua import ua

from plant.clock import Clock
from plant.errors import LinkError, SpecError
from plant.link import Quality
from plant.opcua.address_space import PARTS, GatedWrites, build_address_space, spoken
from plant.opcua.bounded import MAX_TEXT, BoundedServer, caller
from plant.opcua.nodes import to_datetime
from plant.process import Array, Process
from plant.regulatory import Refusal, RegulatoryLayer
from plant.spec import PlantSpec, Role, Tag

log = logging.getLogger(__name__)

_STATUS_OF_REFUSAL = {
    Refusal.UNKNOWN: ua.StatusCodes.BadNodeIdUnknown,
    Refusal.NOT_FINITE: ua.StatusCodes.BadInvalidArgument,
    Refusal.OUT_OF_LIMITS: ua.StatusCodes.BadOutOfRange,
    Refusal.LOCAL: ua.StatusCodes.BadInvalidState,
    Refusal.INTERLOCK: ua.StatusCodes.BadRequestNotAllowed,
    Refusal.HELD: ua.StatusCodes.BadUserAccessDenied,
}
_STATUS_OF_QUALITY = {
    Quality.GOOD: ua.StatusCodes.Good,
    Quality.UNCERTAIN: ua.StatusCodes.UncertainSensorNotAccurate,
    Quality.BAD: ua.StatusCodes.BadSensorFailure,
}
_WATCHES_PER_HEARTBEAT = 4
_WATCH_S = 0.25  # wall, where nothing watches the controller: a session that ended must still be noticed by clients


@dataclass(frozen=True)
class _Fault:
    value: float | None
    quality: Quality
    stale: bool


class PlantServer:
    """Serves one plant: scans its process every `spec.scan_time_s` plant seconds and answers clients.

    What the plant file's handshake has stands at the ids it gives; a plant without one shows its tags only. REMOTE is a lease
    of the OPC UA session that asked for it: heartbeat, moves and mode requests of any other are refused (BadUserAccessDenied,
    or the holder's name), LOCAL asked for by a stranger too: a controller that has lost the plant must not take it from the
    next. The lease ends with the session, or when its heartbeat stops. The operator at the plant has a switch of their own,
    the method `TakeLocal(who)` beside the mode request, which no handshake names and no controller calls: it always takes the
    plant into LOCAL, and says who it was.

    **Arguments:**

    - `process`: what moves the plant; `batch` must be 1.
    - `clock`: plant time (source timestamps, scans) and wall time (watchdog).
    - `endpoint`: the URL to serve, default the spec's. Port 0 takes any free port; see `endpoint` afterwards.
    - `host`: the interface to bind. Only this machine by default.
    - `by_hand`: do not scan in the background; the caller does, with `scan()`.
    - `scenario`: shown to clients, so that a recorder can keep what made its run.
    - `outputs`: moves in force at the start, MV -> value; an MV not named starts at its nominal value.
    - `set_points`: asked before each scan for set-points (PV -> value) of the local loops; a NaN changes nothing.

    Use it as an async context manager, or `await server.run()`. Raises `LinkError` when the port is taken, `SpecError` for a
    handshake that a simulated plant does not speak.
    """

    def __init__(
        self,
        spec: PlantSpec,
        process: Process,
        clock: Clock,
        endpoint: str | None = None,
        host: str = "127.0.0.1",
        by_hand: bool = False,
        scenario: str = "",
        set_points: Callable[[], Mapping[str, float]] | None = None,
        outputs: Mapping[str, float] | None = None,
    ) -> None:
        if process.batch != 1:
            raise SpecError(f"a server runs one plant, not a batch of {process.batch}", f"plant {spec.name}")
        self.spec, self.process, self.clock, self.host, self.by_hand = spec, process, clock, host, by_hand
        self.endpoint = endpoint or spec.endpoint
        self.regulatory = RegulatoryLayer(spec, outputs=outputs)
        self.scans = 0
        self._scenario, self._set_points = scenario, set_points
        self._online = {t.name for t in spec.online}
        self._handshake = spoken(spec)
        self._nodes: dict[str, ua.NodeId] = {}
        self._mv_of: dict[ua.NodeId, str] = {}
        self._faults: dict[str, _Fault] = {}
        self._shown: dict[str, float] = {}
        self._server: BoundedServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._time_s = 0.0
        self._late = self._ended = False

    async def __aenter__(self) -> PlantServer:
        server = BoundedServer(f"Homeostat plant {self.spec.name}", self.endpoint, self.host, self._session_ended)
        self._probe_port(server)
        await server.init()
        self._nodes = await build_address_space(server, self.spec, self._request_mode, self._take_local)
        self._mv_of = {self._nodes[t.name]: t.name for t in self.spec.mvs}
        server.iserver.attribute_service = GatedWrites(server.iserver.aspace, self._gate)
        self._server = server
        self._time_s = self.clock.plant_time()
        await self._scan_once()
        try:
            await server.start()
        except LinkError:
            self._server = None
            raise
        self.endpoint = server.url
        self._tasks = [asyncio.create_task(self._watch(), name="watchdog")]
        if not self.by_hand:
            self._tasks.append(asyncio.create_task(self._scan_forever(), name="scan"))
        for task in self._tasks:
            task.add_done_callback(_report)
        log.info("plant %s serves %s", self.spec.name, self.endpoint)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def run(self) -> None:
        """Serve until cancelled, or until the process fails."""
        async with self:
            await asyncio.gather(*self._tasks)

    async def scan(self) -> None:
        """One scan by hand: wait until the next is due on the clock, then do it."""
        self._time_s += self.spec.scan_time_s
        await self.clock.sleep_until(self._time_s)
        await self._scan_once()

    def override(
        self,
        tag: str,
        value: float | None = None,
        quality: Quality = Quality.GOOD,
        frozen: bool = False,
        stale: bool = False,
    ) -> None:
        """Make a signal lie from the next scan on: for tests and scenarios. `release` ends it.

        `value` replaces the reading; `frozen` repeats the last one; `stale` also stops its timestamps; `quality` BAD
        loses it. The regulatory layer sees the same sensor as the clients. An MV lies to clients only.
        """
        if tag not in self._online:
            raise SpecError(f"'{tag}' is not on the endpoint", f"plant {self.spec.name}")
        if frozen or stale:
            value = self._shown.get(tag, value)
        self._faults[tag] = _Fault(value, quality, stale)

    def release(self, tag: str) -> None:
        """End an `override`."""
        self._faults.pop(tag, None)

    async def _scan_forever(self) -> None:
        """Every scan in turn. When late, scans follow at once with their own plant times: none is skipped, and clients
        are served in between."""
        while True:
            late_s = (self.clock.plant_time() - self._time_s) / self.spec.scan_time_s - 1
            if late_s > 5 and not self._late:
                log.warning("scans of %s are late: the speed is too high for this machine, or it slept", self.spec.name)
            self._late = late_s > 5 or (self._late and late_s > 1)
            await self.scan()
            await asyncio.sleep(0)

    async def _scan_once(self) -> None:
        stamp = self._time_s
        seen = {name: self._sense(name, values) for name, values in self.process.measure().items()}
        if self._set_points is not None:
            wanted = self._set_points()
            self.regulatory.set_local({pv: v for pv, v in wanted.items() if math.isfinite(v)})
        outputs = self.regulatory.scan(
            {name: np.array([value]) for name, (value, _) in seen.items()},
            self.spec.scan_time_s,
            self.clock.wall_time(),
        )
        self.process.advance(outputs, self.spec.scan_time_s)
        self.scans += 1
        for tag, value in zip(self.spec.mvs, outputs[0], strict=True):
            seen[tag.name] = self._sense(tag.name, np.array([value]))
        shown = [
            (self._nodes[tag.name], self._data_value(tag, *seen.get(tag.name, (math.nan, Quality.BAD)), stamp))
            for tag in self.spec.online
            if not self._stale(tag.name)
        ]
        await self._publish([*shown, *self._layer_values(stamp)])

    def _sense(self, name: str, values: Array) -> tuple[float, Quality]:
        """What the sensor says, faults included."""
        value, quality = float(values[0]), Quality.GOOD
        if fault := self._faults.get(name):
            value = value if fault.value is None else fault.value
            quality = fault.quality
        if quality is Quality.BAD or not math.isfinite(value):
            return math.nan, Quality.BAD
        self._shown[name] = value
        return value, quality

    def _stale(self, name: str) -> bool:
        fault = self._faults.get(name)
        return fault is not None and fault.stale

    def _data_value(self, tag: Tag, value: float, quality: Quality, stamp: float) -> ua.DataValue:
        status = _STATUS_OF_QUALITY[quality]
        if quality is Quality.GOOD and tag.role is not Role.MV and not tag.range[0] <= value <= tag.range[1]:
            status = ua.StatusCodes.UncertainEngineeringUnitsExceeded
        variant = ua.Variant() if quality is Quality.BAD else ua.Variant(value, ua.VariantType.Double)
        return ua.DataValue(variant, ua.StatusCode(status), to_datetime(stamp))

    def _layer_values(self, stamp: float) -> list[tuple[ua.NodeId, ua.DataValue]]:
        if self._handshake is None:
            return []
        values = {
            "granted": int(self.regulatory.mode),
            "alive": self.scans % 2**32,
            "owner": self.regulatory.holder,
            "speed": float(self.clock.speed),
            "reason": self.regulatory.shed_reason,
            "interlock": bool(self.regulatory.interlock[0]),
            "scenario": self._scenario,
        }
        return [
            (node, ua.DataValue(ua.Variant(value, PARTS[part][0]), SourceTimestamp=to_datetime(stamp)))
            for part, value in values.items()
            if (node := self._nodes.get(f"handshake.{part}.node")) is not None
        ]

    async def _publish(self, values: Iterable[tuple[ua.NodeId, ua.DataValue]]) -> None:
        assert self._server is not None
        items = [ua.WriteValue(node, ua.AttributeIds.Value, None, value) for node, value in values]
        for status in await self._server.iserver.isession.write(ua.WriteParameters(NodesToWrite=items)):
            status.check()

    async def _watch(self) -> None:
        """The controller's watchdog runs on wall time, whatever the scan time is."""
        dog = None if self._handshake is None else self._handshake.watchdog
        pause_s = _WATCH_S if dog is None else dog.period_s / _WATCHES_PER_HEARTBEAT
        while True:
            await asyncio.sleep(pause_s)
            if self.regulatory.watch(self.clock.wall_time()) or self._ended:
                self._ended = False
                log.warning("plant %s sheds to LOCAL: %s", self.spec.name, self.regulatory.shed_reason)
                await self._publish(self._layer_values(self._time_s))

    def _session_ended(self, who: str) -> None:
        self._ended = self.regulatory.lost(who) or self._ended

    async def _gate(self, node: ua.NodeId, value: ua.DataValue) -> ua.StatusCode:
        """Decide a client's write. The MV node shows the move in force, so a taken move appears with the next scan."""
        variant = value.Value
        if self._handshake is None:
            return ua.StatusCode(ua.StatusCodes.BadNotWritable)
        if node == self._nodes.get("handshake.watchdog.node"):
            if variant is None or variant.VariantType is not ua.VariantType.UInt32 or variant.is_array:
                return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
            if not self.regulatory.beat(int(variant.Value), self.clock.wall_time(), caller()):
                held = bool(self.regulatory.holder)
                return ua.StatusCode(ua.StatusCodes.BadUserAccessDenied if held else ua.StatusCodes.BadInvalidState)
            await self._publish([(node, ua.DataValue(variant, SourceTimestamp=to_datetime(self._time_s)))])
            return ua.StatusCode()
        if node not in self._mv_of:
            return ua.StatusCode(ua.StatusCodes.BadNotWritable)
        if variant is None or variant.VariantType is not ua.VariantType.Double or variant.is_array:
            return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
        name, move = self._mv_of[node], float(variant.Value)
        if why := self.regulatory.refusal(name, move, caller()):
            log.info("refused a move: %s", why[1])
            return ua.StatusCode(_STATUS_OF_REFUSAL[why[0]])
        self.regulatory.write({name: move}, caller())
        return ua.StatusCode()

    async def _request_mode(self, _parent: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
        if wrong := _misfit(arguments, ua.VariantType.Int32):
            return wrong
        return await self._asked(
            lambda: self.regulatory.request_mode(int(arguments[0].Value), self.clock.wall_time(), caller())
        )

    async def _take_local(self, _parent: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
        if wrong := _misfit(arguments, ua.VariantType.String):
            return wrong
        who = "".join(c for c in str(arguments[0].Value or "") if c.isprintable()).strip()

        def take() -> str:
            if not who or len(who) > MAX_TEXT:
                return f"say who takes the plant, in at most {MAX_TEXT} characters"
            self.regulatory.take_local(f"taken into local control by {who}")
            return ""

        return await self._asked(take)

    async def _asked(self, decide: Callable[[], str]) -> ua.CallMethodResult:
        before = self.regulatory.mode
        refusal = decide()
        if self.regulatory.mode is not before:
            log.info("plant %s is in %s: %s", self.spec.name, self.regulatory.mode.name, caller())
        await self._publish(self._layer_values(self._time_s))
        return ua.CallMethodResult(OutputArguments=[ua.Variant(refusal, ua.VariantType.String)])

    def _probe_port(self, server: BoundedServer) -> None:
        """Find a taken port before the address space is built, which takes seconds."""
        assert server.socket_address is not None
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with contextlib.closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(server.socket_address)
            except OSError as e:
                raise server.taken(e) from e


def _misfit(arguments: tuple[ua.Variant, ...], kind: ua.VariantType) -> ua.CallMethodResult | None:
    """The answer to arguments that are not one single value of `kind`."""
    if len(arguments) != 1:
        code = ua.StatusCodes.BadTooManyArguments if arguments else ua.StatusCodes.BadArgumentsMissing
        return ua.CallMethodResult(StatusCode=ua.StatusCode(code))
    if arguments[0].VariantType is not kind or arguments[0].is_array:
        return ua.CallMethodResult(
            StatusCode=ua.StatusCode(ua.StatusCodes.BadInvalidArgument),
            InputArgumentResults=[ua.StatusCode(ua.StatusCodes.BadTypeMismatch)],
        )
    return None


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the %s of the plant's server failed", task.get_name(), exc_info=error)
