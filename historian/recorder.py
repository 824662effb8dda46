"""The recorder: every change a link reports goes to the historian once; what could not be seen is stored as a gap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from historian.store import Historian
from plant.clock import Clock
from plant.link import Link
from plant.spec import PlantSpec

log = logging.getLogger(__name__)


async def record(
    link: Link,
    historian: Historian,
    spec: PlantSpec,
    clock: Clock,
    stop: asyncio.Event,
    on_progress: Callable[[int, float], None] | None = None,
    gap_s: float | None = None,
) -> int:
    """Record `spec`'s plant until `stop` is set or the link closes. Returns how many values were stored.

    A silence longer than `gap_s` plant seconds (default: three samples) is stored as an event and ends the run: training
    data is never stitched across a gap. `on_progress(values, newest plant time)` is called at each batch.
    """
    gap = 3 * spec.sample_time_s if gap_s is None else gap_s
    stored, newest, run = 0, None, None
    stream = link.subscribe()
    halt = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            batch = asyncio.ensure_future(anext(stream))
            await asyncio.wait({batch, halt}, return_when=asyncio.FIRST_COMPLETED)
            if not batch.done():
                batch.cancel()
                break
            try:
                values = batch.result()
            except StopAsyncIteration:
                break
            time_s = max(v.time_s for v in values.values())
            if newest is not None and time_s - newest > gap:
                message = f"no samples for {time_s - newest:.0f} s of plant time"
                historian.event(time_s, "gap", message, severity="warning", source="recorder", key="recorder.gap")
                if run is not None:
                    await asyncio.to_thread(historian.close_run, run, newest)
                    run = None
            if run is None:
                run = await asyncio.to_thread(historian.open_run, "recorded", time_s)
            historian.samples(values)
            stored += len(values)
            newest = time_s if newest is None else max(newest, time_s)
            if on_progress:
                on_progress(stored, newest)
    finally:
        halt.cancel()
        if run is not None and newest is not None:
            await asyncio.to_thread(historian.close_run, run, newest)
    return stored
