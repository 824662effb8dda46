"""Nothing handed over is lost, and nobody who hands it over waits: locks, kills, full disks, several processes."""

from __future__ import annotations

import logging
import math
import signal
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from historian import Historian
from historian.database import open_engine
from historian.queries import microseconds
from historian.writer import BufferedWriter
from plant.link import Quality, Value
from plant.spec import PlantSpec

T0 = 1_750_000_000.0


def good(value: float, at: float) -> Value:
    return Value(value, Quality.GOOD, T0 + at)


def times_of(store, tag: str) -> list[float]:
    return [(ts - microseconds(T0)) / 1e6 for ts in store.history([tag], T0 - 1e6, T0 + 1e6)["ts"]]


def waiting(path) -> list:
    return sorted(path.parent.glob("historian.db.spool-*.jsonl"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.floats(allow_nan=True, allow_infinity=True)), max_size=30),
    again=st.integers(0, 30),
    offset=st.integers(0, 10**6),
)
def test_storing_twice_and_out_of_order_changes_nothing(store, rows, again, offset):
    for at, value in [*rows, *rows[len(rows) - min(again, len(rows)) :]]:
        store.sample("T", good(value, 10 * offset + at))
    assert store.flush()
    truth = {10 * offset + at: value if math.isfinite(value) else None for at, value in rows}
    frame = store.history(["T"], T0 + 10 * offset, T0 + 10 * offset + 9)
    found = {round((r["ts"] - microseconds(T0)) / 1e6): r["value"] for r in frame.iter_rows(named=True)}
    assert truth.items() <= found.items()
    assert frame["ts"].is_unique().all()


def test_locked_database_holds_up_nobody_and_loses_nothing(path, spec, store, locked, wait_until):
    with locked(path):
        returned = threading.Event()

        def hand_over() -> None:
            for i in range(500):
                store.sample("T", good(i, i))
            store.event(T0, "mode", "during the lock")
            store.audit(T0, "ann", "SetMode", "mode", "OFF", "AUTO")
            store.decision(T0, "AUTO", "OPTIMAL", 1.0, 0.0, 0.1, {}, {"T": [1.0]}, [T0 + 2])
            returned.set()

        threading.Thread(target=hand_over, daemon=True).start()
        assert returned.wait(10)  # the lock is held all the while
        wait_until(lambda: "locked" in store.status()["last_error"], "the lock is noticed")
        assert store.status()["pending"] == 504
        assert not store.flush(0.05)
        assert store.history(["T"], T0, T0 + 500).is_empty()  # and readers read
    assert store.flush()
    assert times_of(store, "T") == list(range(500))
    assert store.events()["message"].to_list() == ["during the lock"]
    assert store.audits()["who"].to_list() == ["ann"]
    assert store.predictions(store.decisions()["ts"][0])["value"].to_list() == [1.0]
    assert (store.status()["last_error"], store.status()["pending"], waiting(path)) == ("", 0, [])


def test_rows_past_the_bound_wait_on_disk_and_come_back_in_order(path, spec, locked, wait_until):
    with Historian(path, spec.name, max_pending=100) as store:
        store.register(spec)
        with locked(path):
            for batch in range(3):
                for i in range(150):
                    store.sample("T", good(batch, i))  # each batch replaces the one before
                wait_until(lambda n=batch: len(waiting(path)) == n + 1, "the rows are spilled")
            status = store.status()
            assert (status["pending"], status["spooled_rows"]) == (0, 450)
            assert status["spooled_bytes"] == sum(p.stat().st_size for p in waiting(path))
            store.sample("T", good(3, 0))
        assert store.flush()
        assert waiting(path) == []
        assert store.history(["T"], T0, T0 + 149)["value"].to_list() == [3.0] + [2.0] * 149


def test_closing_while_locked_spools_and_the_next_opening_puts_it_back(path, spec, store, locked):
    with locked(path):
        store.sample_block({"T": np.arange(50.0), "F": np.full(50, np.nan)}, T0 + np.arange(50))
        store.event(T0, "mode", "last words", data={"x": 1.5})
        store.close(timeout_s=0.1)
        assert len(waiting(path)) == 1
    with Historian(path, spec.name, read_only=True) as reader:
        assert reader.status()["spooled_rows"] == 101
        assert times_of(reader, "T") == []
    with Historian(path, spec.name) as again:
        again.sample("T", good(-1.0, 0))  # newer than what waits, so it wins
        assert again.flush()
        assert waiting(path) == []
        assert again.history(["T"], T0, T0 + 99)["value"].to_list() == [-1.0, *map(float, range(1, 50))]
        assert again.history(["F"], T0, T0 + 99)["quality"].to_list() == [int(Quality.BAD)] * 50
        assert again.events()["message"].to_list() == ["last words"]


def test_spool_finds_its_tags_in_a_new_database(path, spec, store, locked):
    """The numbers of tags differ from file to file: a spooled temperature must not come back as a flow."""
    with locked(path):
        store.sample("T", good(20.0, 0))
        store.close(timeout_s=0.1)
    for part in path.parent.glob("historian.db*"):
        if "spool" not in part.name:
            part.unlink()
    with Historian(path, spec.name) as new:
        new.register(spec.model_copy(update={"tags": tuple(t for t in spec.tags if t.name != "T")}))
        new.event(T0, "mode", "goes on")
        assert new.flush()
        assert len(waiting(path)) == 1  # nothing here is called T: it waits
    with Historian(path, spec.name) as new:
        new.register(spec)
    with Historian(path, spec.name) as new:
        new.event(T0, "mode", "goes on again")
        assert new.flush()
        assert waiting(path) == []
        assert new.history(["T"], T0, T0)["value"].to_list() == [20.0]
        assert new.history(["F", "U", "H"], T0, T0).is_empty()


@pytest.mark.parametrize(
    "damage", [b"no json", b'{"format": 99}', b'{"format":1,"rows":1,"plant":"heater","tags":{}}\n[1']
)
def test_damaged_spool_is_kept_aside(path, spec, store, damage, caplog):
    store.close()
    wrong = path.with_name("historian.db.spool-00000001-abcdef01.jsonl")
    wrong.write_bytes(damage)
    with caplog.at_level(logging.ERROR), Historian(path, spec.name) as again:
        again.sample("T", good(1.0, 0))
        assert again.flush()
    assert "damaged" in caplog.text
    assert not wrong.exists()
    assert wrong.with_suffix(".damaged").read_bytes() == damage


def test_unwritable_spool_keeps_rows_in_memory(path, spec, locked, wait_until, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("historian.spool.os.fsync", full)
    with Historian(path, spec.name, max_pending=10) as store:
        store.register(spec)
        with locked(path):
            for i in range(50):
                store.sample("T", good(i, i))
            wait_until(lambda: "No space left" in caplog.text, "the full disk is reported")
            assert store.status()["pending"] == 50
        assert store.flush()
        assert times_of(store, "T") == list(range(50))
    assert [p.name for p in path.parent.glob("*spool*")] == []


def test_database_that_fails_is_written_once_it_is_repaired(path, store, wait_until):
    with closing(sqlite3.connect(path)) as c:
        c.execute("ALTER TABLE sample RENAME TO moved")
        store.sample("T", good(1.0, 0))
        wait_until(lambda: "no such table" in store.status()["last_error"], "the failure is noticed")
        assert store.status()["pending"] == 1
        c.execute("ALTER TABLE moved RENAME TO sample")
    assert store.flush()
    assert times_of(store, "T") == [0.0]
    assert store.status()["last_error"] == ""


FULL_DISK = """
import resource, signal, sys
from historian import Historian
from historian.database import open_engine
from plant.link import Quality, Value
from plant.spec import PlantSpec
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Historian(sys.argv[1], "heater") as h:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    for i in range(30_000):
        h.sample("T", Value(i, Quality.GOOD, 1.75e9 + i))
    assert not h.flush(3.0)
    assert h.status()["last_error"], "the full disk is noticed"
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert h.flush(30.0)
    print(h.count("T"))
"""


def test_full_disk_loses_nothing_once_there_is_room(path, store, python):
    store.close()
    output, errors = python(FULL_DISK, path).communicate(timeout=60)
    assert output.strip() == "30000", errors


KILLED = """
import sys
from historian import Historian
from historian.database import open_engine
from plant.link import Quality, Value
from plant.spec import PlantSpec
h = Historian(sys.argv[1], "heater")
i = 0
while True:
    for _ in range(200):
        h.sample("T", Value(i, Quality.GOOD, 1.75e9 + i))
        i += 1
    if h.flush(30.0):
        print(i, flush=True)
"""


def test_killed_writer_leaves_every_flushed_row(path, spec, store, python):
    store.close()
    process = python(KILLED, path)
    flushed = 0
    while flushed < 1000:
        flushed = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    rest = process.stdout.read().split()
    flushed = int(rest[-1]) if rest else flushed
    with Historian(path, spec.name, read_only=True) as reader:
        assert times_of(reader, "T")[:flushed] == list(range(flushed))
    with Historian(path, spec.name) as again, closing(sqlite3.connect(path)) as c:
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        again.sample("T", good(0.0, 900_000))
        assert again.flush()


WRITER = """
import sys
from historian import Historian
from historian.database import open_engine
from plant.link import Quality, Value
from plant.spec import PlantSpec
me = int(sys.argv[2])
with Historian(sys.argv[1], "heater", max_pending=50) as h:
    for i in range(2000):
        h.sample("T", Value(i, Quality.GOOD, 1.75e9 + 3 * i + me))
        if i % 100 == 0:
            h.event(1.75e9 + i, "mode", f"{me}/{i}")
            h.close_run(h.open_run("control", 1.75e9 + i), 1.75e9 + i + 1)
    assert h.flush(60.0)
    print(h.status()["spooled_rows"])
"""


def test_several_processes_write_while_others_read_and_lock(path, spec, store, python, locked):
    writers = [python(WRITER, path, i) for i in range(3)]
    with Historian(path, spec.name, read_only=True) as reader:
        while any(p.poll() is None for p in writers):
            ts = reader.history(["T"], T0, T0 + 6000)["ts"]
            assert ts.is_sorted()
            with locked(path):
                reader.latest()
            time.sleep(0.05)  # the lock is ours part of the time only
        for p in writers:
            output, errors = p.communicate(timeout=60)
            assert (p.returncode, output.strip()) == (0, "0"), errors
        assert times_of(reader, "T") == list(range(6000))
        assert reader.events(limit=100).height == 60
        assert reader.runs().height == 60
    assert waiting(path) == []


def test_rows_handed_over_by_many_threads_all_arrive(store):
    def hand_over(first: int) -> None:
        for i in range(first, 3000, 6):
            store.sample("T", good(i, i))

    threads = [threading.Thread(target=hand_over, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert store.flush()
    assert times_of(store, "T") == list(range(3000))


def test_the_store_waits_for_its_own_writer_however_slow(path: Path, spec: PlantSpec, monkeypatch: pytest.MonkeyPatch):
    """A run is opened while the writer's transaction takes longer than a lock is waited for: nobody else holds anything."""
    brief = partial(open_engine, busy_s=0.2)
    monkeypatch.setattr("historian.store.open_engine", lambda url, write, busy_s=0.2: brief(url, write=write))
    writing, write = threading.Event(), BufferedWriter._write

    def slowly(*what: Any) -> None:
        write(*what)
        writing.set()
        time.sleep(1.0)

    monkeypatch.setattr(BufferedWriter, "_write", slowly)
    with Historian(path, spec.name) as store:
        store.register(spec)
        for k in range(3):
            writing.clear()
            store.sample("T", Value(50.0, Quality.GOOD, 1_700_000_000.0 + k))
            assert writing.wait(20.0)
            store.add_runs("excitation", [(float(k), k + 1.0)])
        assert len(store.runs()) == 3
