"""What the operator asks of the plant: targets, zones and prices now, and scheduled changes that a planner may see ahead."""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plant.spec import PlantSpec
from plant.wants import zone_refusal

Array = NDArray[np.float64]
Sides = tuple[float | None, float | None]
"""A zone's low and high; None: no such side."""
_MOST = 200  # changes scheduled by hand; more is a mistake, and a file is the place for them
_SHOWN = 100


@dataclass(frozen=True)
class Change:
    """From plant time `at_s` on the tag has this target, or this zone."""

    at_s: float
    tag: str
    asked: float | Sides

    @property
    def of(self) -> tuple[str, bool]:
        """What it changes: the tag, and whether its zone."""
        return self.tag, isinstance(self.asked, tuple)


class TargetBoard:
    """One value a target of the spec, low and high of each zone, and each price, changed by hand or by schedule.

    **Arguments:**

    - `preview`: scheduled targets are shown to the planner before they are due; zones change when they are due.
    """

    def __init__(self, spec: PlantSpec, preview: bool = True) -> None:
        self._spec, self._preview = spec, preview
        self._limits = {t.tag: t.limits for t in spec.targets}
        self._values = {t.tag: t.value for t in spec.targets}
        self._zones: dict[str, Sides] = {z.tag: (z.low, z.high) for z in spec.zones}
        self._prices = {p.tag: p.per_unit for p in spec.prices}
        self._by_hand: list[Change] = []
        self._filed: list[Change] = []
        self._taken: dict[tuple[str, bool], Change] = {}

    @property
    def values(self) -> dict[str, float]:
        """The targets in force: tag -> value."""
        return dict(self._values)

    @property
    def zones(self) -> dict[str, Sides]:
        """The zones in force: tag -> low and high."""
        return dict(self._zones)

    @property
    def prices(self) -> dict[str, float]:
        """The prices in force: tag -> money by unit and hour, in the spec's currency."""
        return dict(self._prices)

    @property
    def by_hand(self) -> tuple[Change, ...]:
        """Changes to come that people have scheduled, in the order of their times."""
        return tuple(self._by_hand)

    @property
    def coming(self) -> tuple[Change, ...]:
        """The next hundred changes to come."""
        return tuple(itertools.islice(self._merged(), _SHOWN))

    @property
    def taken(self) -> tuple[Change, ...]:
        """The last change of each target and zone that came into force out of a file: it is not done twice."""
        return tuple(self._taken.values())

    def set(self, tag: str, value: float) -> str:
        """A target by hand; changes of it still scheduled stay. Returns '' or why not."""
        if refusal := self.refusal(tag, value):
            return refusal
        self._values[tag] = value
        return ""

    def set_zone(self, tag: str, low: float | None, high: float | None) -> str:
        """A zone by hand; None or NaN: no such side. Returns '' or why not."""
        sides = _sides(low, high)
        if refusal := self.refusal(tag, sides):
            return refusal
        self._zones[tag] = sides
        return ""

    def set_cost(self, tag: str, per_unit: float) -> str:
        """A price, in the currency of the spec. Returns '' or why not."""
        if tag not in self._prices:
            return f"{tag} has no price; prices: {', '.join(self._prices) or 'none'}"
        if not math.isfinite(per_unit):
            return f"the price of {tag} must be a number, not {per_unit:g}"
        self._prices[tag] = per_unit
        return ""

    def schedule(self, change: Change) -> str:
        """A target or a zone from a plant time on. Returns '' or why not."""
        if refusal := self.refusal(change.tag, change.asked):
            return refusal
        if not math.isfinite(change.at_s):
            return f"the time of a change must be a number of seconds, not {change.at_s:g}"
        if len(self._by_hand) >= _MOST:
            return f"{_MOST} changes are scheduled by hand already; give a schedule file"
        insort(self._by_hand, change, key=lambda c: c.at_s)
        return ""

    def unschedule(self, tag: str) -> str:
        """Drop what is scheduled by hand for a tag. Returns '' or why not."""
        kept = [c for c in self._by_hand if c.tag != tag]
        if len(kept) == len(self._by_hand):
            return f"nothing is scheduled by hand for {tag}"
        self._by_hand = kept
        return ""

    def file(self, changes: Iterable[Change]) -> None:
        """What a schedule file says now, in place of what it said before: valid changes, in the order of their times."""
        self._filed = list(changes)

    def restore_taken(self, changes: Iterable[Change]) -> None:
        """What came into force out of a file before a restart."""
        self._taken |= {c.of: c for c in changes}

    def due(self, now_s: float) -> list[Change]:
        """Let what is due by plant time `now_s` come into force; returns what changed by it. Of a file's changes to one target or
        zone that are due at once only the last counts, and one that has been in force before does not undo what a person did since."""
        last: dict[tuple[str, bool], Change] = {}
        while self._filed and self._filed[0].at_s <= now_s:
            change = self._filed.pop(0)
            last[change.of] = change
        fresh = [c for c in last.values() if self._taken.get(c.of) != c]
        self._taken |= {c.of: c for c in fresh}
        while self._by_hand and self._by_hand[0].at_s <= now_s:
            fresh.append(self._by_hand.pop(0))
        came = []
        for change in sorted(fresh, key=lambda c: c.at_s):
            if self._in_force(change) != change.asked:
                came.append(change)
            if isinstance(change.asked, tuple):
                self._zones[change.tag] = change.asked
            else:
                self._values[change.tag] = change.asked
        return came

    def ahead(self, now_s: float, horizon: int) -> Array:
        """Targets at the next `horizon` samples (1 x horizon x n_target)."""
        columns = list(self._values)
        out = np.tile(np.array([self._values[tag] for tag in columns], dtype=np.float64), (1, horizon, 1))
        times = now_s + self._spec.sample_time_s * np.arange(1, horizon + 1)
        for change in self._merged() if self._preview and horizon else ():
            if change.at_s > times[-1]:
                break
            if not isinstance(change.asked, tuple):
                out[0, times >= change.at_s, columns.index(change.tag)] = change.asked
        return out

    def zones_now(self, given_up: Collection[str] = ()) -> Array | None:
        """`Targets.zones`, those of tags that are `given_up` open on both sides; None where the plant has none."""
        sides = [(None, None) if z.tag in given_up else self._zones[z.tag] for z in self._spec.zones]
        return np.array(sides, dtype=np.float64) if sides else None

    def prices_now(self) -> Array | None:
        """`Targets.prices`; None where the plant has none."""
        return np.array([self._prices[p.tag] for p in self._spec.prices], dtype=np.float64) if self._prices else None

    def refusal(self, tag: str, asked: float | Sides) -> str:
        """Why a target or a zone cannot be had; '' where it can."""
        if isinstance(asked, tuple):
            zone = next((z for z in self._spec.zones if z.tag == tag), None)
            if zone is None:
                return f"{tag} has no zone; zones: {', '.join(self._zones) or 'none'}"
            return zone_refusal(zone, *asked, self._spec.tag(tag).unit)
        if tag not in self._limits:
            return f"{tag} has no target; targets: {', '.join(self._limits) or 'none'}"
        low, high = self._limits[tag]
        if not (math.isfinite(asked) and low <= asked <= high):
            return f"target {asked:g} of {tag} is outside [{low:g}, {high:g}] {self._spec.tag(tag).unit}"
        return ""

    def _merged(self) -> Iterator[Change]:
        return heapq.merge(self._filed, self._by_hand, key=lambda c: c.at_s)

    def _in_force(self, change: Change) -> float | Sides:
        return self._zones[change.tag] if isinstance(change.asked, tuple) else self._values[change.tag]


def _sides(low: float | None, high: float | None) -> Sides:
    """A zone's sides, with NaN said as None."""
    return tuple(None if v is None or math.isnan(v) else float(v) for v in (low, high))  # type: ignore[return-value]
