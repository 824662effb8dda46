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
from urllib.parse import urlparse

import numpy as np
from asyncua import Server, ua

from plant.clock import Clock
from plant.errors import LinkError, SpecError
from plant.link import Quality
from plant.opcua.address_space import REGULATORY_TYPES, GatedWrites, OrdinaryUsers, build_address_space
from plant.opcua.nodes import Reg, regulatory_node_ids, tag_node_id, to_datetime
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
}
_STATUS_OF_QUALITY = {
    Quality.GOOD: ua.StatusCodes.Good,
    Quality.UNCERTAIN: ua.StatusCodes.UncertainSensorNotAccurate,
    Quality.BAD: ua.StatusCodes.BadSensorFailure,
}
_WATCHES_PER_HEARTBEAT = 4


@dataclass(frozen=True)
class _Fault:
    value: float | None
    quality: Quality
    stale: bool


class PlantServer:
    """Serves one plant: scans its process every `spec.scan_time_s` plant seconds and answers clients.

    **Arguments:**

    - `process`: what moves the plant; `batch` must be 1.
    - `clock`: plant time (source timestamps, scans) and wall time (watchdog).
    - `endpoint`: the URL to serve, default the spec's. Port 0 takes any free port; see `endpoint` afterwards.
    - `host`: the interface to bind. Only this machine by default.
    - `by_hand`: do not scan in the background; the caller does, with `scan()`.
    - `scenario`: shown to clients, so that a recorder can keep what made its run.
    - `outputs`: moves in force at the start, MV -> value; an MV not named starts at its nominal value.
    - `set_points`: asked before each scan for set-points (PV -> value) of the local loops; a NaN changes nothing.

    Use it as an async context manager, or `await server.run()`. Raises `LinkError` when the port is taken.
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
        self._ids = {t.name: tag_node_id(t) for t in spec.online}
        self._reg_ids = {name: ua.NodeId.from_string(i) for name, i in regulatory_node_ids(spec).items()}
        self._mv_of = {self._ids[t.name]: t.name for t in spec.mvs}
        self._faults: dict[str, _Fault] = {}
        self._shown: dict[str, float] = {}
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._time_s = 0.0
        self._late = False

    async def __aenter__(self) -> PlantServer:
        url = urlparse(self.endpoint)
        if url.scheme != "opc.tcp" or url.port is None:
            raise LinkError("not an opc.tcp:// address with a port", self.endpoint, "Correct the endpoint.")
        self._probe_port(url.port)
        server = Server(user_manager=OrdinaryUsers())
        await server.init()
        server.set_endpoint(self.endpoint)
        server.socket_address = (self.host, url.port)
        server.set_server_name(f"Homeostat plant {self.spec.name}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.iserver.allow_remote_admin = False
        server.iserver.supported_tokens = (ua.AnonymousIdentityToken,)  # pyright: ignore[reportAttributeAccessIssue]
        await build_address_space(server, self.spec, self._request_mode)
        server.iserver.attribute_service = GatedWrites(server.iserver.aspace, self._gate)
        self._server = server
        self._time_s = self.clock.plant_time()
        await self._scan_once()
        try:
            await server.start()
        except OSError as e:
            self._server = None
            raise self._taken(url.port, e) from e
        assert server.bserver is not None
        self.endpoint = url._replace(netloc=f"{url.hostname}:{server.bserver.port}").geturl()
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
        if tag not in self._ids:
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
            (self._ids[tag.name], self._data_value(tag, *seen.get(tag.name, (math.nan, Quality.BAD)), stamp))
            for tag in self.spec.online
            if not self._stale(tag.name)
        ]
        await self._publish([*shown, *self._regulatory_values(stamp)])

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

    def _regulatory_values(self, stamp: float) -> list[tuple[ua.NodeId, ua.DataValue]]:
        values = {
            Reg.MODE: int(self.regulatory.mode),
            Reg.HEARTBEAT: self.scans % 2**32,
            Reg.INTERLOCK: bool(self.regulatory.interlock[0]),
            Reg.CLOCK_SPEED: float(self.clock.speed),
            Reg.SHED_REASON: self.regulatory.shed_reason,
            Reg.SCENARIO: self._scenario,
        }
        return [
            (
                self._reg_ids[name],
                ua.DataValue(ua.Variant(v, REGULATORY_TYPES[name]), SourceTimestamp=to_datetime(stamp)),
            )
            for name, v in values.items()
        ]

    async def _publish(self, values: Iterable[tuple[ua.NodeId, ua.DataValue]]) -> None:
        assert self._server is not None
        items = [ua.WriteValue(node, ua.AttributeIds.Value, None, value) for node, value in values]
        for status in await self._server.iserver.isession.write(ua.WriteParameters(NodesToWrite=items)):
            status.check()

    async def _watch(self) -> None:
        """The controller's watchdog runs on wall time, whatever the scan time is."""
        dog = self.spec.regulatory.watchdog
        while True:
            await asyncio.sleep(dog.heartbeat_s / _WATCHES_PER_HEARTBEAT)
            if self.regulatory.watch(self.clock.wall_time()):
                log.warning("plant %s sheds to LOCAL: %s", self.spec.name, self.regulatory.shed_reason)
                await self._publish(self._regulatory_values(self._time_s))

    async def _gate(self, node: ua.NodeId, value: ua.DataValue) -> ua.StatusCode:
        """Decide a client's write. The MV node shows the move in force, so a taken move appears with the next scan."""
        variant = value.Value
        if node == self._reg_ids[Reg.CONTROLLER_HEARTBEAT]:
            if variant is None or variant.VariantType is not ua.VariantType.UInt32 or variant.is_array:
                return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
            self.regulatory.beat(int(variant.Value), self.clock.wall_time())
            await self._publish([(node, ua.DataValue(variant, SourceTimestamp=to_datetime(self._time_s)))])
            return ua.StatusCode()
        if node not in self._mv_of:
            return ua.StatusCode(ua.StatusCodes.BadNotWritable)
        if variant is None or variant.VariantType is not ua.VariantType.Double or variant.is_array:
            return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
        name, move = self._mv_of[node], float(variant.Value)
        if why := self.regulatory.refusal(name, move):
            log.info("refused a move: %s", why[1])
            return ua.StatusCode(_STATUS_OF_REFUSAL[why[0]])
        self.regulatory.write({name: move})
        return ua.StatusCode()

    async def _request_mode(self, _parent: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
        if len(arguments) != 1:
            missing = not arguments
            code = ua.StatusCodes.BadArgumentsMissing if missing else ua.StatusCodes.BadTooManyArguments
            return ua.CallMethodResult(StatusCode=ua.StatusCode(code))
        if arguments[0].VariantType is not ua.VariantType.Int32 or arguments[0].is_array:
            return ua.CallMethodResult(
                StatusCode=ua.StatusCode(ua.StatusCodes.BadInvalidArgument),
                InputArgumentResults=[ua.StatusCode(ua.StatusCodes.BadTypeMismatch)],
            )
        before = self.regulatory.mode
        refusal = self.regulatory.request_mode(int(arguments[0].Value), self.clock.wall_time())
        if self.regulatory.mode is not before:
            log.info("plant %s is in %s", self.spec.name, self.regulatory.mode.name)
        await self._publish(self._regulatory_values(self._time_s))
        return ua.CallMethodResult(OutputArguments=[ua.Variant(refusal, ua.VariantType.String)])

    def _probe_port(self, port: int) -> None:
        """Find a taken port before the address space is built, which takes seconds."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with contextlib.closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, port))
            except OSError as e:
                raise self._taken(port, e) from e

    def _taken(self, port: int, error: OSError) -> LinkError:
        return LinkError(
            f"cannot listen on port {port} of {self.host}: {error.strerror or error}",
            self.endpoint,
            "Stop the program that uses the port, or give another endpoint.",
        )


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the %s of the plant's server failed", task.get_name(), exc_info=error)
