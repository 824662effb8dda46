"""Plant time as the samples tell it: what time it is there, how old the newest sample is, whether time runs as it should."""

from __future__ import annotations

import math
from collections import deque

from controllers.runtime.config import LoopConfig
from plant.clock import Clock


class PlantTime:
    """Follows source times against the clock. Only rates are compared: a simulated plant may live on another date.

    **Arguments:**

    - `sample_time_s`: plant seconds between two samples.
    """

    def __init__(self, clock: Clock, sample_time_s: float, config: LoopConfig) -> None:
        self._clock, self._sample_s, self._config = clock, sample_time_s, config
        self._seen: deque[tuple[float, float]] = deque(maxlen=config.speed_samples + 1)  # (clock, plant)
        self._newest: tuple[float, float] | None = None

    def now_s(self) -> float:
        """Plant time now, s since the Unix epoch: the newest sample's, carried on by the clock."""
        return self._clock.plant_time() if self._newest is None else self._newest[1] + self.age_s()

    def age_s(self) -> float:
        """Plant seconds by the clock since a sample newer than all before came; NaN before the first."""
        return math.nan if self._newest is None else self._clock.plant_time() - self._newest[0]

    def follow(self, time_s: float) -> float:
        """Take note of a sample's time. Returns how many sample times lie between it and the one before (1 when none is
        missing, inf when time went back or this is the first)."""
        before, here = self._newest, (self._clock.plant_time(), time_s)
        if before is not None and time_s == before[1]:
            self._seen.clear()  # it stands: that is the heartbeat's matter, not one of speed
            return 0.0
        self._newest = here
        if before is None or time_s < before[1]:
            self._seen.clear()
            self._seen.append(here)
            return math.inf
        self._seen.append(here)
        return (time_s - before[1]) / self._sample_s

    def speed_fault(self, declared: float) -> str:
        """Why plant time does not fit the clock, '' when it does. `declared`: the plant's own word on its speed."""
        clock, tolerance = self._clock.speed, self._config.speed_tolerance
        fix = "start the controller with the plant's speed"
        if math.isfinite(declared) and math.isfinite(clock) and abs(declared / clock - 1) > tolerance:
            return f"the plant runs at speed {declared:g} and the controller's clock at {clock:g}: {fix}"
        if len(self._seen) <= self._config.speed_samples:
            return ""
        (clock_0, plant_0), (clock_1, plant_1) = self._seen[0], self._seen[-1]
        rate = (plant_1 - plant_0) / (clock_1 - clock_0) if clock_1 > clock_0 else 1.0
        if abs(rate - 1) > tolerance:
            return (
                f"plant time runs at {rate:.2f} times the controller's clock: {fix}, or see what slows the plant down"
            )
        return ""
