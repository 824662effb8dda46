"""What the loop hands to the historian, and the guard that keeps a historian's trouble away from control."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from controllers.contracts import Decision
from controllers.runtime.alarms import Event
from controllers.runtime.state import margins_of, prediction_of, rest_of, said_of
from controllers.runtime.surprised import Surprised
from controllers.runtime.targets import TargetBoard
from plant.errors import HistorianError
from plant.spec import PlantSpec

log = logging.getLogger(__name__)
_WATCH_S = 2.0


class Records(Protocol):
    """The part of `historian.store.Historian` that a loop needs. Writes return at once; the historian buffers and keeps
    what it cannot store yet. `status()["last_error"]` is '' while it can."""

    def event(
        self, time_s: float, kind: str, message: str, *, severity: str = "info", source: str = "", key: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None: ...  # fmt: skip

    def audit(
        self, time_s: float, who: str, action: str, target: str = "", old: object = "", new: object = "",
        accepted: bool = True, reason: str = "",
    ) -> None: ...  # fmt: skip

    def decision(
        self, time_s: float, mode: str, status: str, solve_ms: float, violation: float, surprise: float,
        data: Mapping[str, Any] | None = None, predicted: Mapping[str, Sequence[float] | Any] | None = None,
        step_times: Sequence[float] | Any = (),
    ) -> None: ...  # fmt: skip

    def status(self) -> Mapping[str, Any]: ...


class Recorder:
    """Writes to a historian if there is one. `trouble` is called with the reason, or '' when it is over."""

    def __init__(self, spec: PlantSpec, records: Records | None, trouble: Callable[[str], None]) -> None:
        self._spec, self._records, self._trouble = spec, records, trouble
        self._refused = ""

    def event(self, event: Event) -> None:
        self._guard(
            lambda r: r.event(
                event.time_s,
                event.kind,
                event.message,
                severity=event.severity.value,
                source="controller",
                key=event.key,
            )
        )

    def audit(self, time_s: float, who: str, action: str, target: str, old: object, new: object, refusal: str) -> None:
        """A command: `refusal` is '' when it was accepted."""
        log.info("%s: %s %s: %s -> %s: %s", who, action, target, old, new, refusal or "accepted")
        self._guard(lambda r: r.audit(time_s, who, action, target, old, new, not refusal, refusal))

    def decision(self, time_s: float, mode: str, d: Decision, surprise: Surprised | None, board: TargetBoard) -> None:
        """A decision made for the sample of plant time `time_s`, with what was asked for, what it expects of the plant, and whether
        the plant did what was expected of it."""
        plan = prediction_of(self._spec, d, time_s)
        data = {
            "moves": {t.name: float(m) for t, m in zip(self._spec.mvs, d.moves[0], strict=True)},
            "plan": plan.moves,
            "margins": {k: m.worst for k, m in margins_of(self._spec, None, d).items()},
            "energy": {name: float(np.ravel(term)[0]) for name, term in d.energy.items()},
            "bias": {t.name: float(b) for t, b in zip(self._spec.measured, np.ravel(d.bias), strict=False)},
            "blame": dict(surprise.tags) if surprise else {},
        }
        wants = {"targets": board.values, "zones": board.zones, "prices": board.prices, "rest": rest_of(self._spec, d),
                 "why": said_of(d.why), "active": said_of(d.active)}  # fmt: skip
        data |= {name: value for name, value in wants.items() if value}
        predicted = {tag: column for tag, column in plan.tags.items() if np.isfinite(column).all()}
        status, solve_ms = str(d.status[0]), d.solve_time_s * 1e3
        violation, score = float(d.violation[0]), surprise.score if surprise else math.nan
        self._guard(
            lambda r: r.decision(
                time_s, mode, status, solve_ms, violation, score, without_nan(data), predicted, plan.time_s
            )
        )

    async def watch(self) -> None:
        """Say when the historian cannot store what it was given, until cancelled. It is asked in a thread: a database may
        take its time."""
        while self._records is not None:
            await asyncio.sleep(_WATCH_S)
            try:
                error = str((await asyncio.to_thread(self._records.status)).get("last_error", ""))
            except Exception as e:
                log.warning("the historian does not say how it is", exc_info=True)
                error = f"{type(e).__name__}: {e}"
            self._trouble(self._refused or error)

    def _guard(self, write: Callable[[Records], None]) -> None:
        if self._records is None:
            return
        try:
            write(self._records)
            self._refused = ""
        except HistorianError as e:
            if not self._refused:
                log.error("the historian takes no records: %s", e)
                self._refused = str(e)  # before the alarm, whose event comes back here
                self._trouble(self._refused)


def without_nan(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
