"""`Historian`: the time-series store of one plant. SQLite in WAL mode unless a SQLAlchemy URL says otherwise."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, func, insert, select, update

from historian import schema
from historian.database import check, explained, locate, migrate, open_engine
from historian.queries import Queries, microseconds
from historian.spool import Spool
from historian.writer import BufferedWriter
from plant.errors import HistorianError
from plant.link import Quality, Value
from plant.spec import PlantSpec

Array = NDArray[np.float64]
_CHUNK = 10_000  # rows handed to the writer at once
_COUNTED_BYTES = 64 << 20  # the rows of a file up to this size are counted, those of a bigger one estimated
_BYTES_A_ROW = 36
_WRITER_BUSY_S = 1.0  # the writer tries again anyway, and a close must not wait long


class Historian(Queries):
    """Write and query one plant's history. A context manager.

    **Arguments:** `location` a file (its folder is created) or a SQLAlchemy URL; `plant` its name; `read_only` opens
    for queries alone; `max_pending` rows wait in memory while the database cannot be written, before they go to disk.
    Opening brings the schema up to date.

    Writing samples, events, audits and decisions never waits for the database and loses nothing: see `BufferedWriter`.
    Raises `HistorianError` when the store cannot be opened: not a database, from a newer version, locked, not writable.
    """

    def __init__(
        self, location: str | Path, plant: str, *, read_only: bool = False, max_pending: int = 200_000
    ) -> None:
        self.read_only = read_only
        self.path, url = locate(location)
        place = str(location) if self.path else url.render_as_string()  # a URL without its password
        if self.path and not read_only:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise HistorianError(f"the folder cannot be made: {e}", str(self.path.parent), "Choose another.") from e
        elif self.path and not self.path.exists():
            raise HistorianError(
                "there is no historian yet", str(self.path), "Start `homeostat record` or `homeostat demo` first."
            )
        engine = open_engine(url, write=False)
        self._writing = None if read_only else open_engine(url, write=True)
        self._writer: BufferedWriter | None = None
        try:
            if self._writing is None:
                check(engine, place)
            else:
                migrate(engine, self._writing, place)
            super().__init__(engine, plant, place)
        except HistorianError:
            engine.dispose()
            if self._writing is not None:
                self._writing.dispose()
            raise
        if not read_only:
            self._writer = BufferedWriter(
                open_engine(url, write=True, busy_s=_WRITER_BUSY_S),
                Spool(self.path) if self.path else None,
                plant,
                lambda: {i: name for name, i in self._tags.items()},
                max_pending=max_pending,
            )
        # Events of one moment keep their order: the writer's own number first, then a count.
        me = uuid.uuid4().hex[:16]
        self._uids = (f"{me}{i:016x}" for i in itertools.count())

    def __enter__(self) -> Historian:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits (to the spool if need be) and let go of the file. Safe to call twice."""
        if self._writer:
            self._writer.close(timeout_s)
            self._writer = None
        self.engine.dispose()  # before a connection that may write: the last one folds the log into the file
        if self._writing:
            self._writing.dispose()
            self._writing = None

    def register(self, spec: PlantSpec) -> None:
        """Make the spec's tags known. A tag that changed its unit while it has samples is a `HistorianError`."""
        with self._begin() as c:
            known = {r.name: r for r in c.execute(select(schema.tag).where(schema.tag.c.plant == self.plant))}
            for t in spec.tags:
                row = {
                    "role": t.role.value, "description": t.description, "unit": t.unit, "lo": t.range[0], "hi": t.range[1]
                }  # fmt: skip
                old = known.get(t.name)
                if old is None:
                    c.execute(insert(schema.tag).values(plant=self.plant, name=t.name, **row))
                    continue
                used = c.execute(select(schema.sample.c.ts).where(schema.sample.c.tag_id == old.id).limit(1)).first()
                if old.unit != t.unit and used:
                    raise HistorianError(
                        f"{t.name} is stored in {old.unit}, and the plant file now says {t.unit}",
                        self.location,
                        "Restore the unit, rename the tag, or start another historian: units are never mixed.",
                    )
                c.execute(update(schema.tag).where(schema.tag.c.id == old.id).values(**row))
        self.refresh_tags()

    def sample(self, tag: str, value: Value) -> None:
        """Store one value at its source time. A bad one is a gap that keeps the number it came with; what is no finite number
        is bad."""
        self.samples({tag: value})

    def samples(self, values: Mapping[str, Value]) -> None:
        """Store one value of each of several tags. A value already there at that time is replaced."""
        rows = []
        for tag, v in values.items():
            finite = bool(np.isfinite(v.value))
            rows.append(
                {
                    "tag_id": self.tag_id(tag),
                    "ts": microseconds(v.time_s),
                    "value": float(v.value) if finite else None,
                    "quality": int(v.quality if finite else Quality.BAD),
                }
            )
        self._put("sample", rows)

    def sample_block(self, values: Mapping[str, Array], times_s: Array, quality: Quality = Quality.GOOD) -> None:
        """Store many samples at once: tag -> (n,) at `times_s` (n,), plant seconds. NaN is stored as a gap.

        Held up only when the database works and is slower than the caller."""
        times = np.asarray(times_s, dtype=float)
        if len(times) == 0:
            return
        for extreme in (times.min(), times.max()):
            microseconds(float(extreme))  # refuses what is no time
        ts = np.round(times * 1e6).astype(np.int64).tolist()
        for tag, column in values.items():
            i = self.tag_id(tag)
            column = np.asarray(column, dtype=float)
            if column.shape != times.shape:
                raise HistorianError(
                    f"{tag} has {column.shape} values at {times.shape} times", self.location, "Give one a time."
                )
            good = np.isfinite(column)
            rows = [
                {"tag_id": i, "ts": t, "value": v if g else None, "quality": int(quality) if g else int(Quality.BAD)}
                for t, v, g in zip(ts, column.tolist(), good.tolist(), strict=True)
            ]
            for first in range(0, len(rows), _CHUNK):
                self._put("sample", rows[first : first + _CHUNK])
                if self._writer:
                    self._writer.wait_for_room()

    def event(
        self, time_s: float, kind: str, message: str, *, severity: str = "info", source: str = "", key: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Store an event: an alarm raised, cleared or acknowledged, a mode change, a lost link."""
        self._put("event", [{
            "uid": next(self._uids), "plant": self.plant, "ts": microseconds(time_s), "kind": kind, "severity": severity,
            "source": source, "key": key, "message": message, "data": _json(data),
        }])  # fmt: skip

    def audit(
        self, time_s: float, who: str, action: str, target: str = "", old: object = "", new: object = "",
        accepted: bool = True, reason: str = "",
    ) -> None:  # fmt: skip
        """Store what a person asked for, and whether it was accepted."""
        self._put("audit", [{
            "uid": next(self._uids), "plant": self.plant, "ts": microseconds(time_s), "who": who, "action": action,
            "target": target, "old": str(old), "new": str(new), "accepted": bool(accepted), "reason": reason,
        }])  # fmt: skip

    def decision(
        self, time_s: float, mode: str, status: str, solve_ms: float, violation: float, surprise: float,
        data: Mapping[str, Any] | None = None, predicted: Mapping[str, Sequence[float] | Array] | None = None,
        step_times: Sequence[float] | Array = (),
    ) -> None:  # fmt: skip
        """Store a controller's decision at a sample, with what it expects (tag -> value at each of `step_times`, s)."""
        ts = microseconds(time_s)
        self._put("decision", [{
            "plant": self.plant, "ts": ts, "mode": mode, "status": status, "solve_ms": _finite(solve_ms),
            "violation": _finite(violation), "surprise": _finite(surprise), "data": _json(data),
        }])  # fmt: skip
        rows = [
            {
                "plant": self.plant,
                "decision_ts": ts,
                "step": k + 1,
                "tag": tag,
                "ts": microseconds(t),
                "value": _finite(v),
            }
            for tag, column in (predicted or {}).items()
            for k, (t, v) in enumerate(zip(step_times, column, strict=True))
        ]
        self._put("prediction", rows)

    def open_run(self, kind: str, start_s: float, seed: int | None = None, note: str = "") -> int:
        """Begin a run (recorded, excitation, incident or control): the unit that training data is split by."""
        row = {"plant": self.plant, "kind": kind, "start_ts": microseconds(start_s), "seed": seed, "note": note}
        with self._begin() as c:
            key = c.execute(insert(schema.run).values(**row)).inserted_primary_key
        return int(key[0]) if key else 0

    def close_run(self, run_id: int, end_s: float) -> None:
        """End a run."""
        with self._begin() as c:
            c.execute(update(schema.run).where(schema.run.c.id == run_id).values(end_ts=microseconds(end_s)))

    def add_runs(
        self, kind: str, spans_s: Sequence[tuple[float, float]], seed: int | None = None, note: str = ""
    ) -> None:
        """Store many finished runs at once: (start, end) in plant seconds."""
        rows = [
            {"plant": self.plant, "kind": kind, "start_ts": microseconds(a), "end_ts": microseconds(b), "seed": seed,
             "note": note}
            for a, b in spans_s
        ]  # fmt: skip
        if rows:
            with self._begin() as c:
                c.execute(insert(schema.run), rows)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything handed over is in the database; False when `timeout_s` ran out first."""
        return self._writer.flush(timeout_s) if self._writer else True

    def end_abandoned_runs(self, kind: str) -> None:
        """End runs of a kind that nobody ended (their recorder was killed) at their last sample."""
        runs = self.runs([kind]).with_columns(following=pl.col("start_ts").shift(-1))
        for run in runs.filter(pl.col("end_ts").is_null()).iter_rows(named=True):
            newest = self.newest(None if run["following"] is None else run["following"] / 1e6)
            self.close_run(run["id"], max(newest or 0.0, run["start_ts"] / 1e6))

    def prune_predictions(self, before_s: float) -> int:
        """Forget predictions made before a plant time; how many rows that were. Decisions and samples stay."""
        p = schema.prediction.c
        with self._begin() as c:
            query = delete(schema.prediction).where(p.plant == self.plant, p.decision_ts < microseconds(before_s))
            return c.execute(query).rowcount

    def status(self) -> dict[str, Any]:
        """Size and health, never an error.

        file_bytes; sample_rows of all plants in the file, exact if sample_rows_exact, else estimated from its size;
        newest_s (plant time, None: no samples); pending rows in memory; spooled_rows and spooled_bytes on disk, of every
        process; last_error ('' while rows are stored).
        """
        writer, spool = self._writer, Spool(self.path) if self.path else None
        facts: dict[str, Any] = {
            "location": self.location,
            "file_bytes": self._file_bytes(),
            "sample_rows": None,
            "sample_rows_exact": False,
            "newest_s": None,
            "pending": writer.pending if writer else 0,
            "spooled_rows": spool.rows if spool else 0,
            "spooled_bytes": spool.bytes if spool else 0,
            "last_error": writer.last_error if writer else "",
        }
        try:
            facts["newest_s"] = self.newest()
            facts["sample_rows"], facts["sample_rows_exact"] = self._sample_rows(facts["file_bytes"])
        except HistorianError as e:
            facts["last_error"] = facts["last_error"] or str(e)
        return facts

    def _file_bytes(self) -> int | None:
        if self.path is None:
            return None
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        return sum(p.stat().st_size for p in files if p.exists())

    def _sample_rows(self, file_bytes: int | None) -> tuple[int, bool]:
        if file_bytes is not None and file_bytes > _COUNTED_BYTES:
            return file_bytes // _BYTES_A_ROW, False
        with self._reading() as c:
            return int(c.execute(select(func.count()).select_from(schema.sample)).scalar() or 0), True

    def _put(self, table: str, rows: list[dict[str, Any]]) -> None:
        if self._writer is None:
            raise HistorianError("it was opened read-only, or is closed", self.location, "Open it for writing.")
        if rows:
            self._writer.put(table, rows)

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        if self._writing is None:
            raise HistorianError("it was opened read-only, or is closed", self.location, "Open it for writing.")
        # SQLite waits for a lock for a limited time only: for our own writer's transaction we wait as long as it takes.
        turns = self._writer.turns if self._writer else nullcontext()
        with turns, explained(self.location), self._writing.begin() as connection:
            yield connection


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _json(data: Mapping[str, Any] | None) -> str:
    """JSON as every reader takes it: NaN is null, and arrays are lists."""
    return json.dumps(_plain(dict(data or {})), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return _finite(value)
    return value if value is None or isinstance(value, str | int) else str(value)
