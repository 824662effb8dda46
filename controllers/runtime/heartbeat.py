"""The controller's heartbeat to the plant: it stops when the loop stops, says so when the plant no longer takes it, and
notices when we ourselves stood still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from plant.clock import Clock
from plant.errors import LinkError
from plant.handshake import Watchdog
from plant.link import Link

log = logging.getLogger(__name__)
_PULSE_S = 0.5


class Heartbeat:
    """Beats twice a watchdog period, in wall time, while the plant is ours and the loop keeps its promises.

    `expect` is the promise: a loop that does not speak again within that many wall seconds counts as hung, and the plant's
    watchdog must then take over.

    **Arguments:**

    - `watchdog`: what the plant watches of us; of form none, nothing is sent.
    - `stall_s`: wall; how long we may stand still where the plant has no watchdog.
    - `holds`: whether the plant is ours. Without that a beat would keep alive a mode nobody is responsible for.
    - `lost`: called with the reason when beats have failed for as long as the plant's watchdog waits.
    - `stalled`: called with the reason when we stood still for longer than that: the plant is no longer ours by then.
    """

    def __init__(
        self,
        link: Link,
        watchdog: Watchdog,
        stall_s: float,
        clock: Clock,
        holds: Callable[[], bool],
        lost: Callable[[str], None],
        stalled: Callable[[str], None],
    ) -> None:
        self._link, self._clock, self._holds, self._lost, self._stalled = link, clock, holds, lost, stalled
        self._watched = watchdog.form != "none"
        self._period_s = watchdog.period_s if self._watched else _PULSE_S
        self._patience_s = watchdog.patience_s if self._watched else stall_s
        self._misses = watchdog.misses
        self.counter = 0
        self._noted_s = self._alive_until_s = clock.wall_time()

    @property
    def alive(self) -> bool:
        """Whether the loop is where it promised to be."""
        return self._clock.wall_time() <= self._alive_until_s

    def expect(self, within_s: float) -> None:
        """The loop will speak again within this many wall seconds (a watchdog period of grace is added)."""
        self._alive_until_s = self._clock.wall_time() + within_s + self._period_s

    def note(self) -> None:
        """We are awake. Whoever is first after a stall (a stopped process, a sleeping machine) finds it here, before anything
        is written or beaten."""
        now_s = self._clock.wall_time()
        gap_s, self._noted_s = now_s - self._noted_s, now_s
        if gap_s > self._patience_s:
            self._stalled(f"the controller stood still for {gap_s:.1f} s, at most {self._patience_s:g} s are allowed")

    async def run(self) -> None:
        """Beat until cancelled."""
        self._noted_s = self._clock.wall_time()
        failing_since_s: float | None = None
        while True:
            await asyncio.sleep(self._period_s / 2)
            self.note()
            if not self.alive:
                log.error("the control loop hangs: no heartbeat to the plant")
                continue
            self.counter = (self.counter + 1) % 2**32
            if not self._holds() or not self._watched:
                failing_since_s = None
                continue
            try:
                async with asyncio.timeout(self._period_s):
                    await self._link.beat(self.counter)
                failing_since_s = None
            except (LinkError, TimeoutError) as e:
                now_s = self._clock.wall_time()
                failing_since_s = now_s if failing_since_s is None else failing_since_s
                if now_s - failing_since_s >= (self._misses - 1) * self._period_s:
                    self._lost(str(e) or "no answer in time")
