"""`Historian`: the time-series store of one plant. SQLite in WAL mode unless a SQLAlchemy URL says otherwise."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from numpy.typing import NDArray
from sqlalchemy import Engine, create_engine, event, insert, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from historian import schema
from historian.queries import Queries
from historian.writer import BufferedWriter
from plant.errors import HistorianError
from plant.link import Quality, Value
from plant.spec import PlantSpec

Array = NDArray[np.float64]
_MIGRATIONS = Path(__file__).parent / "migrations"


def microseconds(time_s: float) -> int:
    """Plant time in seconds -> int64 microseconds."""
    return round(time_s * 1e6)


class Historian(Queries):
    """Write and query one plant's history. A context manager.

    **Arguments:** `location` a file (its folder is created) or a SQLAlchemy URL; `plant` its name; `read_only` opens
    for queries alone. Opening brings the schema up to date. Writes never block and never raise: see `BufferedWriter`.

    Raises `HistorianError` when the store cannot be opened: not a database, from a newer version, not writable.
    """

    def __init__(
        self, location: str | Path, plant: str, *, read_only: bool = False, max_pending: int = 500_000
    ) -> None:
        self.plant, self.location, self.read_only = plant, str(location), read_only
        self.path, url = _locate(location)
        if self.path and read_only and not self.path.exists():
            raise HistorianError(
                "there is no historian yet", str(self.path), "Start `homeostat record` or `homeostat demo` first."
            )
        if self.path and not read_only:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise HistorianError(f"the folder cannot be made: {e}", str(self.path.parent), "Choose another.") from e
        engine = _engine(url, read_only)
        try:
            if not read_only:
                _migrate(engine, self.location)
            super().__init__(engine, plant)
        except SQLAlchemyError as e:
            engine.dispose()
            raise HistorianError(
                f"it cannot be opened: {str(e.__cause__ or e).splitlines()[0]}",
                self.location,
                "Check that the file is a Homeostat historian, is writable, and that the disk is not full.",
            ) from e
        spool = self.path.with_suffix(".spool.jsonl") if self.path else None
        self._writer = None if read_only else BufferedWriter(engine, spool, max_pending=max_pending)

    def __enter__(self) -> Historian:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits (to the spool if need be) and let go of the file. Safe to call twice."""
        if self._writer:
            self._writer.close(timeout_s)
            self._writer = None
        self.engine.dispose()

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
        """Store one value at its source time. A bad or non-finite value is stored as a gap with its quality."""
        self.samples({tag: value})

    def samples(self, values: Mapping[str, Value]) -> None:
        """Store one value of each of several tags. A value already there at that time is replaced."""
        rows = []
        for tag, v in values.items():
            good = v.quality is not Quality.BAD and np.isfinite(v.value)
            rows.append(
                {
                    "tag_id": self.tag_id(tag),
                    "ts": microseconds(v.time_s),
                    "value": float(v.value) if good else None,
                    "quality": int(v.quality if good else Quality.BAD),
                }
            )
        self._put("sample", rows)

    def sample_block(self, values: Mapping[str, Array], times_s: Array) -> None:
        """Store many samples at once: tag -> (n,) at `times_s` (n,). NaN is stored as a gap."""
        ts = [microseconds(t) for t in times_s]
        for tag, column in values.items():
            i = self.tag_id(tag)
            good = np.isfinite(column)
            self._put(
                "sample",
                [
                    {"tag_id": i, "ts": t, "value": v if g else None, "quality": 0 if g else int(Quality.BAD)}
                    for t, v, g in zip(ts, column.tolist(), good.tolist(), strict=True)
                ],
            )

    def event(
        self, time_s: float, kind: str, message: str, *, severity: str = "info", source: str = "", key: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Store an event: an alarm raised, cleared or acknowledged, a mode change, a lost link."""
        self._put("event", [{
            "uid": uuid.uuid4().hex, "plant": self.plant, "ts": microseconds(time_s), "kind": kind, "severity": severity,
            "source": source, "key": key, "message": message, "data": json.dumps(dict(data or {})),
        }])  # fmt: skip

    def audit(
        self, time_s: float, who: str, action: str, target: str = "", old: object = "", new: object = "",
        accepted: bool = True, reason: str = "",
    ) -> None:  # fmt: skip
        """Store what a person asked for, and whether it was accepted."""
        self._put("audit", [{
            "uid": uuid.uuid4().hex, "plant": self.plant, "ts": microseconds(time_s), "who": who, "action": action,
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
            "plant": self.plant, "ts": ts, "mode": mode, "status": status, "solve_ms": float(solve_ms),
            "violation": _finite(violation), "surprise": _finite(surprise), "data": json.dumps(dict(data or {})),
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
        if rows:
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
        with self._begin() as c:
            c.execute(insert(schema.run), rows)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything handed over is in the database; False when `timeout_s` ran out first."""
        return self._writer.flush(timeout_s) if self._writer else True

    def status(self) -> dict[str, Any]:
        """Size and health: file_bytes, newest_s, pending rows, spooled bytes, last_error ('' when well)."""
        size = None
        if self.path:
            files = [self.path, self.path.with_name(self.path.name + "-wal")]
            size = sum(p.stat().st_size for p in files if p.exists())
        newest = self.newest()
        return {
            "location": self.location,
            "file_bytes": size,
            "newest_s": newest,
            "pending": self._writer.pending if self._writer else 0,
            "spooled_bytes": self._writer.spooled if self._writer else 0,
            "last_error": self._writer.last_error if self._writer else "",
        }

    def _put(self, table: str, rows: list[dict[str, Any]]) -> None:
        if self._writer is None:
            raise HistorianError("it was opened read-only, or is closed", self.location, "Open it for writing.")
        self._writer.put(table, rows)

    def _begin(self):
        if self.read_only:
            raise HistorianError("it was opened read-only", self.location, "Open it for writing.")
        return self.engine.begin()


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _locate(location: str | Path) -> tuple[Path | None, URL]:
    if "://" not in str(location):
        path = Path(location)
        return path, URL.create("sqlite", database=str(path))
    try:
        url = make_url(str(location))
    except ArgumentError as e:
        raise HistorianError(f"not a database URL: {e}", str(location), "Give a file or a SQLAlchemy URL.") from e
    file = url.database if url.get_backend_name() == "sqlite" else None
    return (Path(file) if file else None), url


def _engine(url: URL, read_only: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    engine = create_engine(url, connect_args={"timeout": 5.0, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _migrate(engine: Engine, location: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        now = MigrationContext.configure(connection).get_current_revision()
        if now == script.get_current_head():
            return
        if now is not None and now not in {r.revision for r in script.walk_revisions()}:
            raise HistorianError(
                f"its schema ({now}) is newer than this Homeostat knows", location, "Upgrade Homeostat."
            )
        if engine.dialect.name == "sqlite":
            connection.execute(text("PRAGMA foreign_keys = OFF"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
