"""The page's frames from a real historian file."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from dashboard.data import HistoryReader
from historian import Historian
from plant.errors import HistorianError
from plant.link import Quality, Value


@pytest.fixture
def store(tmp_path, spec):
    with Historian(tmp_path / "h.db", spec.name) as historian:
        historian.register(spec)
        yield historian


def eventually_read(reader, tags=("T",), span_s=100.0):
    """Past the 0.8 s for which an answer is kept, or the error."""
    reader.close()
    return reader.read(tags, span_s)


def test_readings_trends_and_gaps(store, spec, tmp_path, now_s):
    times = now_s + np.arange(-200.0, 1.0)
    store.sample_block({"T": np.linspace(40.0, 50.0, 201), "U": np.full(201, 30.0)}, times)
    store.sample("T", Value(math.nan, Quality.BAD, now_s + 1))
    assert store.flush()
    found = HistoryReader(str(tmp_path / "h.db"), spec).read(("T", "U"), 100.0)
    assert found.readings["U"].value == 30.0
    assert found.readings["U"].time_s == now_s
    assert found.readings["T"].quality is Quality.BAD
    assert math.isnan(found.readings["T"].value)
    assert "D" not in found.readings
    T = found.trends["T"]
    assert T.time_s[0] == pytest.approx(now_s - 99)
    assert T.value[-2:] == (50.0, None)
    assert len(T.time_s) == len(T.value) == 101


def test_a_long_history_is_decimated_to_the_pixels_and_keeps_its_peaks(store, spec, tmp_path, now_s):
    values = np.zeros(20_000)
    values[12_345] = 99.0
    store.sample_block({"T": values}, now_s + np.arange(20_000) * 0.1)
    assert store.flush()
    T = HistoryReader(str(tmp_path / "h.db"), spec).read(("T",), 2000.0).trends["T"]
    assert len(T.value) <= 700
    assert max(T.value) == 99.0
    assert list(T.time_s) == sorted(T.time_s)


def test_past_targets_come_from_the_operators_accepted_actions(store, spec, tmp_path, now_s):
    store.sample("T", Value(50.0, Quality.GOOD, now_s))
    store.audit(now_s - 500, "ann", "SetTarget", "T", 50.0, 45.0)
    store.audit(now_s - 50, "ann", "SetTarget", "T", 45.0, 55.0)
    store.audit(now_s - 40, "bob", "SetTarget", "T", 55.0, 500.0, accepted=False, reason="outside")
    assert store.flush()
    target = HistoryReader(str(tmp_path / "h.db"), spec).read((), 100.0).targets["T"]
    assert target.time_s == (now_s - 100, now_s - 50)
    assert target.value == (45.0, 55.0)


def test_events_and_actions_are_one_list_newest_first(store, spec, tmp_path, now_s):
    store.event(now_s - 10, "mode", "ADVISORY -> AUTO", severity="info")
    store.audit(now_s - 5, "ann", "SetMode", "controller", "AUTO", "MANUAL", accepted=False, reason="no heartbeat")
    store.event(now_s - 1, "alarm", "T is bad", severity="high")
    assert store.flush()
    entries = HistoryReader(str(tmp_path / "h.db"), spec).read((), 100.0).entries
    assert [(e.kind, e.severity, e.who) for e in entries] == [
        ("alarm", "high", ""), ("operator", "info", "ann"), ("mode", "info", "")
    ]  # fmt: skip
    assert entries[1].text == "SetMode AUTO → MANUAL: refused, no heartbeat"


def test_a_historian_that_is_not_there_yet_is_found_when_it_is(spec, tmp_path, now_s):
    reader = HistoryReader(str(tmp_path / "sub" / "h.db"), spec)
    with pytest.raises(HistorianError, match=r"h\.db.*no historian yet"):
        reader.read(("T",), 100.0)
    with Historian(tmp_path / "sub" / "h.db", spec.name) as store:
        store.register(spec)
        assert reader.read(("T",), 100.0).readings == {}
        store.sample("T", Value(51.0, Quality.GOOD, now_s))
        assert store.flush()
        end = time.monotonic() + 10
        while not reader.read(("T",), 100.0).readings:
            assert time.monotonic() < end, "a tick later the new value must be seen"
            time.sleep(0.05)


def test_a_file_that_was_replaced_is_opened_anew(spec, tmp_path, now_s):
    reader = HistoryReader(str(tmp_path / "h.db"), spec)
    for value in (1.0, 2.0):
        with Historian(tmp_path / "h.db", spec.name) as store:
            store.register(spec)
            store.sample("T", Value(value, Quality.GOOD, now_s))
        reading = reader.read((), 100.0).readings["T"] if value == 1.0 else eventually_read(reader).readings["T"]
        assert reading.value == value
        for file in tmp_path.glob("h.db*"):
            file.unlink()
        with pytest.raises(HistorianError, match="no historian yet"):
            eventually_read(reader)


def test_a_file_that_is_no_historian_is_an_error_that_names_it(spec, tmp_path):
    (tmp_path / "h.db").write_text("not a database at all, but long enough to look like a file of some kind" * 20)
    with pytest.raises(HistorianError, match=r"h\.db"):
        HistoryReader(str(tmp_path / "h.db"), spec).read(("T",), 100.0)


def test_a_plant_clock_that_was_set_back_is_followed(store, spec, tmp_path, now_s):
    """What was stored last is the present, whatever has the newest time."""
    first = store.open_run("recorded", now_s - 100)
    store.sample_block({"T": np.full(101, 50.0), "U": np.full(101, 30.0)}, now_s + np.arange(-100.0, 1.0))
    store.event(now_s - 1, "mode", "of before")
    store.audit(now_s - 50, "ann", "SetTarget", "T", 50.0, 55.0)
    back_s = now_s - 18_000
    store.close_run(first, now_s)
    store.open_run("recorded", back_s)
    store.event(back_s, "gap", "the plant's clock went back")
    store.sample_block({"T": np.full(11, 61.0)}, back_s + np.arange(11.0))
    assert store.flush()
    found = HistoryReader(str(tmp_path / "h.db"), spec).read(("T",), 100.0)
    assert {tag: (r.value, r.time_s) for tag, r in found.readings.items()} == {"T": (61.0, back_s + 10)}
    assert set(found.trends["T"].value) == {61.0}
    assert found.entries[0].text == "the plant's clock went back"
    assert [e.kind for e in found.entries] == ["gap", "mode", "operator"]
    assert found.targets["T"].value[0] == 55.0, "what was set before the clock was set back still holds"


def test_a_second_pass_over_the_same_time_ends_where_the_plant_is(store, spec, tmp_path, now_s):
    first = store.open_run("recorded", now_s)
    store.sample_block({"T": np.full(201, 50.0)}, now_s + np.arange(201.0))
    store.close_run(first, now_s + 200)
    store.open_run("recorded", now_s + 100.5)
    store.sample_block({"T": np.full(3, 61.0)}, now_s + 100.5 + np.arange(3.0))
    assert store.flush()
    found = HistoryReader(str(tmp_path / "h.db"), spec).read((), 100.0, here_s=now_s + 102.5)
    assert found.readings["T"].value == 61.0
    assert found.readings["T"].time_s == now_s + 102.5


def test_only_what_was_stored_since_the_last_look_is_news(store, spec, tmp_path, now_s):
    reader = HistoryReader(str(tmp_path / "h.db"), spec)
    store.sample("T", Value(50.0, Quality.GOOD, now_s))
    assert store.flush()
    eventually_read(reader)
    eventually_read(reader)
    assert not reader.news(3.0).fresh, "nobody knows how old it is"
    store.sample("T", Value(50.0, Quality.GOOD, now_s - 18_000))
    store.sample("T", Value(50.0, Quality.GOOD, now_s + 1))
    assert store.flush()
    eventually_read(reader)
    assert reader.news(3.0).fresh
