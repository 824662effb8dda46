"""The controller's heartbeat to the plant: it stops when the loop stops, and says so when the plant no longer takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from plant.clock import Clock
from plant.errors import LinkError
from plant.link import Link
from plant.spec import Watchdog

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats twice a watchdog period, in wall time, while the plant is ours and the loop keeps its promises.

    `expect` is the promise: a loop that does not speak again within that many wall seconds counts as hung, and the plant's
    watchdog must then take over.

    **Arguments:**

    - `holds`: whether the plant is ours. Without that a beat would keep alive a mode nobody is responsible for.
    - `lost`: called with the reason when beats have failed for as long as the plant's watchdog waits.
    """

    def __init__(
        self, link: Link, watchdog: Watchdog, clock: Clock, holds: Callable[[], bool], lost: Callable[[str], None]
    ) -> None:
        self._link, self._watchdog, self._clock, self._holds, self._lost = link, watchdog, clock, holds, lost
        self.counter = 0
        self._alive_until_s = clock.wall_time()

    @property
    def alive(self) -> bool:
        """Whether the loop is where it promised to be."""
        return self._clock.wall_time() <= self._alive_until_s

    def expect(self, within_s: float) -> None:
        """The loop will speak again within this many wall seconds (a watchdog period of grace is added)."""
        self._alive_until_s = self._clock.wall_time() + within_s + self._watchdog.heartbeat_s

    async def run(self) -> None:
        """Beat until cancelled."""
        period_s = self._watchdog.heartbeat_s
        failing_since_s: float | None = None
        while True:
            await asyncio.sleep(period_s / 2)
            if not self.alive:
                log.error("the control loop hangs: no heartbeat to the plant")
                continue
            self.counter = (self.counter + 1) % 2**32
            if not self._holds():
                failing_since_s = None
                continue
            try:
                async with asyncio.timeout(period_s):
                    await self._link.beat(self.counter)
                failing_since_s = None
            except (LinkError, TimeoutError) as e:
                now_s = self._clock.wall_time()
                failing_since_s = now_s if failing_since_s is None else failing_since_s
                if now_s - failing_since_s >= (self._watchdog.misses - 1) * period_s:
                    self._lost(str(e) or "no answer in time")
