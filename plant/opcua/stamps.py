"""Plant time as the stamps tell it, when some of them cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from plant.clock import Clock, wall_date
from plant.judgement import EARLIEST_S
from plant.spec import PlantSpec

_LATEST_S = 4102444800.0  # 2100


def sane(time_s: float) -> bool:
    """Whether a stamp (s since the Unix epoch) is a date that a plant can be on at all."""
    return EARLIEST_S <= time_s <= _LATEST_S


def middle(stamps: Sequence[float]) -> float:
    """The median of those stamps that can be; NaN of none. One clock in two that is wrong does not move it."""
    return float(median(good)) if (good := [s for s in stamps if sane(s)]) else math.nan


class PlantDate:
    """What the date is at the plant, to judge stamps by.

    A real plant's is the wall clock's. A plant that declares a speed may be on a date of its own: there it is what most of its
    own stamps say, carried on at its speed while they say nothing.
    """

    def __init__(self, spec: PlantSpec, clock: Clock) -> None:
        self.own = spec.handshake is not None and spec.handshake.own_date
        self._clock = clock
        self._known: tuple[float, float] | None = None  # (wall, plant)

    def follow(self, stamps: Sequence[float], speed: float) -> float:
        """Now (plant time, s since the Unix epoch), given the stamps of one answer and the plant's speed."""
        if not self.own:
            return wall_date()
        if not math.isnan(here := middle(stamps)):
            self._known = (self._clock.wall_time(), here)
            return here
        if self._known is None:
            return wall_date()
        wall_s, plant_s = self._known
        return plant_s + (self._clock.wall_time() - wall_s) * (speed if math.isfinite(speed) else 0.0)
