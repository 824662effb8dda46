"""`ControllerClient`: a blocking client of the controller's own node set, for dashboards and scripts."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from asyncua import ua

from plant.controller_nodes import (
    CONTROLLER_ENDPOINT,
    CONTROLLER_NODE_ID,
    METHOD_INPUTS,
    VARIABLE_KINDS,
    Method,
    Variable,
    controller_node_id,
)
from plant.errors import LinkError
from plant.link import Quality
from plant.opcua.nodes import quality_of, reason_of
from plant.opcua.session import Session

T = TypeVar("T")

_JSON = {
    Variable.BLAME: "{}",
    Variable.TARGETS: "{}",
    Variable.ZONES: "{}",
    Variable.PRICES: "{}",
    Variable.SCHEDULE: "[]",
    Variable.REST: "{}",
    Variable.LIMITS: "{}",
    Variable.MARGINS: "{}",
    Variable.PREDICTION: "{}",
    Variable.ALARMS: "[]",
    Variable.TAG_STATUS: "{}",
    Variable.DOUBTS: "[]",
}


@dataclass(frozen=True)
class ControllerAlarm:
    """One alarm as the controller reports it. `since_s` is plant time, s since the Unix epoch."""

    key: str
    severity: str
    message: str
    since_s: float
    active: bool
    acknowledged: bool


@dataclass(frozen=True)
class Margin:
    """A guardrail's margin, engineering units, > 0 is safe: measured now, the worst of the plan, and the calibrated
    allowance that the latter has already paid."""

    now: float
    worst: float
    calibrated: float


@dataclass(frozen=True)
class Prediction:
    """The plan: plant times (s since the Unix epoch), and at each the predicted tags and planned moves by name."""

    time_s: tuple[float, ...] = ()
    tags: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    moves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scheduled:
    """A change to come at plant time `time_s`: a target, or a zone's low and high (NaN: open)."""

    time_s: float
    tag: str
    asked: float | tuple[float, float]


@dataclass(frozen=True)
class ControllerSnapshot:
    """Everything the controller shows, from one batched read. `published_s`: when it last published (wall s since the Unix
    epoch, by the clock of the controller's machine). `doubts`: why its model does not deserve AUTO. `zones`: low and high, NaN
    where a side is open; `prices`: by unit of the tag and hour; `rest`: where MVs are to rest. `why`, `active`: what an operator
    should know of the plan, and what holds the plant at its economic best."""

    mode_target: str
    mode_actual: str
    mode_reason: str
    plan_status: str
    solve_time_ms: float
    sample_age_s: float
    violation: float
    surprise: float
    blame: Mapping[str, float]
    heartbeat: int
    missed_deadlines: int
    cycles: int
    jitter_p99_ms: float
    plan_time_s: float
    targets: Mapping[str, float]
    limits: Mapping[str, tuple[float, float]]
    margins: Mapping[str, Margin]
    prediction: Prediction
    alarms: tuple[ControllerAlarm, ...]
    tag_status: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    zones: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    schedule: tuple[Scheduled, ...] = ()
    rest: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    active: str = ""
    published_s: float = float("nan")


class ControllerClient:
    """Reads and commands a controller. Every call blocks for at most about `timeout_s`, and may come from any thread.

    It connects with the first call, and again after a loss with the next one. Raises `LinkError` while the controller
    cannot be reached. Keep one a process (in Streamlit: `st.cache_resource`) and `close()` it.
    """

    def __init__(self, endpoint: str = CONTROLLER_ENDPOINT, timeout_s: float = 3.0) -> None:
        self.endpoint, self._timeout_s = endpoint, timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="controller client", daemon=True)
        self._thread.start()
        self._session: Session | None = None
        self._turn = asyncio.Lock()

    def __enter__(self) -> ControllerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def snapshot(self) -> ControllerSnapshot:
        """The controller's state now."""
        return self._run(self._snapshot())

    def set_mode(self, mode: str, who: str, reason: str = "") -> str:
        """Ask for a mode. Returns '' or the refusal, as all commands do."""
        return self._run(self._call(Method.SET_MODE, mode, who, reason))

    def set_target(self, tag: str, value: float, who: str) -> str:
        """Ask for a CV's target, in its unit."""
        return self._run(self._call(Method.SET_TARGET, tag, value, who))

    def set_zone(self, tag: str, low: float, high: float, who: str) -> str:
        """Ask for a zone, in its tag's unit; NaN: that side is open."""
        return self._run(self._call(Method.SET_ZONE, tag, low, high, who))

    def set_cost(self, tag: str, per_unit: float, who: str) -> str:
        """Ask for a price, by unit of the tag and hour in the plant's currency."""
        return self._run(self._call(Method.SET_COST, tag, per_unit, who))

    def schedule_target(self, tag: str, value: float, at: str, who: str) -> str:
        """Ask for a CV's target from a time on: ISO 8601 with a time zone, or plant s since the Unix epoch."""
        return self._run(self._call(Method.SCHEDULE_TARGET, tag, value, at, who))

    def unschedule(self, tag: str, who: str) -> str:
        """Drop what is scheduled by hand for a tag."""
        return self._run(self._call(Method.UNSCHEDULE, tag, who))

    def set_limit(self, mv: str, low: float, high: float, who: str) -> str:
        """Ask for an MV's operator limits, in its unit."""
        return self._run(self._call(Method.SET_LIMIT, mv, low, high, who))

    def set_move(self, mv: str, value: float, who: str) -> str:
        """Move an MV by hand (MANUAL only), in its unit."""
        return self._run(self._call(Method.SET_MOVE, mv, value, who))

    def acknowledge(self, key: str, who: str) -> str:
        """Acknowledge an alarm."""
        return self._run(self._call(Method.ACKNOWLEDGE, key, who))

    def override(self, who: str, reason: str) -> str:
        """Set aside the doubts about the model, in a person's name."""
        return self._run(self._call(Method.OVERRIDE, who, reason))

    def close(self) -> None:
        """Disconnect and end the background thread. Safe to call twice."""
        if self._loop.is_closed():
            return
        if self._session is not None:
            self._run(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise LinkError("the client is closed", self.endpoint, "Open a new one.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        patience_s = 3 * self._timeout_s  # connect, ask, and wait for another thread's turn
        try:
            return future.result(patience_s)
        except TimeoutError as e:
            future.cancel()
            raise LinkError(f"no answer in {patience_s:.0f} s", self.endpoint, "Is the controller running?") from e

    async def _connected(self) -> Session:
        async with self._turn:
            if self._session is not None and self._session.lost.is_set():
                await self._session.close()
                self._session = None
            if self._session is None:
                self._session = await Session.open(self.endpoint, self._timeout_s)
            return self._session

    async def _snapshot(self) -> ControllerSnapshot:
        session = await self._connected()
        answers = await session.read([ua.NodeId.from_string(controller_node_id(v)) for v in Variable])
        try:
            return _parse({v: self._plain(v, dv) for v, dv in zip(Variable, answers, strict=True)})
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise LinkError(f"the controller's nodes do not read as agreed: {e!r}", self.endpoint, "Update it.") from e

    async def _call(self, method: Method, *values: str | float) -> str:
        kinds = [ua.VariantType[kind] for _, kind in METHOD_INPUTS[method]]
        arguments = [
            ua.Variant(float(v) if kind is ua.VariantType.Double else v, kind)
            for v, kind in zip(values, kinds, strict=True)
        ]
        session = await self._connected()
        result = await session.call(
            ua.NodeId.from_string(CONTROLLER_NODE_ID), ua.NodeId.from_string(controller_node_id(method)), *arguments
        )
        if not result.StatusCode.is_good():
            return f"{method.value} was refused: {reason_of(result.StatusCode)}"
        return str(result.OutputArguments[0].Value or "") if result.OutputArguments else ""

    def _plain(self, variable: Variable, dv: ua.DataValue) -> Any:
        """The node's value; a node without one yet gives its type's empty value."""
        if dv.StatusCode is not None and dv.StatusCode.value == ua.StatusCodes.BadNodeIdUnknown:
            raise LinkError(f"no node {variable.value}", self.endpoint, "Is this the controller's endpoint?")
        value = dv.Value.Value if dv.Value is not None and quality_of(dv.StatusCode) is not Quality.BAD else None
        empty = {"String": "", "Double": float("nan"), "UInt32": 0}
        value = empty[VARIABLE_KINDS[variable]] if value is None else value
        return json.loads(value or _JSON[variable]) if variable in _JSON else value


def _parse(values: Mapping[Variable, Any]) -> ControllerSnapshot:
    plan = values[Variable.PREDICTION]
    return ControllerSnapshot(
        mode_target=values[Variable.MODE_TARGET],
        mode_actual=values[Variable.MODE_ACTUAL],
        mode_reason=values[Variable.MODE_REASON],
        plan_status=values[Variable.PLAN_STATUS],
        solve_time_ms=values[Variable.SOLVE_TIME],
        sample_age_s=values[Variable.SAMPLE_AGE],
        violation=values[Variable.VIOLATION],
        surprise=values[Variable.SURPRISE],
        blame={tag: _number(v) for tag, v in values[Variable.BLAME].items()},
        heartbeat=values[Variable.HEARTBEAT],
        missed_deadlines=values[Variable.MISSED_DEADLINES],
        cycles=values[Variable.CYCLES],
        jitter_p99_ms=values[Variable.JITTER_P99],
        plan_time_s=values[Variable.PLAN_TIME],
        targets={tag: _number(v) for tag, v in values[Variable.TARGETS].items()},
        zones={tag: (_number(low), _number(high)) for tag, (low, high) in values[Variable.ZONES].items()},
        prices={tag: _number(v) for tag, v in values[Variable.PRICES].items()},
        schedule=tuple(
            Scheduled(
                float(c["time_s"]),
                c["tag"],
                (_number(a[0]), _number(a[1])) if isinstance(a := c["asked"], list) else float(a),
            )
            for c in values[Variable.SCHEDULE]
        ),
        rest={mv: _number(v) for mv, v in values[Variable.REST].items()},
        why=values[Variable.WHY],
        active=values[Variable.ACTIVE],
        limits={mv: (_number(low), _number(high)) for mv, (low, high) in values[Variable.LIMITS].items()},
        margins={
            name: Margin(_number(m.get("now")), _number(m.get("worst")), _number(m.get("calibrated")))
            for name, m in values[Variable.MARGINS].items()
        },
        prediction=Prediction(
            tuple(_number(t) for t in plan.get("time_s", ())),
            {tag: tuple(map(_number, series)) for tag, series in plan.get("tags", {}).items()},
            {mv: tuple(map(_number, series)) for mv, series in plan.get("moves", {}).items()},
        ),
        alarms=tuple(
            ControllerAlarm(
                a["key"], a["severity"], a["message"], float(a["since_s"]), bool(a["active"]), bool(a["acknowledged"])
            )
            for a in values[Variable.ALARMS]
        ),
        tag_status={tag: str(word) for tag, word in values[Variable.TAG_STATUS].items()},
        doubts=tuple(map(str, values[Variable.DOUBTS])),
        published_s=values[Variable.PUBLISHED_AT],
    )


def _number(value: Any) -> float:
    """JSON has no NaN: the controller may send null for a number it does not have."""
    return float("nan") if value is None else float(value)
