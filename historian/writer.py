"""The buffered writer: callers never wait for the database, and nothing they hand over is lost.

Rows wait in memory, a thread of its own writes them in batches, in order. While the database is locked or failing they
keep waiting; past `max_pending` rows they go to the spool, which is put back, ahead of anything newer, as soon as the
database answers (also by the next process that opens it). Every table has a natural key, so that storing a row twice
changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from historian import schema
from historian.database import reason
from historian.spool import Batch, Row, Segment, Spool

log = logging.getLogger(__name__)
_TABLES = {t.name: t for t in (schema.sample, schema.event, schema.audit, schema.decision, schema.prediction)}
_BATCH = 20_000  # rows a transaction, more or less: a lock is never held for long
_LONGEST_BACKOFF_S = 2.0


def upsert(engine: Engine, table: Table) -> Any:
    """INSERT that replaces a row with the same key."""
    insert = (postgresql if engine.dialect.name == "postgresql" else sqlite).insert(table)
    keys = [c.name for c in table.primary_key]
    rest = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=rest)


class Turns:
    """A lock that threads get in the order in which they asked: who waits gets it before who had it asks again."""

    def __init__(self) -> None:
        self._asking, self._held = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._asking:
            self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


class BufferedWriter:
    """`turns`: held while it writes, so that other writers of this process wait for it, however long it takes.

    **Arguments:** `engine` to write with; `spool` to spill to (None: everything waits in memory); `plant` and `tags`
    (number -> name) identify the rows in the spool; `period_s` between writes; `max_pending` rows held in memory."""

    def __init__(
        self,
        engine: Engine,
        spool: Spool | None,
        plant: str,
        tags: Callable[[], Mapping[int, str]],
        period_s: float = 0.5,
        max_pending: int = 200_000,
    ) -> None:
        self._engine, self._spool, self._plant, self._tags = engine, spool, plant, tags
        self.turns = Turns()
        self._period, self._max = period_s, max_pending
        self._queue: deque[Batch] = deque()  # only the writing thread takes from it
        self._pending = 0
        self._accepted = self._stored = 0  # rows ever handed over, and rows of those in the database, in order
        self._spilled: dict[Path, int] = {}
        self._passed_over: set[Path] = set()
        self._changed = threading.Condition()
        self._wake, self._stop = threading.Event(), threading.Event()
        self.last_error = ""
        self._statements = {name: upsert(engine, table) for name, table in _TABLES.items()}
        self._thread = threading.Thread(target=self._work, name="historian-writer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Rows in memory, not yet in the database."""
        return self._pending

    def put(self, table: str, rows: list[Row]) -> None:
        """Hand rows over. Returns at once."""
        with self._changed:
            self._queue.append((table, rows))
            self._pending += len(rows)
            self._accepted += len(rows)
            if self._pending > min(_BATCH, self._max):
                self._wake.set()

    def wait_for_room(self) -> None:
        """Hold up a caller that is faster than a database in good health: memory stays bounded."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending <= self._max // 2 or self.last_error or self._stop.is_set())

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything handed over so far is in the database; False when `timeout_s` ran out first."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            target = self._accepted
            while self._stored < target and (left := deadline - time.monotonic()) > 0:
                self._wake.set()
                self._changed.wait(min(left, self._period))
            return self._stored >= target

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left; what cannot be written in time goes to the spool."""
        self.flush(timeout_s)
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._engine.dispose()
        if self._pending:
            self._spill()
        if self._pending:
            log.critical("%d rows of %s could not be stored anywhere: %s", self._pending, self._plant, self.last_error)

    def _work(self) -> None:
        pause = self._period
        while not self._stop.is_set():
            self._wake.wait(self._period if not self.last_error else 0.0)
            self._wake.clear()
            try:
                self._replay()
                self._drain()
                self._report("")
                pause = self._period
            except Exception as e:
                # Whatever it was, the rows are kept and tried again, and `status` says why they wait.
                if not self.last_error:
                    log.warning("the historian cannot be written, rows wait: %s", reason(e))
                if not isinstance(e, SQLAlchemyError | OSError):
                    log.exception("the historian's writer failed")
                self._report(reason(e))
                if self._pending > self._max:
                    self._spill()
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_BACKOFF_S)

    def _report(self, error: str) -> None:
        with self._changed:
            if self.last_error and not error:
                log.info("the historian can be written again")
            self.last_error = error
            self._changed.notify_all()

    def _spill(self) -> None:
        """Move what waits to the spool. If even that fails it stays in memory."""
        if self._spool is None:
            return
        with self._changed:
            waiting = list(self._queue)
        try:
            path = self._spool.write(self._plant, self._tags(), waiting)
        except OSError as e:
            log.error("the historian's spool cannot be written, %d rows stay in memory: %s", self._pending, e)
            return
        self._spilled[path] = sum(len(rows) for _, rows in waiting)
        self._take(len(waiting), stored=False)
        log.warning("%d rows wait in %s (%s)", self._spilled[path], path, self.last_error or "not written in time")

    def _take(self, batches: int, *, stored: bool) -> None:
        with self._changed:
            rows = sum(len(self._queue.popleft()[1]) for _ in range(batches))
            self._pending -= rows
            self._stored += rows if stored else 0
            self._changed.notify_all()

    def _drain(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                batch: list[Batch] = []
                size = 0
                for some in self._queue:
                    if batch and size + len(some[1]) > _BATCH:
                        break
                    batch.append(some)
                    size += len(some[1])
            if not batch:
                return
            with self.turns, self._engine.begin() as connection:
                self._write(connection, batch)
            self._take(len(batch), stored=True)

    def _replay(self) -> None:
        """Put the spool back, in order, ahead of everything newer."""
        if self._spool is None:
            return
        waiting = [p for p in self._spool.segments() if p not in self._passed_over]
        for path in waiting:
            try:
                segment = self._spool.read(path)
            except FileNotFoundError:
                continue  # another process has put it back
            except ValueError as e:
                log.error("%s is damaged and set aside as %s: %s", path, self._spool.set_aside(path), e)
                continue
            with self.turns, self._engine.begin() as connection:
                number = self._numbers(connection, segment)
                if number is not None:
                    self._write(connection, [(table, _renumber(rows, number)) for table, rows in segment.batches])
            if number is None:
                log.error("%s holds tags that this historian does not have; it is left for a later start", path)
                self._passed_over.add(path)
                continue
            path.unlink(missing_ok=True)
            log.info("%s is put back into the historian", path)
        with self._changed:
            for path in [p for p in self._spilled if not p.exists()]:
                self._stored += self._spilled.pop(path)
            self._changed.notify_all()

    @staticmethod
    def _numbers(connection: Connection, segment: Segment) -> dict[int, int] | None:
        """The spool's tag numbers -> this database's: it may be another file than the rows were meant for. None when a
        tag is missing."""
        tag = schema.tag.c
        rows = connection.execute(select(tag.name, tag.id).where(tag.plant == segment.plant))
        here = {name: i for name, i in rows}
        used = {r["tag_id"] for table, some in segment.batches if table == "sample" for r in some}
        if any(segment.tags.get(i) not in here for i in used):
            return None
        return {i: here[segment.tags[i]] for i in used}

    def _write(self, connection: Connection, batches: list[Batch]) -> None:
        by_table: dict[str, list[Row]] = {}
        for table, rows in batches:
            by_table.setdefault(table, []).extend(rows)
        for table, rows in by_table.items():
            if rows:
                self._write_rows(connection, table, rows)

    def _write_rows(self, connection: Connection, table: str, rows: list[Row]) -> None:
        """Rows of one table. One that no database takes is left out and said: it must not hold up the others for ever."""
        try:
            with connection.begin_nested():
                connection.execute(self._statements[table], rows)
        except (StatementError, UnicodeError, OverflowError) as e:
            if not _is_of_a_row(e):
                raise
            if len(rows) == 1:
                log.error("a row of %s cannot be stored and is left out: %s: %r", table, reason(e), rows[0])
                return
            half = len(rows) // 2
            self._write_rows(connection, table, rows[:half])
            self._write_rows(connection, table, rows[half:])


def _is_of_a_row(error: Exception) -> bool:
    """Is it what a row holds that was refused, rather than the state of the database?"""
    if not isinstance(error, DBAPIError):
        return True
    return isinstance(error, IntegrityError | DataError) or "binding parameter" in reason(error)


def _renumber(rows: list[Row], number: dict[int, int]) -> list[Row]:
    return [{**r, "tag_id": number[r["tag_id"]]} if "tag_id" in r else r for r in rows]
