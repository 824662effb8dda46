"""Plant time as the samples tell it: what time it is there, how old the newest sample is, whether time runs as it should."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from controllers.runtime.config import LoopConfig
from plant.clock import Clock
from plant.spec import PlantSpec


@dataclass(frozen=True)
class Followed:
    """One sample's time against the one before. `missing`: how many sample times lie between them, 1 when none is missing, 0
    when time stands, inf when they are not of one piece (the first, or a step). `step_s`: by how many plant seconds the
    plant's clock was set, ahead or back (negative); 0 when it was not."""

    missing: float
    step_s: float = 0.0


class PlantTime:
    """Follows source times against the clock. Only rates and jumps are judged: a simulated plant may live on another date."""

    def __init__(self, clock: Clock, spec: PlantSpec, config: LoopConfig) -> None:
        self._clock, self._sample_s, self._scan_s, self._config = clock, spec.sample_time_s, spec.scan_time_s, config
        self._seen: deque[tuple[float, float]] = deque(maxlen=config.speed_samples + 1)  # (clock, plant)
        self._newest: tuple[float, float] | None = None
        self._offset = (math.nan, math.nan)  # between which bounds the plant's clock is ahead of ours
        self.standing = 0
        """Samples in a row whose time was not a new one."""
        self.settling = 0
        """Samples until a clock that was set counts as settled."""

    def now_s(self) -> float:
        """Plant time now, s since the Unix epoch: the newest received, carried on by the clock."""
        return self._clock.plant_time() if self._newest is None else self._newest[1] + self.age_s()

    def age_s(self) -> float:
        """Plant seconds by the clock since a sample with a new time came; NaN before the first."""
        return math.nan if self._newest is None else self._clock.plant_time() - self._newest[0]

    @property
    def unsettled(self) -> str:
        """Why plant time is not to be relied on yet; '' when it is."""
        return f"the plant's clock was set; {self.settling} more samples until it has settled" if self.settling else ""

    def follow(self, time_s: float, asked_s: float) -> Followed:
        """Take note of a sample's time. `asked_s`: plant time of our clock when the sample was asked for."""
        before, here = self._newest, (self._clock.plant_time(), time_s)
        self.settling = max(0, self.settling - 1)
        if before is not None and time_s == before[1]:
            self._seen.clear()  # it stands: that is the scan's matter, not one of speed
            self.standing += 1
            return Followed(0.0)
        self._newest, self.standing = here, 0
        step_s = self._step_s(time_s - here[0], time_s - min(asked_s, here[0]) + self._scan_s)
        if before is None or step_s:
            self.settling = self._config.settle_samples if step_s else self.settling
            self._seen.clear()
            self._seen.append(here)
            return Followed(math.inf, step_s)
        self._seen.append(here)
        return Followed((time_s - before[1]) / self._sample_s)

    def _step_s(self, low: float, high: float) -> float:
        """A stamp is set a scan before the question at the earliest, and at the latest when the answer has come. Bounds that
        lie further apart than delays explain are a clock that was set."""
        (low_before, high_before), self._offset = self._offset, (low, high)
        speed = self._clock.speed if math.isfinite(self._clock.speed) else 0.0
        slack = max(2.0 * self._sample_s, self._config.clock_step_s * speed)
        if low > high_before + slack or high < low_before - slack:
            return low - low_before
        return 0.0

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
