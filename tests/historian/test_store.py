"""What the store keeps, what it refuses, and how it says so."""

from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from historian import Historian, schema
from plant.errors import HistorianError
from plant.link import Quality, Value
from plant.spec import PlantSpec

T0 = 1_700_000_000.0


def _good(value: float, time_s: float) -> Value:
    return Value(value, Quality.GOOD, time_s)


def test_registering_twice_changes_nothing(store: Historian, spec: PlantSpec):
    before = {tag: store.tag_id(tag) for tag in store.tags}
    store.register(spec)
    assert {tag: store.tag_id(tag) for tag in store.tags} == before
    assert set(before) == {t.name for t in spec.tags}


def test_a_changed_unit_is_refused_once_there_are_samples(store: Historian, spec: PlantSpec):
    kelvin = spec.model_copy(
        update={"tags": tuple(t.model_copy(update={"unit": "K"}) if t.name == "T" else t for t in spec.tags)}
    )
    store.register(kelvin)  # nothing is stored yet: the plant file was corrected
    store.register(spec)
    store.sample("T", _good(50.0, T0))
    assert store.flush()
    with pytest.raises(HistorianError, match="T is stored in degC, and the plant file now says K") as caught:
        store.register(kelvin)
    assert str(store.path) in str(caught.value)
    assert "units are never mixed" in str(caught.value)


def test_two_plants_in_one_file_stay_apart(store: Historian, path: Path, spec: PlantSpec):
    other_spec = spec.model_copy(update={"name": "boiler"})
    with Historian(path, "boiler") as other:
        other.register(other_spec)
        other.sample("T", _good(99.0, T0))
        other.event(T0, "alarm", "of the boiler")
        assert other.flush()
        assert other.count("T") == 1
    assert store.count("T") == 0
    assert store.events().is_empty()
    assert store.newest() is None


@pytest.mark.parametrize(
    "value",
    [
        Value(math.nan, Quality.GOOD, T0),
        Value(math.inf, Quality.GOOD, T0),
        Value(math.nan, Quality.BAD, T0, "sensor failure"),
        Value(50.0, Quality.BAD, T0, "a number all the same"),
    ],
)
def test_what_is_no_value_is_stored_as_a_gap(store: Historian, value: Value):
    store.sample("T", value)
    assert store.flush()
    assert store.history(["T"], T0, T0).rows() == [("T", round(T0 * 1e6), None, int(Quality.BAD))]


def test_a_bad_reading_keeps_the_number_it_came_with(store: Historian):
    """What is judged out of range is a gap to everybody, and still there for who asks what was read."""
    store.sample("T", Value(20.0, Quality.GOOD, T0 - 1))
    store.sample("T", Value(-9999.0, Quality.BAD, T0, "out of range"))
    store.sample_block({"T": np.array([4.0, np.nan])}, T0 + np.array([1.0, 2.0]), Quality.BAD)
    assert store.flush()
    assert store.readings(["T"], T0, T0 + 9)["read"].to_list() == [-9999.0, 4.0, None]
    assert store.history(["T"], T0, T0 + 9)["value"].to_list() == [None] * 3
    assert store.history(["T"], T0, T0 + 9)["quality"].to_list() == [int(Quality.BAD)] * 3
    assert store.before(["T"], T0 + 9)["value"].to_list() == [20.0]
    assert store.latest(["T"])["value"].to_list() == [None]
    assert store.grid(["T"], T0, T0 + 2, 1.0)["T"].to_list() == [20.0] * 3
    assert store.plot_values("T", T0, T0 + 9, 100)["value"].to_list() == [None]
    assert store.average("T", T0, T0 + 9) is None


def test_an_uncertain_value_keeps_its_quality(store: Historian):
    store.sample("T", Value(50.5, Quality.UNCERTAIN, T0))
    assert store.flush()
    assert store.history(["T"], T0, T0).rows() == [("T", round(T0 * 1e6), 50.5, int(Quality.UNCERTAIN))]


def test_a_value_without_a_time_is_refused(store: Historian):
    with pytest.raises(HistorianError, match="not a plant time"):
        store.sample("T", _good(1.0, math.nan))
    assert store.status()["pending"] == 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["T", "F"]), st.integers(0, 8), st.floats(0, 150)), min_size=1, max_size=40
    ),
    st.integers(0, 1_000_000),
)  # fmt: skip
def test_samples_in_any_order_leave_the_last_value_of_each_instant(
    store: Historian, rows: list[tuple[str, int, float]], day: int
):
    """Inserts are out of order and repeated; a second insert of the same instant replaces, and never doubles."""
    begin = T0 + 100.0 * day
    expected: dict[tuple[str, int], float] = {}
    for tag in ("T", "F"):  # an example may meet the instants of an earlier one
        store.sample_block({tag: np.full(9, np.nan)}, begin + np.arange(9, dtype=np.float64))
    for tag, second, value in rows:
        store.sample(tag, _good(value, begin + second))
        expected[tag, round((begin + second) * 1e6)] = value
    for tag, second, value in rows[-1:]:
        store.sample(tag, _good(value, begin + second))
    assert store.flush()
    stored = store.history(["T", "F"], begin, begin + 8)
    assert stored.select("tag", "ts").is_duplicated().sum() == 0
    assert {(t, ts): v for t, ts, v, _ in stored.drop_nulls("value").rows()} == expected
    for tag in ("T", "F"):
        assert stored.filter(stored["tag"] == tag)["ts"].is_sorted()


def test_a_block_is_stored_like_its_samples(store: Historian):
    times = T0 + 0.5 * np.arange(5, dtype=np.float64)
    column = np.array([1.0, np.nan, 3.0, np.inf, 5.0])
    store.sample_block({"T": column, "F": 2 * column}, times)
    assert store.flush()
    frame = store.history(["T", "F"], T0, T0 + 10)
    assert frame["value"].to_list() == [1.0, None, 3.0, None, 5.0, 2.0, None, 6.0, None, 10.0]
    assert frame["quality"].to_list() == [0, 2, 0, 2, 0] * 2
    assert frame["ts"].to_list() == [round(t * 1e6) for t in times] * 2


def test_a_block_that_does_not_fit_its_times_is_refused(store: Historian):
    with pytest.raises(HistorianError, match="T has"):
        store.sample_block({"T": np.zeros(3)}, T0 + np.arange(4, dtype=np.float64))


def test_a_block_larger_than_memory_may_hold_arrives_whole(path: Path, spec: PlantSpec):
    n = 30_000
    with Historian(path, spec.name, max_pending=5_000) as small:
        small.register(spec)
        small.sample_block({"T": np.arange(n, dtype=float)}, T0 + np.arange(n, dtype=np.float64))
        assert small.flush(60.0)
        assert small.count("T") == n
        assert small.status()["spooled_rows"] == 0


def test_no_runs_are_no_runs(store: Historian):
    store.add_runs("incident", [])
    assert store.runs().is_empty()


def test_runs_open_and_close(store: Historian):
    first = store.open_run("recorded", T0, seed=7, note="by hand")
    second = store.open_run("control", T0 + 10)
    assert first != second
    store.close_run(first, T0 + 5)
    store.add_runs("excitation", [(T0 - 20, T0 - 10), (T0 - 9, T0 - 5)], seed=3, note="lock-step")
    us = 1_000_000
    kinds = store.runs()["kind"].to_list()
    assert kinds == ["excitation", "excitation", "recorded", "control"]
    assert store.runs(["recorded"]).rows() == [(first, "recorded", round(T0 * us), round((T0 + 5) * us), 7, "by hand")]
    assert store.runs(["control"])["end_ts"].to_list() == [None]
    assert store.runs([]).is_empty()


def test_a_run_its_recorder_left_open_ends_at_its_last_sample(store: Historian):
    store.open_run("recorded", T0)
    store.sample("T", _good(1.0, T0 + 4))
    later = store.open_run("recorded", T0 + 100)
    store.sample("T", _good(1.0, T0 + 104))
    control = store.open_run("control", T0 + 200)
    assert store.flush()
    store.end_abandoned_runs("recorded")
    ends = dict(zip(store.runs()["id"], store.runs()["end_ts"], strict=True))
    assert ends.pop(control) is None
    assert ends.pop(later) == round((T0 + 104) * 1e6)
    assert list(ends.values()) == [round((T0 + 4) * 1e6)]


def test_events_newest_first_with_their_data(store: Historian):
    store.event(T0, "alarm", "first", severity="high", source="controller", key="a")
    store.event(T0 + 1, "mode", "second", data={"nan": math.nan, "array": np.array([1.0, 2.0]), "path": Path("x")})
    store.event(T0 + 1, "mode", "third")
    assert store.flush()
    frame = store.events()
    assert frame["message"].to_list() == ["third", "second", "first"]
    assert frame["data"].to_list()[1] == '{"nan": null, "array": [1.0, 2.0], "path": "x"}'
    assert frame.row(2) == (round(T0 * 1e6), "alarm", "high", "controller", "a", "first", "{}")
    assert store.events(start_s=T0 + 0.5)["message"].to_list() == ["third", "second"]
    assert store.events(kinds=["alarm"])["message"].to_list() == ["first"]
    assert store.events(limit=1)["message"].to_list() == ["third"]


def test_audits_say_who_and_what_became_of_it(store: Historian):
    store.audit(T0, "ann", "SetTarget", "T", 50.0, 55.0)
    store.audit(T0 + 1, "bob", "SetMode", "", "OFF", "AUTO", accepted=False, reason="not ready")
    assert store.flush()
    assert store.audits().rows() == [
        (round((T0 + 1) * 1e6), "bob", "SetMode", "", "OFF", "AUTO", False, "not ready"),
        (round(T0 * 1e6), "ann", "SetTarget", "T", "50.0", "55.0", True, ""),
    ]
    assert store.audits(start_s=T0 + 1)["who"].to_list() == ["bob"]


def test_a_decision_is_kept_with_what_it_expected(store: Historian):
    steps = [T0 + 2, T0 + 4]
    predicted = {"T": np.array([51.0, math.nan]), "F": [1.0, 1.1]}
    store.decision(T0, "AUTO", "optimal", 12.5, 0.0, math.nan, {"moves": {"U": 30.0}}, predicted, steps)
    store.decision(T0 + 2, "AUTO", "relaxed", math.nan, 0.1, 0.2)
    assert store.flush()
    newest, first = store.decisions().rows()
    assert first == (round(T0 * 1e6), "AUTO", "optimal", 12.5, 0.0, None, '{"moves": {"U": 30.0}}')
    assert newest[:3] == (round((T0 + 2) * 1e6), "AUTO", "relaxed")
    assert store.predictions(round(T0 * 1e6)).rows() == [
        (1, "F", round(steps[0] * 1e6), 1.0),
        (2, "F", round(steps[1] * 1e6), 1.1),
        (1, "T", round(steps[0] * 1e6), 51.0),
        (2, "T", round(steps[1] * 1e6), None),
    ]
    assert store.decisions(start_s=T0 + 1)["status"].to_list() == ["relaxed"]
    assert store.prune_predictions(T0 + 1) == 4
    assert store.predictions(round(T0 * 1e6)).is_empty()
    assert len(store.decisions()) == 2


def test_a_row_that_no_database_takes_does_not_hold_up_the_others(
    store: Historian, path: Path, spec: PlantSpec, caplog: pytest.LogCaptureFixture
):
    """Text that cannot be encoded, an object for a text: said, left out, and done with."""
    store.sample_block({"T": np.arange(500.0)}, T0 + np.arange(500, dtype=np.float64))
    for k in range(100):
        store.event(T0 + k, "alarm", "\udcff" if k == 37 else f"message {k}")
    store.audit(T0, "ann", "SetMode", reason=ValueError("refused"))  # type: ignore[arg-type]
    store.audit(T0 + 1, "ann", "SetMode")
    store.decision(T0, "AUTO", "optimal", 1.0, 0.0, 0.0)
    assert store.flush()
    assert store.count("T") == 500
    assert store.events()["message"].to_list() == [f"message {k}" for k in reversed(range(100)) if k != 37]
    assert len(store.audits()) == 1
    assert len(store.decisions()) == 1
    assert store.status()["last_error"] == ""
    said = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(said) == 2
    assert "udcff" in said[0]
    store.close()
    with Historian(path, spec.name) as again:
        assert again.status()["spooled_rows"] == 0


def test_closing_beside_a_lock_keeps_even_what_is_no_json(
    store: Historian, path: Path, spec: PlantSpec, locked, wait_until
):
    with locked(path):
        store.audit(T0, "ann", "SetMode", reason=ValueError("refused"))  # type: ignore[arg-type]
        store.close(0.1)
    with Historian(path, spec.name) as again:
        wait_until(lambda: again.status()["spooled_rows"] == 0, "the spool is put back")
        assert again.audits()["reason"].to_list() == ["refused"]


def test_status_counts_what_is_there(store: Historian):
    assert store.status() | {"file_bytes": 0} == {
        "location": str(store.path), "file_bytes": 0, "sample_rows": 0, "sample_rows_exact": True, "newest_s": None,
        "pending": 0, "spooled_rows": 0, "spooled_bytes": 0, "last_error": "",
    }  # fmt: skip
    store.sample_block({"T": np.arange(100.0)}, T0 + np.arange(100, dtype=np.float64))
    assert store.flush()
    facts = store.status()
    assert facts["sample_rows"] == 100
    assert facts["newest_s"] == T0 + 99
    assert facts["file_bytes"] > 4096


def test_read_only_reads_and_refuses_to_write(store: Historian, path: Path, spec: PlantSpec):
    store.sample("T", _good(50.0, T0))
    assert store.flush()
    size = path.stat().st_size
    with Historian(path, spec.name, read_only=True) as reader:
        assert reader.count("T") == 1
        assert reader.status()["sample_rows"] == 1
        writes = [
            lambda: reader.register(spec),
            lambda: reader.sample("T", _good(1.0, T0)),
            lambda: reader.sample_block({"T": np.zeros(1)}, np.array([T0])),
            lambda: reader.event(T0, "alarm", "x"),
            lambda: reader.audit(T0, "ann", "x"),
            lambda: reader.decision(T0, "AUTO", "optimal", 1.0, 0.0, 0.0),
            lambda: reader.open_run("recorded", T0),
            lambda: reader.close_run(1, T0),
            lambda: reader.add_runs("recorded", [(T0, T0 + 1)]),
            lambda: reader.prune_predictions(T0),
        ]
        for write in writes:
            with pytest.raises(HistorianError, match="read-only"):
                write()
        assert reader.flush()
    assert path.stat().st_size == size


def test_a_closed_historian_refuses_writes_and_closes_again(path: Path, spec: PlantSpec):
    historian = Historian(path, spec.name)
    historian.register(spec)
    historian.close()
    historian.close()
    with pytest.raises(HistorianError, match="closed"):
        historian.sample("T", _good(1.0, T0))


def test_a_reader_sees_tags_that_were_registered_after_it_opened(path: Path, spec: PlantSpec):
    with Historian(path, spec.name) as writer, Historian(path, spec.name, read_only=True) as reader:
        assert reader.tags == []
        writer.register(spec)
        writer.sample("T", _good(50.0, T0))
        assert writer.flush()
        assert reader.newest() == T0
        assert reader.status()["newest_s"] == T0
        assert reader.latest()["tag"].to_list() == ["T"]


def _one_error(location: object, **options: object) -> str:
    with pytest.raises(HistorianError) as caught:
        Historian(location, "heater", **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.fix, "it says what to do"
    return text


def test_a_missing_file_read_only_is_one_clear_error_and_makes_nothing(path: Path):
    text = _one_error(path, read_only=True)
    assert str(path) in text
    assert "homeostat record" in text
    assert not path.parent.exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_not_a_database(path: Path, read_only: bool):
    path.parent.mkdir()
    path.write_text("time,T\n0,50\n" * 1000)
    assert f"{path}: it is not a database" in _one_error(path, read_only=read_only)
    assert path.read_text().startswith("time,T")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_something_else(path: Path, read_only: bool):
    path.parent.mkdir()
    with sqlite3.connect(path) as c:
        c.execute("CREATE TABLE bookmarks (url TEXT)")
    assert "'bookmarks'" in _one_error(path, read_only=read_only)
    with sqlite3.connect(path) as c:
        assert c.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_schema_of_a_newer_version(path: Path, spec: PlantSpec, read_only: bool):
    Historian(path, spec.name).close()
    with sqlite3.connect(path) as c:
        c.execute("UPDATE alembic_version SET version_num = '9999'")
    text = _one_error(path, read_only=read_only)
    assert "newer Homeostat (schema 9999" in text
    assert "Upgrade" in text


def test_an_empty_file_holds_nothing_to_read_and_can_be_filled(path: Path, spec: PlantSpec):
    path.parent.mkdir()
    path.touch()
    assert "no historian in it yet" in _one_error(path, read_only=True)
    with Historian(path, spec.name) as historian:
        historian.register(spec)
        assert historian.tags


def test_a_damaged_database(path: Path, spec: PlantSpec):
    with Historian(path, spec.name) as historian:
        historian.register(spec)
        historian.sample_block({"T": np.zeros(5000)}, T0 + np.arange(5000, dtype=np.float64))
        assert historian.flush()
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    assert "damaged" in _one_error(path)


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path):
    (tmp_path / "file").touch()
    text = _one_error(tmp_path / "file" / "historian.db")
    assert "folder" in text
    assert str(tmp_path / "file") in text
    assert "/proc/historian.db: it cannot be opened" in _one_error("/proc/historian.db")
    assert "it cannot be opened" in _one_error(tmp_path)


def test_a_password_in_a_url_is_not_repeated():
    assert "secret" not in _one_error("nosuchdatabase://ann:secret@localhost/x")


def test_reopening_keeps_everything(path: Path, spec: PlantSpec):
    for k in range(3):
        with Historian(path, spec.name) as historian:
            historian.register(spec)
            historian.sample("T", _good(float(k), T0 + k))
    with Historian(path, spec.name, read_only=True) as reader:
        assert reader.history(["T"], T0, T0 + 9)["value"].to_list() == [0.0, 1.0, 2.0]


def test_a_copy_of_the_file_is_a_historian(store: Historian, path: Path, tmp_path: Path, spec: PlantSpec):
    store.sample("T", _good(5.0, T0))
    store.close()  # the last connection folds the write-ahead log into the file
    shutil.copy(path, tmp_path / "copy.db")
    with Historian(tmp_path / "copy.db", spec.name, read_only=True) as reader:
        assert reader.count("T") == 1


def test_migrations_make_exactly_the_tables_that_the_code_uses(path: Path, spec: PlantSpec):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    import historian

    Historian(path, spec.name).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == schema.REVISION
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()
    scripts = ScriptDirectory(str(Path(historian.__file__).parent / "migrations"))
    assert scripts.get_current_head() == schema.REVISION
