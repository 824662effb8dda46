"""Plant time and wall time, kept apart.

Plant time (seconds since the Unix epoch, as the plant stamps its samples) is what is stored and planned in. Wall time
serves watchdogs and deadlines. A `Clock` is handed to whoever needs one; no other module reads the system clock.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What a loop may ask of time. `speed` is plant seconds per wall second."""

    speed: float

    def plant_time(self) -> float:
        """Plant time now, s since the Unix epoch."""
        ...

    def wall_time(self) -> float:
        """A monotonic wall time, s; only differences mean anything."""
        ...

    async def sleep_until(self, plant_time: float) -> None:
        """Return once `plant_time()` has reached `plant_time` (s since the Unix epoch)."""
        ...


def wall_date() -> float:
    """The date and time of this machine, s since the Unix epoch: what the stamps of a real plant are judged by. It may step;
    durations are a `Clock`'s."""
    return time.time()


class ScaledClock:
    """Runs `speed` plant seconds to each wall second, from `start` (s since the Unix epoch; default: now)."""

    def __init__(self, speed: float = 1.0, start: float | None = None) -> None:
        if not speed > 0:
            raise ValueError(f"clock speed must be positive, not {speed}")
        self.speed = speed
        self._wall0 = time.monotonic()
        self._plant0 = time.time() if start is None else start

    def plant_time(self) -> float:
        return self._plant0 + (time.monotonic() - self._wall0) * self.speed

    def wall_time(self) -> float:
        return time.monotonic()

    async def sleep_until(self, plant_time: float) -> None:
        while (remaining := (plant_time - self.plant_time()) / self.speed) > 0:
            await asyncio.sleep(remaining)


class LockStepClock:
    """Plant time moves only when somebody waits for it: simulation and evaluation as fast as they can."""

    def __init__(self, start: float = 0.0) -> None:
        self.speed = float("inf")
        self._now = start

    def plant_time(self) -> float:
        return self._now

    def wall_time(self) -> float:
        return time.monotonic()

    async def sleep_until(self, plant_time: float) -> None:
        self._now = max(self._now, plant_time)
        await asyncio.sleep(0)
