"""The alarm list, after ISA-18.2: an alarm stays on it until its cause is gone and somebody has acknowledged it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class Severity(StrEnum):
    """Alarm priority, and the severity of an event. INFO is for events only."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Event:
    """Something worth remembering. `time_s`: plant time. `kind`: mode or alarm. `key`: the alarm's."""

    time_s: float
    kind: str
    severity: Severity
    message: str
    key: str = ""


@dataclass(frozen=True)
class Alarm:
    """One alarm. `since_s`: plant time at which it last became active."""

    key: str
    severity: Severity
    message: str
    since_s: float
    active: bool = True
    acknowledged: bool = False


_ORDER = [Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW, Severity.INFO]


class AlarmList:
    """Alarms by key. `report` gets an `Event` for every raise, clear and acknowledgement."""

    def __init__(self, report: Callable[[Event], None]) -> None:
        self._report = report
        self._alarms: dict[str, Alarm] = {}

    def __iter__(self):
        """Most severe first, then newest first."""
        return iter(sorted(self._alarms.values(), key=lambda a: (_ORDER.index(a.severity), -a.since_s)))

    def restore(self, alarms: Iterable[Alarm]) -> None:
        """Alarms of before a restart, as they were; nothing is reported twice."""
        self._alarms |= {a.key: a for a in alarms}

    def active(self, key: str) -> bool:
        return key in self._alarms and self._alarms[key].active

    def raise_(self, key: str, severity: Severity, message: str, time_s: float) -> None:
        """The cause of an alarm is there. Repeating it changes the message at most; one that comes back is unacknowledged."""
        old = self._alarms.get(key)
        if old is not None and old.active and old.severity == severity:
            self._alarms[key] = replace(old, message=message)
            return
        self._alarms[key] = Alarm(key, severity, message, time_s)
        self._report(Event(time_s, "alarm", severity, message, key))

    def clear(self, key: str, time_s: float) -> None:
        """The cause is gone."""
        if not self.active(key):
            return
        alarm = replace(self._alarms[key], active=False)
        self._report(Event(time_s, "alarm", Severity.INFO, f"Cleared: {alarm.message}", key))
        self._keep(alarm)

    def set(self, key: str, present: bool, severity: Severity, message: str, time_s: float) -> None:
        """Raise or clear, as `present` says."""
        if present:
            self.raise_(key, severity, message, time_s)
        else:
            self.clear(key, time_s)

    def acknowledge(self, key: str, who: str, time_s: float) -> str:
        """Somebody has seen it. Returns '' or why not."""
        alarm = self._alarms.get(key)
        if alarm is None:
            return f"no alarm '{key}'; the list has {', '.join(self._alarms) or 'none'}"
        if not alarm.acknowledged:
            self._report(Event(time_s, "alarm", Severity.INFO, f"{who} acknowledged: {alarm.message}", key))
            self._keep(replace(alarm, acknowledged=True))
        return ""

    def _keep(self, alarm: Alarm) -> None:
        if alarm.active or not alarm.acknowledged:
            self._alarms[alarm.key] = alarm
        else:
            del self._alarms[alarm.key]
