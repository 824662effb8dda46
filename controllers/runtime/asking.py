"""What people ask of zones, prices and the schedule: each refusal is one sentence, and who asked is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from controllers.runtime.records import Recorder, without_nan
from controllers.runtime.sources import time_of
from controllers.runtime.spoken import KEY, plain
from controllers.runtime.targets import Change, TargetBoard


class Audited(Protocol):
    """Records a command and its outcome; returns the refusal as it may be shown."""

    def __call__(self, who: str, action: str, target: str, old: object, new: object, refusal: str) -> str: ...


class Asking:
    """Changes a board in somebody's name. `now_s`: plant time. Every command returns '' or why it was refused."""

    def __init__(self, board: TargetBoard, audited: Audited, recorder: Recorder, now_s: Callable[[], float]) -> None:
        self._board, self._audited, self._recorder, self._now_s = board, audited, recorder, now_s

    def set_zone(self, tag: str, low: float, high: float, who: str) -> str:
        """Ask for a zone; NaN: that side is open."""
        before = list(self._board.zones.get(tag, ""))
        refusal = self._board.set_zone(tag, low, high)
        return self._audited(who, "SetZone", tag, before, without_nan([low, high]), refusal)

    def set_cost(self, tag: str, per_unit: float, who: str) -> str:
        """Ask for a price, by unit of the tag and hour in the plant's currency."""
        before = self._board.prices.get(tag, "")
        return self._audited(who, "SetCost", tag, before, per_unit, self._board.set_cost(tag, per_unit))

    def schedule_target(self, tag: str, value: float, at: str, who: str) -> str:
        """Ask for a target from a time on: ISO 8601 with a time zone, or plant s since the Unix epoch."""
        try:
            at_s = time_of(at)
        except ValueError as e:
            refusal = str(e)
        else:
            past = f"{plain(at, KEY)} is in the past; set it now instead" if at_s <= self._now_s() else ""
            refusal = past or self._board.schedule(Change(at_s, tag, value))
        return self._audited(who, "ScheduleTarget", tag, "", f"{value:g} from {plain(at, KEY)}", refusal)

    def unschedule(self, tag: str, who: str) -> str:
        """Drop what is scheduled by hand for a tag."""
        before = [[c.at_s, c.asked] for c in self._board.by_hand if c.tag == tag]
        return self._audited(who, "Unschedule", tag, before, "", self._board.unschedule(tag))

    def due(self, now_s: float) -> TargetBoard:
        """The board with everything in force that is due; what changed by that is recorded as the schedule's."""
        was = {False: self._board.values, True: self._board.zones}
        for change in self._board.due(now_s):
            tag, zone = change.of
            old, new = (list(v) if isinstance(v, tuple) else v for v in (was[zone][tag], change.asked))
            self._recorder.audit(now_s, "schedule", "SetZone" if zone else "SetTarget", tag, old, new, "")
        return self._board
