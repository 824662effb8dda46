"""The recorder: every change a link reports goes to the historian once; what could not be seen is stored as a gap."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from historian.store import Historian
from plant.clock import Clock
from plant.errors import HistorianError, LinkError
from plant.link import Link, Value
from plant.spec import PlantSpec

log = logging.getLogger(__name__)
_LEAST_PATIENCE_S = 2.0  # wall
_LATEST_S = 2.5e11  # a source time after the year 9000 is none
_RETRY_S = 5.0  # wall, between attempts to open a run in a locked database


async def record(
    link: Link,
    historian: Historian,
    spec: PlantSpec,
    clock: Clock,
    stop: asyncio.Event,
    on_progress: Callable[[int, float], None] | None = None,
    gap_s: float | None = None,
    kind: str = "recorded",
    note: str = "",
) -> int:
    """Record `spec`'s plant until `stop` is set or the link closes. Returns how many values were stored.

    A silence longer than `gap_s` plant seconds (default: three samples) is stored as an event and ends the run of `kind` (stored with `note`):
    training data is never stitched across a gap. While nothing is reported the plant is asked: what it answers is stored
    too, and a link that is down is an event (`link_down`, then `link_up`). A locked database holds up nothing.
    `on_progress(values, newest plant time)` is called at each batch.
    """
    recording = _Recording(link, historian, spec, clock, gap_s, kind, note)
    await recording.follow(stop, on_progress)
    return recording.stored


class _Recording:
    """Where a recording stands."""

    def __init__(
        self, link: Link, historian: Historian, spec: PlantSpec, clock: Clock, gap_s: float | None, kind: str, note: str
    ) -> None:
        self._link, self._historian, self._spec, self._clock = link, historian, spec, clock
        self._kind, self._run_note = kind, note
        self._gap_s = 3 * spec.sample_time_s if gap_s is None else gap_s
        self.stored = 0
        self._newest: float | None = None
        self._last: dict[str, tuple[float, int, str]] = {}
        self._down = False
        self._run: int | None = None
        self._run_start: float | None = None
        self._next_try_s = -math.inf

    async def follow(self, stop: asyncio.Event, on_progress: Callable[[int, float], None] | None) -> None:
        """Store what the link reports until `stop` or its end."""
        try:
            await asyncio.to_thread(self._historian.end_abandoned_runs, self._kind)
        except HistorianError as e:
            log.warning("runs left open by an earlier recorder stay open: %s", e)
        changes = self._link.subscribe()
        halt = asyncio.create_task(stop.wait())
        following: asyncio.Task[Mapping[str, Value] | None] | None = None
        try:
            while not stop.is_set():
                following = following or asyncio.create_task(_next(changes))
                patience_s = max(_LEAST_PATIENCE_S, 3 * self._spec.scan_time_s / self._link.speed)
                await asyncio.wait({following, halt}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    values, following = following.result(), None
                    if values is None:
                        break
                elif stop.is_set():
                    break
                else:
                    values = await self._ask()
                await self._store(values)
                if on_progress and self._newest is not None:
                    on_progress(self.stored, self._newest)
        finally:
            halt.cancel()
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            if isinstance(changes, AsyncGenerator):
                await changes.aclose()
            if self._newest is not None:
                await self._end_run(self._newest)

    async def _ask(self) -> Mapping[str, Value]:
        """Nothing was reported for a while: is the plant quiet, or out of reach?"""
        try:
            return (await self._link.read()).values
        except LinkError as e:
            if not self._down:
                self._down = True
                time_s = self._clock.plant_time() if self._newest is None else self._newest
                self._note(time_s, "link_down", "high", f"the plant cannot be reached: {e.what}")
            return {}

    async def _store(self, values: Mapping[str, Value]) -> None:
        fresh, went_back = {}, False
        for tag, v in values.items():
            key = (v.time_s, int(v.quality), repr(v.value))  # NaN never equals itself, its text does
            if self._last.get(tag) != key and 0 < v.time_s < _LATEST_S:
                went_back |= tag in self._last and self._last[tag][0] - v.time_s > self._gap_s
                self._last[tag] = key
                fresh[tag] = v
        if not fresh:
            return
        time_s = max(v.time_s for v in fresh.values())
        if self._newest is None:
            time_s = self._newest = await self._now(time_s)
        if self._down:
            self._down = False
            self._note(time_s, "link_up", "info", "the plant can be reached again")
        if went_back or time_s - self._newest > self._gap_s:
            await self._gap(self._newest, time_s)
            self._newest, self._last = time_s, {tag: self._last[tag] for tag in fresh}
        self._historian.samples(fresh)
        self.stored += len(fresh)
        self._newest = max(self._newest, time_s)
        await self._begin_run(time_s)

    async def _now(self, time_s: float) -> float:
        """Where a recording begins. A set-point that rests may have been stamped hours ago, so the plant is asked."""
        try:
            return max(time_s, (await self._link.read()).time_s)
        except LinkError:
            return time_s

    async def _gap(self, newest_s: float, time_s: float) -> None:
        silence_s = time_s - newest_s
        message = f"no samples for {silence_s:.0f} s of plant time"
        if silence_s < 0:
            message = f"the plant's clock went back by {-silence_s:.0f} s"
        self._note(time_s, "gap", "medium", message, {"from_s": newest_s, "to_s": time_s})
        await self._end_run(newest_s)

    async def _begin_run(self, time_s: float) -> None:
        """Open a run if none is; values are stored whether or not the database is free for that now."""
        if self._run_start is None:
            self._run_start, self._next_try_s = time_s, -math.inf
        if self._run is not None or self._clock.wall_time() < self._next_try_s:
            return
        try:
            self._run = await asyncio.to_thread(
                self._historian.open_run, self._kind, self._run_start, None, self._run_note
            )
        except HistorianError as e:
            self._next_try_s = self._clock.wall_time() + _RETRY_S
            log.warning("no run can be opened yet: %s", e)

    async def _end_run(self, end_s: float) -> None:
        start, run = self._run_start, self._run
        self._run_start = self._run = None
        try:
            if run is not None:
                await asyncio.to_thread(self._historian.close_run, run, end_s)
            elif start is not None:
                await asyncio.to_thread(self._historian.add_runs, self._kind, [(start, end_s)], None, self._run_note)
        except HistorianError as e:
            log.error(
                "the run that began at %s and ended at %s (plant time) is not marked as ended: %s", start, end_s, e
            )

    def _note(
        self, time_s: float, kind: str, severity: str, message: str, data: Mapping[str, float] | None = None
    ) -> None:
        log.info("%s: %s", self._spec.name, message)
        self._historian.event(
            time_s, kind, message, severity=severity, source="recorder", key=f"recorder.{kind}", data=data
        )


async def _next(changes: AsyncIterator[Mapping[str, Value]]) -> Mapping[str, Value] | None:
    """The next batch; None when the link has closed."""
    return await anext(changes, None)
