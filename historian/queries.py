"""Queries of a historian, answered as polars frames. Times go in as plant seconds and come out as microseconds (`ts`).

A *usable* value is there and not BAD; UNCERTAIN is usable. The number that came with a BAD one is kept for
who asks for `readings`; everywhere else it is null. A query for an unknown tag is a `HistorianError`, and so is whatever the
database refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Executable, case, func, select

from historian import schema
from historian.database import explained
from plant.errors import HistorianError
from plant.link import Quality

_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 and 9999, microseconds
_OPEN = 253_402_300_000_000_000  # the end of a segment that has none: later than any sample, and exact in seconds
_SAMPLE = {"ts": pl.Int64, "value": pl.Float64, "quality": pl.Int64}
_VALUE = case((schema.sample.c.quality != int(Quality.BAD), schema.sample.c.value)).label("value")


def microseconds(time_s: float) -> int:
    """Plant time in seconds -> int64 microseconds. Raises `HistorianError` for what is no time."""
    if not (np.isfinite(time_s) and _EARLIEST <= time_s * 1e6 <= _LATEST):
        raise HistorianError(f"{time_s} is not a plant time", "", "Give seconds since the Unix epoch.")
    return round(time_s * 1e6)


class Queries:
    """Reads one plant's history through `engine`. `location` names the database in errors."""

    def __init__(self, engine: Engine, plant: str, location: str) -> None:
        self.engine, self.plant, self.location = engine, plant, location
        self._tags: dict[str, int] = {}
        self.refresh_tags()

    def refresh_tags(self) -> None:
        """Read the tag table again."""
        with self._reading() as c:
            t = schema.tag.c
            rows = c.execute(select(t.name, t.id).where(t.plant == self.plant).order_by(t.id))
            self._tags = {name: i for name, i in rows}

    def tag_id(self, tag: str) -> int:
        """The key of a tag; `HistorianError` for one that was never registered."""
        if tag not in self._tags:
            self.refresh_tags()  # another process may have registered it
        if tag not in self._tags:
            known = ", ".join(self._tags) or "none"
            raise HistorianError(f"no tag '{tag}'", f"historian of {self.plant}", f"It holds: {known}.")
        return self._tags[tag]

    @property
    def tags(self) -> list[str]:
        """Every tag that is known."""
        return list(self._tags)

    @property
    def units(self) -> dict[str, str]:
        """Tag -> the unit its values are stored in."""
        with self._reading() as c:
            t = schema.tag.c
            return {name: unit for name, unit in c.execute(select(t.name, t.unit).where(t.plant == self.plant))}

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with explained(self.location), self.engine.connect() as connection:
            yield connection

    def _frame(self, query: Executable, types: dict[str, Any]) -> pl.DataFrame:
        with self._reading() as c:
            rows = c.execute(query).fetchall()
        return pl.DataFrame([tuple(r) for r in rows], schema=types, orient="row")

    def _held(self, tag: str, start_s: float, end_s: float, *, usable: bool) -> pl.DataFrame:
        """Samples in [start, end] preceded by the last one before: what was in force all along. ts, value, quality.

        `usable`: only usable samples."""
        s = schema.sample.c
        begin, end = microseconds(start_s), microseconds(end_s)
        query = select(s.ts, _VALUE, s.quality).where(s.tag_id == self.tag_id(tag))
        if usable:
            query = query.where(s.value.is_not(None), s.quality != int(Quality.BAD))
        with self._reading() as c:
            before = c.execute(query.where(s.ts < begin).order_by(s.ts.desc()).limit(1)).fetchall()
            within = c.execute(query.where(s.ts >= begin, s.ts <= end).order_by(s.ts)).fetchall()
        return pl.DataFrame([tuple(r) for r in (*before, *within)], schema=_SAMPLE, orient="row")

    def history(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        """Raw samples in [start, end]: tag, ts, value (null where bad), quality; tags in the order asked, then time."""
        return self.readings(tags, start_s, end_s).drop("read")

    def readings(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        """As `history`, and `read`: the number that was read, bad or not; null where it was none."""
        s, types = schema.sample.c, {**_SAMPLE, "read": pl.Float64}
        frames = [
            self._frame(
                select(s.ts, _VALUE, s.quality, s.value.label("read"))
                .where(s.tag_id == self.tag_id(tag), s.ts >= microseconds(start_s), s.ts <= microseconds(end_s))
                .order_by(s.ts),
                types,
            ).select(pl.lit(tag, pl.String).alias("tag"), pl.all())
            for tag in dict.fromkeys(tags)
        ]
        return pl.concat(frames) if frames else pl.DataFrame(schema={"tag": pl.String, **types})

    def before(self, tags: Sequence[str], start_s: float) -> pl.DataFrame:
        """The last usable sample of each tag before `start_s`: tag, ts, value, quality. Tags without one are left out."""
        s = schema.sample.c
        usable = (s.value.is_not(None), s.quality != int(Quality.BAD), s.ts < microseconds(start_s))
        rows = []
        with self._reading() as c:
            for tag in dict.fromkeys(tags):
                query = select(s.ts, _VALUE, s.quality).where(s.tag_id == self.tag_id(tag), *usable)
                if row := c.execute(query.order_by(s.ts.desc()).limit(1)).first():
                    rows.append((tag, *row))
        return pl.DataFrame(rows, schema={"tag": pl.String, **_SAMPLE}, orient="row")

    def grid(
        self, tags: Sequence[str], start_s: float, end_s: float, step_s: float, max_age_s: float | None = None
    ) -> pl.DataFrame:
        """One row each `step_s` from `start_s` to `end_s`: ts and a column per tag, its last usable value at or before
        the instant. Null where there is none, or where it is older than `max_age_s`."""
        if not step_s > 0:
            raise HistorianError(f"a grid cannot have a step of {step_s} s", f"historian of {self.plant}", "Give > 0.")
        steps = max(int((end_s - start_s) / step_s + 1e-6) + 1, 0)
        ts = microseconds(start_s) + np.round(np.arange(steps) * step_s * 1e6).astype(np.int64)
        oldest = None if max_age_s is None else round(max_age_s * 1e6)
        columns: dict[str, Any] = {"ts": ts}
        for tag in dict.fromkeys(tags):
            found = self._held(tag, start_s, end_s, usable=True)
            columns[tag] = _last_at(found["ts"].to_numpy(), found["value"].to_numpy(), ts, oldest)
        return pl.DataFrame(columns, schema_overrides={"ts": pl.Int64}).with_columns(pl.exclude("ts").fill_nan(None))

    def segment(self) -> tuple[int, int, bool]:
        """The stretch of plant time that is being recorded, or was last: [start, end) in microseconds, and whether it began
        with the plant's clock set back. What was stored last lies in it, which need not be what has the newest time.

        It begins with the run opened last (one that is still open, if any) and ends where an older run begins that lies
        ahead of it.
        """
        runs = self.runs().sort("id")
        current = runs.filter(pl.col("end_ts").is_null()).tail(1)
        current = current if len(current) else runs.tail(1)
        if not len(current):
            return _EARLIEST, _OPEN, False
        start = int(current["start_ts"][0])
        older = runs.filter(pl.col("id") < current["id"][0])
        ahead = older.filter(pl.col("start_ts") > start)["start_ts"].min()
        back = bool((older["end_ts"].fill_null(_EARLIEST) > start).any()) or ahead is not None
        return start, _OPEN if ahead is None else int(ahead), back  # type: ignore[arg-type]

    def latest(self, tags: Sequence[str] | None = None, start_ts: int = _EARLIEST, end_ts: int = _OPEN) -> pl.DataFrame:
        """The newest sample of each tag (default: every tag) in [start, end) microseconds: tag, ts, value, quality. Tags
        without one are left out."""
        s, rows = schema.sample.c, []
        if tags is None:
            self.refresh_tags()  # another process may have registered some
        with self._reading() as c:
            for tag in self.tags if tags is None else tags:
                query = select(s.ts, _VALUE, s.quality).where(
                    s.tag_id == self.tag_id(tag), s.ts >= start_ts, s.ts < end_ts
                )
                if row := c.execute(query.order_by(s.ts.desc()).limit(1)).first():
                    rows.append((tag, *row))
        return pl.DataFrame(rows, schema={"tag": pl.String, **_SAMPLE}, orient="row")

    def newest(self, before_s: float | None = None) -> float | None:
        """Plant time of the newest sample of any tag (before `before_s`), s; None when there is none."""
        s = schema.sample.c
        limit = _LATEST if before_s is None else microseconds(before_s)
        self.refresh_tags()  # another process may have registered some
        with self._reading() as c:
            newest = [
                c.execute(select(func.max(s.ts)).where(s.tag_id == i, s.ts < limit)).scalar()
                for i in self._tags.values()
            ]
        found = [ts for ts in newest if ts is not None]
        return max(found) / 1e6 if found else None

    def extent(self) -> tuple[int, int, int]:
        """First and last time of any sample (microseconds) and how many samples there are; 0, 0, 0 when none."""
        s = schema.sample.c
        query = select(func.min(s.ts), func.max(s.ts), func.count()).where(s.tag_id.in_(list(self._tags.values())))
        with self._reading() as c:
            first, last, count = c.execute(query).one()
        return (int(first), int(last), int(count)) if count else (0, 0, 0)

    def count(self, tag: str, start_s: float = 0.0, end_s: float = 9e9) -> int:
        """How many samples a tag has in [start, end]."""
        s = schema.sample.c
        query = select(func.count()).where(
            s.tag_id == self.tag_id(tag), s.ts >= microseconds(start_s), s.ts <= microseconds(end_s)
        )
        with self._reading() as c:
            return int(c.execute(query).scalar() or 0)

    def plot_values(self, tag: str, start_s: float, end_s: float, points: int) -> pl.DataFrame:
        """Rows (ts, value) that draw like all of them: about `points` at most, with every extreme and every gap kept.

        Each of `points / 4` buckets keeps its first, lowest, highest and last value; a null stands where values are bad.
        The first row is the value in force at `start_s`.
        """
        begin = microseconds(start_s)
        frame = (
            self._held(tag, start_s, end_s, usable=False)
            .with_columns(pl.col("ts").clip(lower_bound=begin))
            .unique("ts", keep="last", maintain_order=True)
        )
        # A stretch of bad values is one gap: its first row draws it.
        gap = pl.col("value").is_null()
        frame = frame.filter(~(gap & gap.shift(1, fill_value=False)))
        if len(frame) > points:
            width = max((microseconds(end_s) - begin) * 4 // max(points, 4), 1)
            value, row = pl.col("value"), pl.int_range(pl.len())
            kept = (
                (row == 0)
                | (row == pl.len() - 1)
                | (row == value.arg_min())
                | (row == value.arg_max())
                | (value.is_null() & (value.is_null().cum_sum() == 1))
            )
            frame = frame.filter(kept.fill_null(False).over((pl.col("ts") - begin) // width))
        return frame.select("ts", "value")

    def average(self, tag: str, start_s: float, end_s: float) -> float | None:
        """Time-weighted average over [start, end]: each value holds until the next sample, and stretches without a usable
        value do not count. None when nothing does."""
        begin, end = microseconds(start_s), microseconds(end_s)
        rows = self._held(tag, start_s, end_s, usable=False)
        left = np.clip(rows["ts"].to_numpy(), begin, end)
        value = rows["value"].fill_null(np.nan).to_numpy()
        weight = np.where(np.isfinite(value), np.append(left[1:], end)[: len(left)] - left, 0)
        return float(np.nansum(value * weight) / weight.sum()) if weight.sum() > 0 else None

    def runs(self, kinds: Sequence[str] | None = None) -> pl.DataFrame:
        """Runs, oldest first: id, kind, start_ts, end_ts (null while open), seed, note."""
        r = schema.run.c
        query = select(r.id, r.kind, r.start_ts, r.end_ts, r.seed, r.note).where(r.plant == self.plant)
        if kinds is not None:
            query = query.where(r.kind.in_(list(kinds)))
        types = {
            "id": pl.Int64, "kind": pl.String, "start_ts": pl.Int64, "end_ts": pl.Int64, "seed": pl.Int64,
            "note": pl.String,
        }  # fmt: skip
        return self._frame(query.order_by(r.start_ts, r.id), types)

    def events(
        self,
        start_s: float | None = None,
        limit: int = 200,
        kinds: Sequence[str] | None = None,
        end_s: float | None = None,
    ) -> pl.DataFrame:
        """Newest events in [start, end) first: ts, kind, severity, source, key, message, data (JSON)."""
        e = schema.event.c
        query = select(e.ts, e.kind, e.severity, e.source, e.key, e.message, e.data).where(e.plant == self.plant)
        if start_s is not None:
            query = query.where(e.ts >= microseconds(start_s))
        if end_s is not None:
            query = query.where(e.ts < microseconds(end_s))
        if kinds is not None:
            query = query.where(e.kind.in_(list(kinds)))
        columns = ("kind", "severity", "source", "key", "message", "data")
        query = query.order_by(e.ts.desc(), e.uid.desc()).limit(limit)
        return self._frame(query, {"ts": pl.Int64, **dict.fromkeys(columns, pl.String)})

    def audits(self, start_s: float | None = None, limit: int = 200, end_s: float | None = None) -> pl.DataFrame:
        """Newest operator actions in [start, end) first: ts, who, action, target, old, new, accepted, reason."""
        a = schema.audit.c
        query = select(a.ts, a.who, a.action, a.target, a.old, a.new, a.accepted, a.reason).where(a.plant == self.plant)
        if start_s is not None:
            query = query.where(a.ts >= microseconds(start_s))
        if end_s is not None:
            query = query.where(a.ts < microseconds(end_s))
        types = {"ts": pl.Int64, **dict.fromkeys(("who", "action", "target", "old", "new"), pl.String)}
        types |= {"accepted": pl.Boolean, "reason": pl.String}
        return self._frame(query.order_by(a.ts.desc(), a.uid.desc()).limit(limit), types)

    def decisions(self, start_s: float | None = None, limit: int = 200) -> pl.DataFrame:
        """Newest decisions first: ts, mode, status, solve_ms, violation, surprise, data (JSON)."""
        d = schema.decision.c
        query = select(d.ts, d.mode, d.status, d.solve_ms, d.violation, d.surprise, d.data).where(d.plant == self.plant)
        if start_s is not None:
            query = query.where(d.ts >= microseconds(start_s))
        types = {
            "ts": pl.Int64, "mode": pl.String, "status": pl.String, "solve_ms": pl.Float64, "violation": pl.Float64,
            "surprise": pl.Float64, "data": pl.String,
        }  # fmt: skip
        return self._frame(query.order_by(d.ts.desc()).limit(limit), types)

    def predictions(self, decision_ts: int) -> pl.DataFrame:
        """What the decision at `decision_ts` (microseconds) expected: step, tag, ts, value."""
        p = schema.prediction.c
        query = select(p.step, p.tag, p.ts, p.value).where(p.plant == self.plant, p.decision_ts == decision_ts)
        types = {"step": pl.Int64, "tag": pl.String, "ts": pl.Int64, "value": pl.Float64}
        return self._frame(query.order_by(p.tag, p.step), types)


def _last_at(
    ts: NDArray[np.int64], value: NDArray[np.float64], instants: NDArray[np.int64], oldest: int | None
) -> NDArray[np.float64]:
    """The last value at or before each instant and no older than `oldest`; NaN where there is none."""
    if not len(ts):
        return np.full(len(instants), np.nan)
    index = np.searchsorted(ts, instants, side="right") - 1
    there = index >= 0
    if oldest is not None:
        there &= instants - ts[np.maximum(index, 0)] <= oldest
    return np.where(there, value[np.maximum(index, 0)], np.nan)
