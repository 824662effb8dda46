"""The recorder: every change a link reports goes to the historian once; what could not be seen is stored as a gap."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace

from historian.store import Historian
from plant.clock import Clock
from plant.errors import HistorianError, LinkError
from plant.link import Link, Quality, Value
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
    training data is never stitched across a gap, nor across a step of the plant's clock (`clock_step`), which is one when most
    of the tags that are stamped at each scan make it: a single odd clock is that tag's own matter. Nothing is dropped in
    silence: a value that cannot be believed is stored as Bad, and an event names its tag once. While nothing is reported the plant is asked: what it answers is stored
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
        self._heard_s = clock.wall_time()
        # What tells the plant's time: tags stamped at each scan, or all where none is.
        self._timed = {t.name for t in spec.online if t.scanned} or {t.name for t in spec.online}
        self._seen: set[str] = set()
        self._ahead: set[str] = set()
        self._back: set[str] = set()
        self._told: set[str] = set()
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
        fresh: dict[str, Value] = {}
        before: dict[str, float] = {}
        for tag, v in self._possible(values).items():
            key = (v.time_s, int(v.quality), repr(v.value))  # NaN never equals itself, its text does
            if self._last.get(tag) != key:
                before[tag] = self._last[tag][0] if tag in self._last else v.time_s
                self._last[tag] = key
                fresh[tag] = v
        if not fresh:
            return
        newest_s = max(v.time_s for v in fresh.values())
        if self._newest is None:
            self._newest = await self._now(newest_s)
        if self._down:
            self._down = False
            self._note(newest_s, "link_up", "info", "the plant can be reached again")
        self._tell_bad(fresh)
        self._historian.samples(fresh)
        self.stored += len(fresh)
        if (
            to_s := await self._follow({t: v.time_s for t, v in fresh.items() if t in self._timed}, before)
        ) is not None:
            self._newest, self._last = to_s, {tag: self._last[tag] for tag in fresh}
        await self._begin_run(self._newest)

    def _possible(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Values whose source time the historian can hold; one that it cannot is Bad, at the time of the others."""
        times = [v.time_s for v in values.values() if 0 < v.time_s < _LATEST_S]
        stand_in_s = max(times) if times else self._clock.plant_time() if self._newest is None else self._newest
        return {
            tag: v
            if 0 < v.time_s < _LATEST_S
            else replace(
                v,
                time_s=stand_in_s,
                quality=Quality.BAD,
                reason=v.reason or f"its source time {v.time_s:g} s cannot be",
            )
            for tag, v in values.items()
        }

    def _tell_bad(self, fresh: Mapping[str, Value]) -> None:
        for tag, v in fresh.items():
            if v.quality is Quality.BAD and tag not in self._told:
                self._told.add(tag)
                why = f"{tag} is stored as bad: {v.reason or 'the server says so'}"
                log.warning("%s: %s", self._spec.name, why)
                self._note(v.time_s, "bad_value", "medium", why)

    async def _follow(self, times: Mapping[str, float], before: Mapping[str, float]) -> float | None:
        """Follow the plant's time by the stamps of a batch, given those before them. Returns where it goes on after a gap or a
        step of its clock, which end the run; None while it just runs."""
        assert self._newest is not None
        if not times:
            return None
        newest, speed = self._newest, self._link.speed
        now_s = self._clock.wall_time()
        passed_s = (now_s - self._heard_s) * speed if math.isfinite(speed) else math.inf  # at most, by our own clock
        self._heard_s = now_s
        self._seen |= times.keys()
        for tag, s in times.items():
            self._ahead.discard(tag)
            if s - newest > self._gap_s + passed_s:
                self._ahead.add(tag)
            if before[tag] - s > self._gap_s or (tag in self._back and newest - s > self._gap_s):
                self._back.add(tag)
            else:
                self._back.discard(tag)
        for odd, word in ((self._ahead, "ahead"), (self._back, "back")):
            if 2 * len(odd) > len(self._seen):
                to_s = max(s for tag, s in times.items() if tag in odd)
                message = f"the plant's clock went {word} by {abs(to_s - newest):.0f} s"
                await self._break("clock_step", message, newest, to_s)
                return to_s
        usual = [s for tag, s in times.items() if tag not in self._ahead and tag not in self._back]
        if usual and max(usual) - newest > self._gap_s:
            await self._break("gap", f"no samples for {max(usual) - newest:.0f} s of plant time", newest, max(usual))
            return max(usual)
        self._newest = max(newest, *usual) if usual else newest
        return None

    async def _break(self, kind: str, message: str, from_s: float, to_s: float) -> None:
        self._ahead.clear()
        self._back.clear()
        self._note(to_s, kind, "medium", message, {"from_s": from_s, "to_s": to_s})
        await self._end_run(from_s)

    async def _now(self, time_s: float) -> float:
        """Where a recording begins. A set-point that rests may have been stamped hours ago, so the plant is asked."""
        try:
            return max(time_s, (await self._link.read()).time_s)
        except LinkError:
            return time_s

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
