"""Queries, against what the definitions say and what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from historian import Historian
from historian.queries import microseconds
from plant.errors import HistorianError
from plant.link import Quality, Value

T0 = 1_750_000_000.0
GOOD, UNCERTAIN, BAD = Quality.GOOD, Quality.UNCERTAIN, Quality.BAD


def put(store, tag, *rows):
    """(seconds after T0, value[, quality]) ..."""
    for at, value, *quality in rows:
        store.samples({tag: Value(value, quality[0] if quality else GOOD, T0 + at)})
    assert store.flush()


def test_history_is_raw_samples_in_the_stretch(store):
    put(store, "T", (0, 1.0), (1, 2.0, UNCERTAIN), (2, 3.0, BAD), (3, 4.0), (9, 9.0))
    put(store, "F", (1, 7.0))
    rows = store.history(["F", "T"], T0 + 1, T0 + 3).rows()
    us = [microseconds(T0 + i) for i in range(4)]
    assert rows == [("F", us[1], 7.0, 0), ("T", us[1], 2.0, 1), ("T", us[2], None, 2), ("T", us[3], 4.0, 0)]
    assert store.history([], T0, T0 + 1).is_empty()


def test_grid_holds_the_last_usable_value(store):
    put(store, "T", (-5000, 1.0), (10, 2.0), (12, math.nan, BAD), (20.5, 3.0, UNCERTAIN))
    put(store, "F", (15, 8.0))
    grid = store.grid(["T", "F"], T0, T0 + 30, 10.0)
    assert grid.columns == ["ts", "T", "F"]
    assert grid["ts"].to_list() == [microseconds(T0 + i) for i in (0, 10, 20, 30)]
    assert grid["T"].to_list() == [1.0, 2.0, 2.0, 3.0]  # 12 s is bad: the value before it holds
    assert grid["F"].to_list() == [None, None, 8.0, 8.0]


def test_grid_forgets_what_is_too_old(store):
    put(store, "T", (-100, 1.0), (10, 2.0))
    assert store.grid(["T"], T0, T0 + 40, 10.0, max_age_s=20.0)["T"].to_list() == [None, 2.0, 2.0, 2.0, None]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.integers(-20, 60), st.floats(-5, 5), st.sampled_from([GOOD, UNCERTAIN, BAD])), max_size=25
    )
)
def test_grid_agrees_with_its_definition(store, rows):
    """Out of order, with duplicates: the last written value of an instant counts."""
    with store._begin() as c:
        c.exec_driver_sql("DELETE FROM sample")
    put(store, "T", *rows)
    truth = {at: (v, q) for at, v, q in rows}
    grid = store.grid(["T"], T0, T0 + 50, 5.0)["T"].to_list()
    for instant, found in zip(range(0, 51, 5), grid, strict=True):
        usable = [at for at, (_, q) in truth.items() if at <= instant and q is not BAD]
        assert found == (truth[max(usable)][0] if usable else None)


def test_grid_refuses_a_step_of_nothing(store):
    with pytest.raises(HistorianError, match="step of 0"):
        store.grid(["T"], T0, T0 + 1, 0.0)


def test_latest_and_newest(store):
    assert store.latest().is_empty()
    assert store.newest() is None
    put(store, "T", (0, 1.0), (5, 2.0, BAD))
    put(store, "U", (3, 50.0))
    assert store.latest(["U", "T", "F"]).rows() == [
        ("U", microseconds(T0 + 3), 50.0, 0),
        ("T", microseconds(T0 + 5), None, 2),
    ]
    assert store.latest().height == 2
    assert store.newest() == T0 + 5
    assert store.newest(T0 + 5) == T0 + 3
    assert store.count("T") == 2


def test_the_segment_is_what_was_opened_last_not_what_is_newest(store):
    us = [microseconds(T0 + i) for i in (-1000, -900, 0, 100, 3600)]
    start, end, back = store.segment()
    assert start < us[0] < us[-1] < end
    assert not back
    first = store.open_run("recorded", T0)
    assert store.segment() == (us[2], end, False)
    store.close_run(first, T0 + 100)
    ahead = store.open_run("recorded", T0 + 3600)
    assert store.segment() == (us[4], end, False), "a clock that was set ahead leaves nothing newer behind"
    store.close_run(ahead, T0 + 3700)
    store.open_run("recorded", T0 - 1000)
    assert store.segment() == (us[0], us[2], True)
    put(store, "T", (-950, 5.0), (50, 1.0))
    assert store.latest(["T"], us[0], us[2])["value"].to_list() == [5.0]
    assert store.latest(["T"])["value"].to_list() == [1.0]


def test_average_is_weighted_by_time(store):
    # 10 in force from before; 20 from 2 s; bad from 6 s to 8 s; 40 from 8 s. Over 0..10 s, by hand:
    # (10 * 2 + 20 * 4 + 40 * 2) / (2 + 4 + 2) = 22.5
    put(store, "T", (-1000, 10.0), (2, 20.0), (6, math.nan, BAD), (8, 40.0), (11, 999.0))
    assert store.average("T", T0, T0 + 10) == pytest.approx(22.5)
    assert store.average("T", T0 + 6, T0 + 8) is None
    assert store.average("F", T0, T0 + 10) is None
    assert store.average("T", T0 - 2000, T0 - 990) == pytest.approx(10.0)


def test_plot_values_of_few_rows_are_those_rows(store):
    put(store, "U", (-60, 10.0), (5, 20.0), (6, math.nan, BAD), (7, math.nan, BAD), (8, 30.0))
    rows = [((ts - microseconds(T0)) / 1e6, v) for ts, v in store.plot_values("U", T0, T0 + 10, 100).rows()]
    assert rows == [(0.0, 10.0), (5.0, 20.0), (6.0, None), (8.0, 30.0)]  # in force at 0; one gap


def test_plot_values_keep_every_extreme_and_gap(store):
    rng = np.random.default_rng(1)
    t = T0 + np.arange(20_000)
    v = rng.normal(size=t.size)
    v[7_000], v[13_500] = 80.0, -80.0
    v[9_000:9_050] = np.nan
    store.sample_block({"T": v}, t)
    assert store.flush()
    frame = store.plot_values("T", T0, T0 + 20_000, 400)
    assert 200 < frame.height <= 420
    assert frame["ts"].is_sorted()
    assert frame["ts"].n_unique() == frame.height
    assert (frame["value"].max(), frame["value"].min()) == (80.0, -80.0)
    gap = frame.filter(frame["value"].is_null())["ts"].to_list()
    assert gap == [microseconds(T0 + 9_000)]
    assert frame.row(0) == (microseconds(T0), v[0])
    assert frame.row(-1) == (microseconds(T0 + 19_999), v[-1])
    raw = dict(store.history(["T"], T0, T0 + 20_000).select("ts", "value").rows())
    assert all(raw[ts] == value for ts, value in frame.rows())


def test_unknown_tag_names_the_known_ones(store):
    ask = [
        lambda: store.history(["X"], T0, T0 + 1),
        lambda: store.grid(["T", "X"], T0, T0 + 1, 1.0),
        lambda: store.latest(["X"]),
        lambda: store.average("X", T0, T0 + 1),
        lambda: store.plot_values("X", T0, T0 + 1, 10),
        lambda: store.sample("X", Value(1.0, GOOD, T0)),
    ]
    for question in ask:
        with pytest.raises(HistorianError, match=r"no tag 'X'.*T, F, U, H"):
            question()


def test_reader_learns_tags_registered_after_it_opened(path, spec):
    with Historian(path, spec.name) as writer, Historian(path, spec.name, read_only=True) as reader:
        assert reader.tags == []
        writer.register(spec)
        put(writer, "T", (0, 1.0))
        assert reader.latest(["T"])["value"].to_list() == [1.0]


def test_plants_in_one_file_do_not_mix(path, spec, store):
    other = spec.model_copy(update={"name": "other"})
    with Historian(path, "other") as h:
        h.register(other)
        put(h, "T", (0, 1.0))
        h.event(T0, "mode", "theirs")
        h.open_run("recorded", T0)
        assert h.flush()
    assert store.latest().is_empty()
    assert store.events().is_empty()
    assert store.runs().is_empty()


def test_events_newest_first_in_the_order_they_happened(store):
    for i in range(30):
        store.event(T0 + (i >= 20), "alarm" if i % 2 else "mode", f"m{i}", severity="high", key=f"k{i}", data={"i": i})
    assert store.flush()
    assert store.events()["message"].to_list() == [f"m{i}" for i in reversed(range(30))]
    assert store.events(limit=2)["message"].to_list() == ["m29", "m28"]
    assert store.events(T0 + 1)["message"].to_list() == [f"m{i}" for i in reversed(range(20, 30))]
    assert set(store.events(kinds=["mode"])["kind"]) == {"mode"}
    assert store.events(limit=1)["data"].to_list() == ['{"i": 29}']


def test_a_failing_database_is_a_historian_error(path, store):
    with store._begin() as c:
        c.exec_driver_sql("DROP TABLE event")
    with pytest.raises(HistorianError, match=r"historian\.db: the database refused: no such table: event"):
        store.events()


@pytest.mark.parametrize("time_s", [math.nan, math.inf, 1e18])
def test_what_is_no_time_is_refused(time_s, store):
    with pytest.raises(HistorianError, match="not a plant time"):
        store.sample("T", Value(1.0, GOOD, time_s))
