"""Queries of a historian, answered as polars frames. Times go in as plant seconds and come out as microseconds (`ts`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import Engine, Select, func, select

from historian import schema
from plant.errors import HistorianError


class Queries:
    """Reads one plant's history through `engine`."""

    def __init__(self, engine: Engine, plant: str) -> None:
        self.engine, self.plant = engine, plant
        self._tags: dict[str, int] = {}
        self.refresh_tags()

    def refresh_tags(self) -> None:
        """Read the tag table again."""
        with self.engine.connect() as c:
            rows = c.execute(select(schema.tag.c.name, schema.tag.c.id).where(schema.tag.c.plant == self.plant))
            self._tags = {name: i for name, i in rows}

    def tag_id(self, tag: str) -> int:
        """The key of a tag; `HistorianError` for one that was never registered."""
        if tag not in self._tags:
            self.refresh_tags()
        if tag not in self._tags:
            known = ", ".join(self._tags) or "none"
            raise HistorianError(f"no tag '{tag}'", f"historian of {self.plant}", f"It holds: {known}.")
        return self._tags[tag]

    @property
    def tags(self) -> list[str]:
        """Every tag that is known."""
        return list(self._tags)

    def _frame(self, query: Select[Any], schema_: dict[str, Any]) -> pl.DataFrame:
        with self.engine.connect() as c:
            return pl.DataFrame(c.execute(query).fetchall(), schema=schema_, orient="row")

    def history(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        """Raw samples in [start, end]: tag, ts, value (null where bad), quality; by tag, then time."""
        names = {self.tag_id(t): t for t in tags}
        s = schema.sample.c
        query = (
            select(s.tag_id, s.ts, s.value, s.quality)
            .where(s.tag_id.in_(names), s.ts >= round(start_s * 1e6), s.ts <= round(end_s * 1e6))
            .order_by(s.tag_id, s.ts)
        )
        frame = self._frame(query, {"tag_id": pl.Int64, "ts": pl.Int64, "value": pl.Float64, "quality": pl.Int64})
        return frame.with_columns(pl.col("tag_id").replace_strict(names, return_dtype=pl.String).alias("tag")).select(
            "tag", "ts", "value", "quality"
        )

    def grid(
        self, tags: Sequence[str], start_s: float, end_s: float, step_s: float, max_age_s: float | None = None
    ) -> pl.DataFrame:
        """One row each `step_s` from `start_s`: ts and a column per tag, its last usable value at or before the instant.

        Null where there is none, where the newest one is bad, or where it is older than `max_age_s`.
        """
        n = max(int((end_s - start_s) / step_s + 1e-6) + 1, 0)
        frame = pl.DataFrame({"ts": (np.round(start_s * 1e6) + np.round(np.arange(n) * step_s * 1e6)).astype(np.int64)})
        lookback = max_age_s if max_age_s is not None else 86_400.0
        raw = self.history(tags, start_s - lookback, end_s)
        for tag in tags:
            values = raw.filter(pl.col("tag") == tag).select("ts", pl.col("value").alias(tag))
            frame = frame.join_asof(
                values.sort("ts"), on="ts", strategy="backward",
                tolerance=None if max_age_s is None else round(max_age_s * 1e6),
            )  # fmt: skip
        return frame

    def latest(self, tags: Sequence[str]) -> pl.DataFrame:
        """The newest sample of each tag: tag, ts, value, quality."""
        s, rows = schema.sample.c, []
        with self.engine.connect() as c:
            for tag in tags:
                query = select(s.ts, s.value, s.quality).where(s.tag_id == self.tag_id(tag))
                if row := c.execute(query.order_by(s.ts.desc()).limit(1)).first():
                    rows.append((tag, *row))
        types = {"tag": pl.String, "ts": pl.Int64, "value": pl.Float64, "quality": pl.Int64}
        return pl.DataFrame(rows, schema=types, orient="row")

    def newest(self) -> float | None:
        """Plant time of the newest sample of any tag, s; None when there is none."""
        s = schema.sample.c
        with self.engine.connect() as c:
            newest = [c.execute(select(func.max(s.ts)).where(s.tag_id == i)).scalar() for i in self._tags.values()]
        found = [ts for ts in newest if ts is not None]
        return max(found) / 1e6 if found else None

    def count(self, tag: str, start_s: float = 0.0, end_s: float = 9e9) -> int:
        """How many samples a tag has in [start, end]."""
        s = schema.sample.c
        query = select(func.count()).where(
            s.tag_id == self.tag_id(tag), s.ts >= round(start_s * 1e6), s.ts <= round(end_s * 1e6)
        )
        with self.engine.connect() as c:
            return int(c.execute(query).scalar() or 0)

    def plot_values(self, tag: str, start_s: float, end_s: float, points: int) -> pl.DataFrame:
        """At most about `points` rows (ts, value) that draw like all of them: each bucket keeps its lowest and highest."""
        frame = self.history([tag], start_s, end_s).select("ts", "value")
        if len(frame) <= points:
            return frame
        width = max(round((end_s - start_s) * 1e6 / (points / 2)), 1)
        bucket = ((pl.col("ts") - round(start_s * 1e6)) // width).alias("bucket")
        low = pl.col("value").arg_min()
        high = pl.col("value").arg_max()
        return (
            frame.group_by(bucket)
            .agg(pl.col("ts").gather(pl.concat_list(low, high).explode().drop_nulls()),
                 pl.col("value").gather(pl.concat_list(low, high).explode().drop_nulls()))
            .explode("ts", "value").select("ts", "value").unique().sort("ts")
        )  # fmt: skip

    def average(self, tag: str, start_s: float, end_s: float) -> float | None:
        """Time-weighted average over [start, end], each value held until the next; bad stretches do not count."""
        rows = self.history([tag], start_s - 86_400.0, end_s)
        ts, value = rows["ts"].to_numpy(), rows["value"].to_numpy()
        begin, stop = start_s * 1e6, end_s * 1e6
        left = np.clip(ts, begin, stop)
        right = np.clip(np.append(ts[1:], stop), begin, stop)
        weight = np.where(np.isfinite(value), right - left, 0.0)
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
        self, start_s: float | None = None, limit: int = 200, kinds: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Newest events first: ts, kind, severity, source, key, message, data (JSON)."""
        e = schema.event.c
        query = select(e.ts, e.kind, e.severity, e.source, e.key, e.message, e.data).where(e.plant == self.plant)
        if start_s is not None:
            query = query.where(e.ts >= round(start_s * 1e6))
        if kinds is not None:
            query = query.where(e.kind.in_(list(kinds)))
        columns = ("kind", "severity", "source", "key", "message", "data")
        return self._frame(
            query.order_by(e.ts.desc()).limit(limit), {"ts": pl.Int64, **dict.fromkeys(columns, pl.String)}
        )

    def audits(self, start_s: float | None = None, limit: int = 200) -> pl.DataFrame:
        """Newest operator actions first: ts, who, action, target, old, new, accepted, reason."""
        a = schema.audit.c
        query = select(a.ts, a.who, a.action, a.target, a.old, a.new, a.accepted, a.reason).where(a.plant == self.plant)
        if start_s is not None:
            query = query.where(a.ts >= round(start_s * 1e6))
        types = {"ts": pl.Int64, **dict.fromkeys(("who", "action", "target", "old", "new"), pl.String)}
        types |= {"accepted": pl.Boolean, "reason": pl.String}
        return self._frame(query.order_by(a.ts.desc()).limit(limit), types)

    def decisions(self, start_s: float | None = None, limit: int = 200) -> pl.DataFrame:
        """Newest decisions first: ts, mode, status, solve_ms, violation, surprise, data (JSON)."""
        d = schema.decision.c
        query = select(d.ts, d.mode, d.status, d.solve_ms, d.violation, d.surprise, d.data).where(d.plant == self.plant)
        if start_s is not None:
            query = query.where(d.ts >= round(start_s * 1e6))
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
