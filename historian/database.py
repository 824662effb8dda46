"""Opening the database: engines, migrations, and one clear error for whatever goes wrong with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from historian import schema
from plant.errors import HistorianError

log = logging.getLogger(__name__)
_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_S = 5.0

# What SQLite says (a part of it) -> what was wrong, what to do.
_CAUSES = {
    "not a database": ("it is not a database", "Give the historian's own file, or another place for a new one."),
    "malformed": ("the file is damaged", "Restore a copy of it, or move it away and start a new one."),
    "locked": ("another program holds it locked", "Close that program (a database browser? a backup?) and try again."),
    "is full": ("the disk is full", "Free some space and try again."),
    "disk i/o": ("the disk cannot be read or written", "Check the disk, its free space and any quota on the folder."),
    "readonly": ("it cannot be written", "Check the permissions of the file and of its folder."),
    "unable to open": ("it cannot be opened", "Check the path, and the permissions of the file and of its folder."),
}


def reason(error: BaseException) -> str:
    """An error of the database in one line."""
    words = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()
    return words[0] if words else type(error).__name__


@contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn an error of the database into a `HistorianError` that says where and what to do."""
    try:
        yield
    except SQLAlchemyError as e:
        why = reason(e)
        for part, (what, fix) in _CAUSES.items():
            if part in why.lower():
                raise HistorianError(what, location, fix) from e
        raise HistorianError(f"the database refused: {why}", location, "Check that it is a Homeostat historian.") from e


def locate(location: str | Path) -> tuple[Path | None, URL]:
    """A file name or a SQLAlchemy URL -> the file (None for a server) and the URL."""
    if "://" not in str(location):
        return Path(location), URL.create("sqlite", database=str(location))
    try:
        url = make_url(str(location))
    except ArgumentError as e:
        raise HistorianError(f"not a database URL: {e}", str(location), "Give a file or a SQLAlchemy URL.") from e
    if url.get_backend_name() != "sqlite":
        return None, url
    if url.database in (None, "", ":memory:"):
        raise HistorianError("a historian in memory forgets everything", str(location), "Give a file.")
    return Path(str(url.database)), url


def open_engine(url: URL, *, write: bool, busy_s: float = _BUSY_S) -> Engine:
    """An engine to read with, or to write with.

    A transaction that may write takes SQLite's write lock when it begins: one that read first and then wanted to write
    could be refused at once, however long it was ready to wait. `busy_s`: how long a lock is waited for.
    """
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, pool_pre_ping=True)
        engine = create_engine(url, connect_args={"timeout": busy_s, "check_same_thread": False})
    except (SQLAlchemyError, ImportError) as e:
        raise HistorianError(
            f"no driver for it: {e}", url.render_as_string(), "Install the database's Python driver."
        ) from e

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver thinks best
        connection.execute("PRAGMA synchronous = NORMAL" if write else "PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def check(engine: Engine, location: str) -> None:
    """See that a historian of this version is there, without touching it. Raises `HistorianError`."""
    with explained(location), engine.connect() as connection:
        revision = _revision(connection, location)
    if revision is None:
        raise HistorianError("there is no historian in it yet", location, "Start `homeostat record` first.")
    if revision != schema.REVISION:
        raise HistorianError(
            f"it was written by an older Homeostat (schema {revision})", location, "Open it once for writing: `record`."
        )


def migrate(read: Engine, write: Engine, location: str) -> None:
    """Bring the schema up to date. Several processes may do so at once. Raises `HistorianError`."""
    with explained(location):
        with read.connect() as connection:
            revision = _revision(connection, location)
        if revision != schema.REVISION:
            with write.begin() as connection:
                if _revision(connection, location) != schema.REVISION:
                    _upgrade(connection)
        if write.dialect.name == "sqlite":
            _use_wal(write, location)


def _revision(connection: Connection, location: str) -> str | None:
    """The schema's revision; None for an empty database. Refuses other people's databases, and the future's."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables and connection.dialect.name == "sqlite":
            raise HistorianError(
                f"it is a database of something else (it has a table '{tables[0]}')", location, "Give another file."
            )
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    known = {path.stem[1:5] for path in (_MIGRATIONS / "versions").glob("v[0-9][0-9][0-9][0-9]_*.py*")}
    if revision is not None and revision not in known:
        raise HistorianError(
            f"it was written by a newer Homeostat (schema {revision}; this one knows {schema.REVISION})",
            location,
            "Upgrade Homeostat, or give another file.",
        )
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command  # slow to import, and rarely needed
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _use_wal(engine: Engine, location: str) -> None:
    """Writers and readers side by side. The change needs the file to itself for a moment, and SQLite does not wait."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        raw = engine.raw_connection()
        try:
            mode = raw.cursor().execute("PRAGMA journal_mode").fetchone()
            if mode != ("wal",):
                mode = raw.cursor().execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != ("wal",):
                    log.warning("%s: no WAL on this file system; readers will wait for writers", location)
            return
        except engine.dialect.loaded_dbapi.OperationalError as e:
            if time.monotonic() > deadline:
                raise HistorianError("another program holds it locked", location, _CAUSES["locked"][1]) from e
        finally:
            raw.close()
        time.sleep(0.05)
