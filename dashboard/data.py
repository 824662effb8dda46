"""Where an `OperatorView` comes from: the historian, read anew at each tick, and the live source beside it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence

import polars as pl
from sqlalchemy.exc import SQLAlchemyError

from dashboard.live import LiveSource
from dashboard.news import Listener, News
from dashboard.view import Entry, History, OperatorView, Reading, Series
from historian import Historian
from plant.errors import HistorianError
from plant.link import Quality
from plant.spec import PlantSpec

_POINTS = 600  # of one trend: about one a pixel of its panel
_ENTRIES = 40
_LOOKED_S = 0.5  # wall; the historian is looked at once a tick, so what was stored last may be noticed late by that
_FRESH_S = 0.8  # wall; shorter than a tick, so that many open pages cost the historian as much as one
_SET_TARGET = "SetTarget"


def observe(
    spec: PlantSpec, live: LiveSource, history: HistoryReader, tags: Sequence[str], span_s: float
) -> OperatorView:
    """One moment of the plant. What cannot be read is left out, and the view says why; what is old is marked as such."""
    plant, plant_news = live.plant, live.plant_news
    here_s = plant.time_s if plant is not None and plant_news.fresh else None
    try:
        past, error = history.read(tags, span_s, here_s), ""
    except HistorianError as e:
        past, error = History(), str(e)
    stored_news = history.news(live.scan_patience_s - _LOOKED_S)
    return OperatorView(
        spec, past, error, live.controller, live.controller_error, plant, live.plant_error,
        controller_news=live.controller_news, plant_news=plant_news, stored_news=stored_news, clock_step=live.clock_step,
    )  # fmt: skip


class HistoryReader:
    """Reads one historian, which may not exist yet, may go away and may come back as another file."""

    def __init__(self, location: str, spec: PlantSpec) -> None:
        self._location, self._spec = location, spec
        self._store: Historian | None = None
        self._inode: int | None = None
        self._turn = threading.Lock()
        self._listener = Listener()
        self._last: tuple[float, tuple[tuple[str, ...], float], History] | None = None

    def news(self, patience_s: float) -> News:
        """When the newest readings last changed from one `read` to another."""
        return self._listener.news(patience_s)

    def read(self, tags: Sequence[str], span_s: float, here_s: float | None = None) -> History:
        """Newest readings, trends of `tags` over the last `span_s` plant seconds, and the event list.

        All of the segment that is being recorded: where the plant's clock was set back, what was stored before has newer
        times and is over. `here_s`: plant time now, where it is known otherwise. An answer up to 0.8 s old may be given
        again. Raises `HistorianError` when the historian cannot be read; the next call tries again.
        """
        asked = (tuple(tags), span_s)
        with self._turn:
            if self._last and self._last[1] == asked and time.monotonic() - self._last[0] < _FRESH_S:
                return self._last[2]
            try:
                found = self._read(self._opened(), tags, span_s, here_s)
            except SQLAlchemyError as e:
                self.close()
                raise HistorianError(
                    f"it cannot be read: {str(e.__cause__ or e).splitlines()[0]}",
                    self._location,
                    "Check that it is a Homeostat historian and that another program has not locked it.",
                ) from e
            self._listener.hear({tag: (r.time_s, r.quality, repr(r.value)) for tag, r in found.readings.items()})
            self._last = (time.monotonic(), asked, found)
            return found

    def close(self) -> None:
        """Let go of the file. Safe to call twice; the next `read` opens it again."""
        if self._store is not None:
            self._store.close()
        self._store, self._last = None, None

    def _opened(self) -> Historian:
        try:
            inode = None if "://" in self._location else os.stat(self._location).st_ino
        except OSError:
            inode = None
            self.close()  # a deleted file would go on answering from what is still open
        if inode != self._inode:
            self.close()
        if self._store is None:
            self._store, self._inode = Historian(self._location, self._spec.name, read_only=True), inode
        return self._store

    def _read(self, store: Historian, tags: Sequence[str], span_s: float, here_s: float | None) -> History:
        start, end, back = store.segment()
        if here_s is not None and back and start <= here_s * 1e6:
            end = min(end, round(here_s * 1e6) + 1)
        names = [t.name for t in self._spec.online]
        readings = _readings(store.latest(names, start, end) if back else store.latest(names))
        since = (start / 1e6, end / 1e6) if back else (-math.inf, math.inf)
        entries = _entries(_latest(store.events, since), _latest(store.audits, since), since)
        if not readings:
            return History(entries=entries)
        last_s = max(r.time_s for r in readings.values())
        first_s = max(last_s - span_s, start / 1e6) if back else last_s - span_s
        return History(
            readings,
            {tag: _series(store.plot_values(tag, first_s, last_s, _POINTS), since[0]) for tag in tags},
            _past_targets(self._spec, store.audits(limit=500), first_s, last_s, back),
            entries,
        )


def _latest(query: Callable[..., pl.DataFrame], since: tuple[float, float]) -> pl.DataFrame:
    """The last rows: those of the present segment, and then those with newer times, from before the clock was set back."""
    start_s, end_s = since
    if math.isinf(start_s):
        return query(limit=_ENTRIES)
    present = query(start_s=start_s, end_s=end_s, limit=_ENTRIES)
    return pl.concat([present, query(start_s=end_s, limit=_ENTRIES), query(end_s=start_s, limit=_ENTRIES)])


def _readings(latest: pl.DataFrame) -> dict[str, Reading]:
    return {
        row["tag"]: Reading(
            math.nan if row["value"] is None else row["value"], Quality(row["quality"]), row["ts"] / 1e6
        )
        for row in latest.iter_rows(named=True)
    }


def _series(frame: pl.DataFrame, after_s: float) -> Series:
    frame = frame.filter(pl.col("ts") > after_s * 1e6)
    return Series(tuple((frame["ts"] / 1e6).to_list()), tuple(frame["value"].to_list()))


def _past_targets(spec: PlantSpec, audits: pl.DataFrame, start_s: float, end_s: float, back: bool) -> dict[str, Series]:
    """Each target over the stretch as steps, from the accepted `SetTarget` actions; the plant file's value before them.

    `back`: the plant's clock was set back at its start, so what seems to come after its end was before.
    """
    changes = audits.filter((pl.col("action") == _SET_TARGET) & pl.col("accepted")).sort("ts")
    out = {}
    for target in spec.targets:
        rows = changes.filter(pl.col("target") == target.tag).select("ts", pl.col("new").cast(pl.Float64, strict=False))
        steps = [(ts / 1e6, v) for ts, v in rows.drop_nulls().iter_rows()]
        before = [v for t, v in steps if t <= start_s] + [v for t, v in steps if back and t > end_s]
        inside = [(t, v) for t, v in steps if start_s < t <= end_s]
        path = [(start_s, before[-1] if before else target.value), *inside]
        out[target.tag] = Series(tuple(t for t, _ in path), tuple(v for _, v in path))
    return out


def _entries(events: pl.DataFrame, audits: pl.DataFrame, since: tuple[float, float]) -> tuple[Entry, ...]:
    """Events and operator actions as one list, newest first; those `since` (plant time, s) are newer than any other."""
    found = [
        Entry(row["ts"] / 1e6, row["kind"], row["severity"], row["message"]) for row in events.iter_rows(named=True)
    ]
    for row in audits.iter_rows(named=True):
        change = " → ".join(part for part in (row["old"], row["new"]) if part)
        target = "" if row["target"] == "controller" else row["target"]
        text = " ".join(part for part in (row["action"], target, change) if part)
        outcome = "" if row["accepted"] else f": refused, {row['reason']}" if row["reason"] else ": refused"
        reason = f" ({row['reason']})" if row["accepted"] and row["reason"] else ""
        found.append(Entry(row["ts"] / 1e6, "operator", "info", f"{text}{outcome}{reason}", row["who"]))
    return tuple(sorted(found, key=lambda e: (not since[0] <= e.time_s < since[1], -e.time_s))[:_ENTRIES])
