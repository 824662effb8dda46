"""The buffered writer: callers never wait for the database, and nothing they hand over is lost.

Rows wait in memory, a thread of its own writes them in batches. While the database is locked or failing they keep
waiting; past `max_pending` rows they go to a spool file beside the database, which is replayed in order, before
anything newer, as soon as the database answers (also by the next process that opens it). Every table has a natural key,
so replaying a row twice changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from historian import schema

log = logging.getLogger(__name__)
Row = dict[str, Any]
_TABLES = {t.name: t for t in (schema.sample, schema.event, schema.audit, schema.decision, schema.prediction)}
_BATCH = 20_000


def upsert(engine: Engine, table: Table) -> Any:
    """INSERT that replaces a row with the same key."""
    insert = (postgresql if engine.dialect.name == "postgresql" else sqlite).insert(table)
    keys = [c.name for c in table.primary_key]
    rest = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=rest)


class BufferedWriter:
    """**Arguments:** `engine`; `spool` the file to spill to (None: never spill); `period_s` between writes; `max_pending`
    rows held in memory before spilling."""

    def __init__(self, engine: Engine, spool: Path | None, period_s: float = 0.5, max_pending: int = 500_000) -> None:
        self._engine, self._spool, self._period, self._max = engine, spool, period_s, max_pending
        self._queue: deque[tuple[str, list[Row]]] = deque()
        self._pending = 0
        self._writing = 0
        self._lock = threading.Lock()
        self._wake, self._stop, self._idle = threading.Event(), threading.Event(), threading.Event()
        self._idle.set()
        self.last_error = ""
        self._statements = {name: upsert(engine, table) for name, table in _TABLES.items()}
        self._thread = threading.Thread(target=self._work, name="historian-writer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Rows in memory, not yet in the database."""
        return self._pending + self._writing

    @property
    def spooled(self) -> int:
        """Bytes waiting in the spool file."""
        if not self._spool:
            return 0
        return sum(p.stat().st_size for p in (self._spool, self._spool.with_suffix(".replaying")) if p.exists())

    def put(self, table: str, rows: list[Row]) -> None:
        """Hand rows over. Returns at once."""
        with self._lock:
            self._queue.append((table, rows))
            self._pending += len(rows)
            self._idle.clear()
            if self._pending > self._max and self._spool:
                self._spill()
            elif self._pending > _BATCH:
                self._wake.set()

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything handed over so far is in the database; False when `timeout_s` ran out first."""
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left; what cannot be written goes to the spool."""
        self.flush(timeout_s)
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s + 10)
        with self._lock:
            if self._queue and self._spool:
                self._spill()

    def _spill(self) -> None:
        """Move the queue to the spool file. Called with the lock held."""
        assert self._spool is not None
        with self._spool.open("a", encoding="utf-8") as f:
            while self._queue:
                table, rows = self._queue.popleft()
                f.write(json.dumps([table, rows], separators=(",", ":")) + "\n")
            f.flush()
            os.fsync(f.fileno())
        self._pending = 0
        log.warning("the historian cannot be written (%s); rows wait in %s", self.last_error, self._spool)

    def _work(self) -> None:
        backoff = self._period
        while not self._stop.is_set():
            self._wake.wait(backoff)
            self._wake.clear()
            try:
                self._replay()
                self._drain()
                backoff, self.last_error = self._period, ""
            except SQLAlchemyError as e:
                self.last_error = str(e.__cause__ or e).splitlines()[0]
                backoff = min(backoff * 2, 5.0)

    def _replay(self) -> None:
        """Put the spool back, in order, ahead of everything newer."""
        if not self._spool:
            return
        taken = self._spool.with_suffix(".replaying")
        if not taken.exists():  # one left by a process that died replaying comes first, whole
            if not self._spool.exists():
                return
            with self._lock:
                os.replace(self._spool, taken)
        with taken.open(encoding="utf-8") as f:
            for line in f:
                if not line.endswith("\n"):
                    log.warning("the last line of %s was cut short and is skipped", taken)
                    break
                table, rows = json.loads(line)
                self._write([(table, rows)])
        taken.unlink()

    def _drain(self) -> None:
        while True:
            with self._lock:
                batch: list[tuple[str, list[Row]]] = []
                size = 0
                while self._queue and size < _BATCH:
                    batch.append(self._queue.popleft())
                    size += len(batch[-1][1])
                self._pending -= size
                self._writing = size
                if not batch:
                    self._idle.set()
                    return
            try:
                self._write(batch)
            except SQLAlchemyError:
                with self._lock:
                    self._queue.extendleft(reversed(batch))
                    self._pending += size
                raise
            finally:
                self._writing = 0

    def _write(self, batch: list[tuple[str, list[Row]]]) -> None:
        rows: dict[str, list[Row]] = {}
        for table, some in batch:
            rows.setdefault(table, []).extend(some)
        with self._engine.begin() as connection:
            for table, some in rows.items():
                connection.execute(self._statements[table], some)
