"""`ControllerServer`: the controller as an OPC UA citizen, so that any SCADA can watch and operate it."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from asyncua import Server, ua

from controllers.runtime.loop import ControlLoop
from controllers.runtime.records import without_nan
from controllers.runtime.state import ControllerState
from plant.clock import wall_date
from plant.controller_nodes import (
    CONTROLLER_NAMESPACE,
    CONTROLLER_NODE_ID,
    CONTROLLER_URI,
    METHOD_INPUTS,
    VARIABLE_KINDS,
    Method,
    Variable,
    controller_node_id,
)
from plant.errors import LinkError
from plant.opcua.address_space import GatedWrites
from plant.opcua.bounded import MAX_TEXT, BoundedServer
from plant.opcua.nodes import to_datetime

log = logging.getLogger(__name__)


class ControllerServer:
    """Serves a `ControlLoop`: its state as read-only variables, its commands as methods.

    **Arguments:**

    - `endpoint`: default the controller configuration's. Port 0 takes any free port; see `endpoint` afterwards.
    - `host`: the interface to bind. Only this machine by default.
    - `publish_s`: longest wall time between two publications; every change is published at once.

    Use it as an async context manager. Raises `LinkError` when the port is taken.
    """

    def __init__(
        self, loop: ControlLoop, endpoint: str | None = None, host: str = "127.0.0.1", publish_s: float = 0.5
    ) -> None:
        self.endpoint, self._loop, self._host, self._publish_s = endpoint or loop.config.endpoint, loop, host, publish_s
        self._server: BoundedServer | None = None
        self._publisher: asyncio.Task[None] | None = None
        self._shown: dict[Variable, str | float | int] = {}
        self._trouble = ""

    async def __aenter__(self) -> ControllerServer:
        server = BoundedServer(f"Homeostat controller of {self._loop.spec.name}", self.endpoint, self._host)
        await server.init()
        await self._build(server)
        server.iserver.attribute_service = GatedWrites(server.iserver.aspace, _read_only)
        self._server = server
        await self._publish()
        try:
            await server.start()
        except LinkError:
            self._server = None
            raise
        self.endpoint = server.url
        self._publisher = asyncio.create_task(self._publish_forever(), name="controller nodes")
        log.info("the controller of %s serves %s", self._loop.spec.name, self.endpoint)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._publisher is not None:
            self._publisher.cancel()
            await asyncio.gather(self._publisher, return_exceptions=True)
            self._publisher = None
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def _build(self, server: Server) -> None:
        index = await server.register_namespace(CONTROLLER_URI)
        assert index == CONTROLLER_NAMESPACE, "the controller's URI must be registered first"
        parent = await server.nodes.objects.add_object(
            ua.NodeId.from_string(CONTROLLER_NODE_ID), ua.QualifiedName("Controller", index)
        )
        for variable in Variable:
            kind = ua.VariantType[VARIABLE_KINDS[variable]]
            await parent.add_variable(
                ua.NodeId.from_string(controller_node_id(variable)),
                ua.QualifiedName(variable.value, index),
                ua.get_default_value(kind),
                kind,
            )
        for method, inputs in METHOD_INPUTS.items():
            await parent.add_method(
                ua.NodeId.from_string(controller_node_id(method)),
                ua.QualifiedName(method.value, index),
                self._method(method),
                [_argument(name, kind) for name, kind in inputs],
                [_argument("refusal", "String")],
            )

    def _method(self, method: Method) -> Callable[..., Awaitable[ua.CallMethodResult]]:
        inputs = METHOD_INPUTS[method]

        async def called(_parent: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
            if len(arguments) != len(inputs):
                few = len(arguments) < len(inputs)
                code = ua.StatusCodes.BadArgumentsMissing if few else ua.StatusCodes.BadTooManyArguments
                return ua.CallMethodResult(StatusCode=ua.StatusCode(code))
            if method is Method.SET_ZONE:  # an empty side is an open one
                arguments = tuple(ua.Variant(math.nan, ua.VariantType.Double) if _empty(a) else a for a in arguments)
            fits = [
                a.VariantType is ua.VariantType[kind] and not a.is_array and a.Value is not None
                for a, (_, kind) in zip(arguments, inputs, strict=True)
            ]
            if not all(fits):
                wrong = [ua.StatusCode() if ok else ua.StatusCode(ua.StatusCodes.BadTypeMismatch) for ok in fits]
                status = ua.StatusCode(ua.StatusCodes.BadInvalidArgument)
                return ua.CallMethodResult(StatusCode=status, InputArgumentResults=wrong)
            if any(isinstance(a.Value, str) and len(a.Value) > MAX_TEXT for a in arguments):
                refusal = f"a text is longer than {MAX_TEXT} characters"
            else:
                refusal = await self._command(method, [a.Value for a in arguments])
            # A client that called sees the outcome at once, and a node that cannot be published is not its concern.
            await self._publish_safely()
            return ua.CallMethodResult(OutputArguments=[ua.Variant(refusal, ua.VariantType.String)])

        return called

    async def _command(self, method: Method, values: list[Any]) -> str:
        loop = self._loop
        match method:
            case Method.SET_MODE:
                return await loop.set_mode(*values)
            case Method.SET_TARGET:
                return loop.set_target(*values)
            case Method.SET_ZONE:
                return loop.asking.set_zone(*values)
            case Method.SET_COST:
                return loop.asking.set_cost(*values)
            case Method.SCHEDULE_TARGET:
                return loop.asking.schedule_target(*values)
            case Method.UNSCHEDULE:
                return loop.asking.unschedule(*values)
            case Method.SET_LIMIT:
                return loop.set_limit(*values)
            case Method.SET_MOVE:
                return loop.set_move(*values)
            case Method.ACKNOWLEDGE:
                return loop.acknowledge(*values)
            case Method.OVERRIDE:
                return loop.override(*values)

    async def _publish_forever(self) -> None:
        while True:
            self._loop.changed.clear()
            await self._publish_safely()
            try:
                await asyncio.wait_for(self._loop.changed.wait(), self._publish_s)
            except TimeoutError:
                continue

    async def _publish_safely(self) -> None:
        """What is shown must never stand in the way of what is done. `PublishedAt` stands still while this fails."""
        try:
            await self._publish()
            self._trouble = ""
        except Exception as e:
            if self._trouble != repr(e):  # once, not twice a second
                log.exception("the controller's nodes could not be published")
            self._trouble = repr(e)

    async def _publish(self) -> None:
        """Write every variable that changed, and `PublishedAt`."""
        assert self._server is not None
        state, stamp = self._loop.state(), None
        with contextlib.suppress(OverflowError, ValueError):  # a plant's clock may stand anywhere
            stamp = to_datetime(state.time_s)
        values = {v: x for v, x in node_values(state).items() if self._shown.get(v) != x}
        items = []
        for variable, value in {**values, Variable.PUBLISHED_AT: wall_date()}.items():
            data = ua.DataValue(ua.Variant(value, ua.VariantType[VARIABLE_KINDS[variable]]), SourceTimestamp=stamp)
            node = ua.NodeId.from_string(controller_node_id(variable))
            items.append(ua.WriteValue(node, ua.AttributeIds.Value, None, data))
        for status in await self._server.iserver.isession.write(ua.WriteParameters(NodesToWrite=items)):
            status.check()
        self._shown |= values


def node_values(state: ControllerState) -> dict[Variable, str | float | int]:
    """What each variable shows. JSON has no NaN: a number that is not known is null there."""
    plan = state.prediction
    return {
        Variable.MODE_TARGET: state.mode_target,
        Variable.MODE_ACTUAL: state.mode_actual,
        Variable.MODE_REASON: state.mode_reason,
        Variable.PLAN_STATUS: state.plan_status,
        Variable.SOLVE_TIME: state.solve_ms,
        Variable.SAMPLE_AGE: state.sample_age_s,
        Variable.VIOLATION: state.violation,
        Variable.SURPRISE: state.surprise,
        Variable.BLAME: _json(state.blame),
        Variable.HEARTBEAT: state.heartbeat,
        Variable.MISSED_DEADLINES: state.missed_deadlines,
        Variable.CYCLES: state.cycles % 2**32,
        Variable.JITTER_P99: state.jitter_p99_ms,
        Variable.TARGETS: _json(state.targets),
        Variable.ZONES: _json(state.zones),
        Variable.PRICES: _json(state.prices),
        Variable.SCHEDULE: _json([{"time_s": c.at_s, "tag": c.tag, "asked": c.asked} for c in state.schedule]),
        Variable.REST: _json(state.rest),
        Variable.WHY: state.why,
        Variable.ACTIVE: state.active,
        Variable.LIMITS: _json(state.limits),
        Variable.MARGINS: _json(
            {k: {"now": m.now, "worst": m.worst, "calibrated": m.calibrated} for k, m in state.margins.items()}
        ),
        Variable.PREDICTION: _json({"time_s": plan.time_s, "tags": plan.tags, "moves": plan.moves}),
        Variable.ALARMS: _json(
            [
                {
                    "key": a.key,
                    "severity": a.severity.value,
                    "message": a.message,
                    "since_s": a.since_s,
                    "active": a.active,
                    "acknowledged": a.acknowledged,
                }
                for a in state.alarms
            ]
        ),
        Variable.PLAN_TIME: state.plan_time_s,
        Variable.TAG_STATUS: _json(state.tag_status),
        Variable.DOUBTS: _json(list(state.doubts)),
    }


def _json(value: Any) -> str:
    return json.dumps(without_nan(value), allow_nan=False)


async def _read_only(_node: ua.NodeId, _value: ua.DataValue) -> ua.StatusCode:
    return ua.StatusCode(ua.StatusCodes.BadNotWritable)


def _empty(argument: ua.Variant) -> bool:
    return argument.VariantType is ua.VariantType.Null and not argument.is_array


def _argument(name: str, kind: str) -> ua.Argument:
    return ua.Argument(Name=name, DataType=ua.NodeId(ua.VariantType[kind].value), ValueRank=-1)
