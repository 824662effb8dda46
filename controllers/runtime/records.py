"""What the loop hands to the historian, and the guard that keeps a historian's trouble away from control."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from controllers.contracts import Decision
from controllers.runtime.alarms import Event
from plant.errors import HistorianError

log = logging.getLogger(__name__)


class Records(Protocol):
    """The part of a historian that a loop writes to. Every call returns at once; the historian buffers. `time_s`: plant
    time. Raises `HistorianError` when it can take no more."""

    def event(self, time_s: float, kind: str, severity: str, message: str) -> None: ...

    def audit(self, time_s: float, who: str, action: str, detail: str, outcome: str) -> None: ...

    def decision(self, time_s: float, mode: str, decision: Decision) -> None: ...


class Recorder:
    """Writes to a historian if there is one. `trouble` is called with the reason, or '' when records are taken again."""

    def __init__(self, records: Records | None, trouble: Callable[[str], None]) -> None:
        self._records, self._trouble = records, trouble
        self._failing = False

    def event(self, event: Event) -> None:
        self._guard(lambda r: r.event(event.time_s, event.kind, event.severity.value, event.message))

    def audit(self, time_s: float, who: str, action: str, detail: str, refusal: str) -> None:
        """A command: `refusal` is '' when it was accepted."""
        log.info("%s: %s %s: %s", who, action, detail, refusal or "accepted")
        outcome = f"refused: {refusal}" if refusal else "accepted"
        self._guard(lambda r: r.audit(time_s, who, action, detail, outcome))

    def decision(self, time_s: float, mode: str, decision: Decision) -> None:
        self._guard(lambda r: r.decision(time_s, mode, decision))

    def _guard(self, write: Callable[[Records], None]) -> None:
        if self._records is None:
            return
        try:
            write(self._records)
        except HistorianError as e:
            if not self._failing:
                log.error("the historian takes no records: %s", e)
                self._failing = True  # before the alarm, whose event comes back here
                self._trouble(str(e))
            return
        if self._failing:
            self._failing = False
            self._trouble("")
