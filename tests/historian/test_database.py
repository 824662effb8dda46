"""Opening beside other programs: who waits for whom, and what a locked or wrong database is told as."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from historian import Historian, database, schema
from plant.errors import HistorianError


def test_opening_makes_a_file_in_wal_mode(path, spec):
    with Historian(path, spec.name) as h:
        assert h.tags == []
    with closing(sqlite3.connect(path)) as c:
        assert c.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert c.execute("SELECT version_num FROM alembic_version").fetchall() == [(schema.REVISION,)]


def test_opening_needs_no_lock_when_the_schema_is_there(path, spec, store, locked):
    with locked(path), Historian(path, spec.name) as h:
        assert h.tags == store.tags


def test_locked_while_it_must_be_migrated(path, spec, locked, monkeypatch):
    monkeypatch.setattr(database.open_engine, "__kwdefaults__", {"busy_s": 0.2})
    path.parent.mkdir(parents=True)
    with locked(path), pytest.raises(HistorianError, match="another program holds it locked") as e:
        Historian(path, spec.name)
    assert (e.value.where, "Close that program" in e.value.fix) == (str(path), True)
    Historian(path, spec.name).close()


def test_locked_while_tags_are_registered(path, spec, locked, monkeypatch):
    monkeypatch.setattr(database.open_engine, "__kwdefaults__", {"busy_s": 0.2})
    with Historian(path, spec.name) as h:
        with locked(path), pytest.raises(HistorianError, match="another program holds it locked"):
            h.register(spec)
        h.register(spec)
        assert h.tags == ["T", "F", "U", "H"]


@pytest.mark.parametrize(("url", "what"), [("nonsense://x", "driver"), ("sqlite://", "in memory"), ("a b://", "URL")])
def test_wrong_url(url, what, spec):
    with pytest.raises(HistorianError, match=what):
        Historian(url, spec.name)


OPEN = """
import sys
from historian import Historian
with Historian(sys.argv[1], "heater") as h:
    h.event(1e9, "mode", sys.argv[2])
"""


def test_several_processes_open_a_new_historian_at_once(path, python):
    started = [python(OPEN, path, i) for i in range(4)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with Historian(path, "heater", read_only=True) as h:
        assert set(h.events()["message"]) == {"0", "1", "2", "3"}
