"""From the historian to runs: the grid, gaps, moves as they were, blocks; and splits that never share a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from historian import Historian
from models.counts import Counts
from models.dataset import load_runs, split_runs
from models.windows import Run
from plant.errors import ModelError
from plant.link import Quality, Value
from plant.spec import PlantSpec

T0 = 1_700_000_000.0
STEP = 2.0


def _tag(name: str, role: str, bounds: tuple[float, float], nominal: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "description": f"Signal {name}", "unit": "degC", "range": bounds,
            "nominal": nominal, "node_id": f"ns=2;s=heater.{name}", **more}  # fmt: skip


@pytest.fixture(scope="module")
def heater() -> PlantSpec:
    return PlantSpec.model_validate({
        "name": "heater",
        "description": "A heater",
        "endpoint": "opc.tcp://127.0.0.1:0/heater",
        "sample_time_s": STEP,
        "scan_time_s": 0.5,
        "tags": [
            _tag("T", "CV", (0.0, 500.0), 50.0),
            _tag("D", "DV", (-20.0, 20.0), 0.0),
            _tag("U", "MV", (0.0, 100.0), 30.0, move={"limits": (0.0, 80.0), "rate_per_s": 5.0, "safe": 0.0}),
            _tag("H", "HIDDEN", (0.0, 150.0), 50.0, node_id=None),
        ],
        "guardrails": [{"name": "hot", "tag": "T", "max": 90.0, "fallback_tag": "H"},
                       {"name": "warm", "tag": "T", "max": 80.0, "rank": 2}],
    })  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, heater: PlantSpec) -> Iterator[Historian]:
    with Historian(tmp_path / "historian.db", heater.name) as historian:
        historian.register(heater)
        yield historian


def record(store: Historian, start_s: float, samples: int, kind: str = "recorded", scans: int = 4) -> dict[str, Any]:
    """A run as a recorder leaves it, `scans` scans a sample: T counts the scans, D is 1, U is 30. Nothing labels H."""
    n = (samples - 1) * scans + 1
    times = start_s + np.arange(n) * STEP / scans
    values = {"T": np.arange(n, dtype=float) / scans, "D": np.ones(n), "U": np.full(n, 30.0)}
    store.sample_block(values, times)
    store.add_runs(kind, [(float(times[0]), float(times[-1]))])
    assert store.flush()
    return {"times": times, **values}


def some_runs(count: int, kind: str = "recorded", seed: int = 0) -> list[Run]:
    rng = np.random.default_rng(seed)
    return [
        Run(kind, float(i), rng.normal(size=(9, 1)), rng.normal(size=(9, 1)), rng.normal(size=(9, 1)), np.empty((9, 0)))
        for i in range(count)
    ]


def test_a_recording_becomes_samples_on_the_grid(store: Historian, heater: PlantSpec):
    record(store, T0, 6)
    (run,) = load_runs(store, heater)
    assert (run.kind, run.start_s, len(run)) == ("recorded", T0, 6)
    np.testing.assert_array_equal(run.measured[:, 0], np.arange(6))
    np.testing.assert_array_equal(run.dvs, np.ones((6, 1)))
    np.testing.assert_array_equal(run.applied, np.full((6, 1), 30.0))
    assert run.labels.shape == (6, 2)
    assert np.isnan(run.labels).all()


def test_labels_stand_with_the_guardrail_they_belong_to(store: Historian, heater: PlantSpec):
    run = record(store, T0, 3)
    store.sample_block({"H": np.array([60.0, 61.0, 62.0])}, run["times"][::4])
    assert store.flush()
    (loaded,) = load_runs(store, heater)
    np.testing.assert_array_equal(loaded.labels, [[60.0, np.nan], [61.0, np.nan], [62.0, np.nan]])


def test_a_gap_is_missing_and_not_what_was_before_it(store: Historian, heater: PlantSpec):
    record(store, T0, 5, scans=1)
    store.sample("T", Value(77.0, Quality.BAD, T0 + 2 * STEP))
    store.sample("D", Value(5.0, Quality.UNCERTAIN, T0 + 3 * STEP))
    assert store.flush()
    (run,) = load_runs(store, heater)
    np.testing.assert_array_equal(run.measured[:, 0], [0, 1, np.nan, 3, 4])
    np.testing.assert_array_equal(run.dvs[:, 0], [1, 1, 1, 5, 1])


def test_a_run_knows_nothing_of_the_one_before_but_what_holds(store: Historian, heater: PlantSpec):
    record(store, T0, 3)
    store.sample_block({"T": np.array([9.0, 9.5])}, T0 + 100 + STEP * np.array([0, 1]))  # D and U say nothing at first
    store.sample("D", Value(2.0, Quality.GOOD, T0 + 100 + STEP))
    store.add_runs("recorded", [(T0 + 100, T0 + 100 + STEP)])
    assert store.flush()
    second = load_runs(store, heater)[1]
    np.testing.assert_array_equal(second.dvs[:, 0], [np.nan, 2.0])
    np.testing.assert_array_equal(second.applied[:, 0], [30.0, 30.0])


def test_a_move_holds_until_it_changes_from_before_the_first_run_on(store: Historian, heater: PlantSpec):
    """A history that stores what changes: U was set long before, once within the second run, and never again."""
    store.sample("U", Value(40.0, Quality.GOOD, T0 - 36_000.0))
    for k, start in enumerate((T0, T0 + 3000.0, T0 + 9000.0)):
        store.sample_block({"T": np.arange(4.0), "D": np.full(4, 1.0 + k)}, start + STEP * np.arange(4))
        store.add_runs("recorded", [(start, start + 3 * STEP)])
    store.sample("U", Value(55.0, Quality.GOOD, T0 + 3000.0 + 2 * STEP))
    assert store.flush()
    runs = load_runs(store, heater)
    np.testing.assert_array_equal(
        [r.applied[:, 0] for r in runs], [[40, 40, 40, 40], [40, 40, 40, 55], [55, 55, 55, 55]]
    )


def test_any_tag_stamped_on_change_holds_and_one_of_each_scan_does_not(store: Historian, heater: PlantSpec):
    on_change = heater.model_copy(
        update={
            "tags": tuple(t.model_copy(update={"stamps": "on_change"}) if t.name == "D" else t for t in heater.tags)
        }
    )
    store.sample("U", Value(40.0, Quality.GOOD, T0 - 10.0))
    store.sample("D", Value(3.0, Quality.GOOD, T0 - 10.0))
    store.sample_block({"T": np.arange(4.0)}, T0 + STEP * np.arange(4))
    store.add_runs("recorded", [(T0, T0 + 3 * STEP)])
    assert store.flush()
    assert np.isnan(load_runs(store, heater)[0].dvs).all()
    np.testing.assert_array_equal(load_runs(store, on_change)[0].dvs[:, 0], [3, 3, 3, 3])


def test_what_is_scanned_does_not_outlast_a_recorder_that_fell_silent(store: Historian, heater: PlantSpec):
    """Nothing is stored for 16 samples: T and D are not known then, the set-point is."""
    times = T0 + STEP * np.r_[0:5, 20:25]
    store.sample_block({"T": np.arange(10.0), "D": np.ones(10), "U": np.full(10, 30.0)}, times)
    store.add_runs("recorded", [(T0, T0 + 24 * STEP)])
    assert store.flush()
    counts = Counts()
    (run,) = load_runs(store, heater, counts=counts)
    np.testing.assert_array_equal(np.isnan(run.measured[:, 0]), (np.arange(25) > 14) & (np.arange(25) < 20))
    np.testing.assert_array_equal(np.isnan(run.dvs[:, 0]), np.isnan(run.measured[:, 0]))
    assert np.isfinite(run.applied).all()
    assert counts["silent", ""] == 1


def test_a_fill_value_is_missing_and_a_reading_a_hair_past_the_range_is_not(store: Historian, heater: PlantSpec):
    """As the runtime judges it: 2 % of the range past its ends is still a reading."""
    record(store, T0, 8, scans=1)
    store.sample("T", Value(-9999.0, Quality.GOOD, T0 + 2 * STEP))
    store.sample("T", Value(-8.0, Quality.GOOD, T0 + 3 * STEP))
    store.sample("U", Value(32767.0, Quality.GOOD, T0 + 5 * STEP))
    assert store.flush()
    counts = Counts()
    (run,) = load_runs(store, heater, counts=counts)
    np.testing.assert_array_equal(run.measured[:, 0], [0, 1, np.nan, -8, 4, 5, 6, 7])
    np.testing.assert_array_equal(run.applied[:, 0], [30, 30, 30, 30, 30, 30, np.nan, 30])
    assert (counts["out of range", "T"], counts["out of range", "U"]) == (1, 1)
    assert counts.first["out of range", "T"] == (round((T0 + 2 * STEP) * 1e6), "-9999")
    raw = store.history(["T"], T0, T0 + 100)["value"].to_list()
    assert -9999.0 in raw, "the store keeps what was read"


def test_a_state_that_is_none_is_missing(store: Historian, heater: PlantSpec):
    states = {"states": {0: "off", 1: "on", 5: "fault"}}
    odd = heater.model_copy(
        update={"tags": tuple(t.model_copy(update=states) if t.name == "T" else t for t in heater.tags)}
    )
    record(store, T0, 6, scans=1)
    (run,) = load_runs(store, odd)
    np.testing.assert_array_equal(run.measured[:, 0], [0, 1, np.nan, np.nan, np.nan, 5])


@pytest.mark.parametrize(("after_s", "mean"), [(0.0, 60.0), (0.5, 52.5), (1.0, 45.0), (1.5, 37.5)])
def test_a_move_is_the_time_mean_of_what_was_in_force(store: Historian, heater: PlantSpec, after_s: float, mean: float):
    """U jumps from 30 to 60 between the samples 2 and 3, some of them late."""
    run = record(store, T0, 6)
    moved = np.where(run["times"] >= T0 + 2 * STEP + after_s, 60.0, 30.0)
    store.sample_block({"U": moved}, run["times"])
    assert store.flush()
    (loaded,) = load_runs(store, heater)
    np.testing.assert_allclose(loaded.applied[:, 0], [30, 30, 30, mean, 60, 60], rtol=1e-12)
    np.testing.assert_array_equal(loaded.measured[:, 0], np.arange(6))


def test_an_mv_that_never_stands_still_is_known(store: Historian, heater: PlantSpec):
    """As a PID moves it at every scan: each sample has the mean of the four scans before it."""
    run = record(store, T0, 200)
    moved = 40 + 20 * np.sin(0.3 * np.arange(len(run["times"])))
    store.sample_block({"U": moved}, run["times"])
    assert store.flush()
    loaded = np.concatenate([r.applied[:, 0] for r in load_runs(store, heater)])
    np.testing.assert_allclose(loaded[1:], moved[:-1].reshape(-1, 4).mean(1), rtol=1e-12)


def test_a_bad_reading_of_an_mv_is_passed_over_and_a_long_one_is_not(store: Historian, heater: PlantSpec):
    run = record(store, T0, 8)
    for k in (5, 13, 14, 15):  # scans: a quarter of the interval after sample 1, three quarters of that after sample 3
        store.sample("U", Value(0.0, Quality.BAD, float(run["times"][k])))
    assert store.flush()
    np.testing.assert_array_equal(load_runs(store, heater)[0].applied[:, 0], [30, 30, 30, 30, np.nan, 30, 30, 30])


def recorded(spec: PlantSpec, of: str) -> PlantSpec:
    """`spec` whose U says `of` what it is read."""
    tags = [
        t.model_copy(update={"move": t.move.model_copy(update={"recorded": of})}) if t.move else t for t in spec.tags
    ]
    return spec.model_copy(update={"tags": tuple(tags)})


def test_where_only_a_target_is_recorded_the_mv_goes_there_at_its_rate(store: Historian, heater: PlantSpec):
    """5 a second, samples of 2 s: from 30 to 60 in three samples; called back from where it is by then, not from the target."""
    record(store, T0, 8, scans=1)
    store.sample_block({"U": np.array([30.0, 60.0, 40.0])}, T0 + STEP * np.array([0, 2, 4]))
    store.sample_block({"U": np.array([60.0, 40.0, 40.0, 40.0, 30.0])}, T0 + STEP * np.array([3, 5, 6, 7, 1]))
    assert store.flush()
    (run,) = load_runs(store, recorded(heater, "target"))
    np.testing.assert_allclose(run.applied[:, 0], [30, 30, 30, 35, 45, 45, 40, 40], rtol=1e-12)
    (run,) = load_runs(store, recorded(heater, "position"))
    np.testing.assert_allclose(run.applied[:, 0], [30, 30, 30, 60, 60, 40, 40, 40], rtol=1e-12)


def test_a_slow_mv_goes_on_where_the_history_is_read_in_parts(
    store: Historian, heater: PlantSpec, monkeypatch: pytest.MonkeyPatch
):
    """A tenth of the limits in ten minutes: one read of the whole history and one in parts of a block agree."""
    tags = [
        t.model_copy(update={"move": t.move.model_copy(update={"recorded": "target", "rate_per_s": 0.05})})
        if t.move
        else t
        for t in heater.tags
    ]
    slow = heater.model_copy(update={"tags": tuple(tags)})
    record(store, T0, 700, scans=1)
    store.sample_block({"U": np.full(400, 70.0)}, T0 + STEP * np.arange(300, 700))
    assert store.flush()
    whole = np.concatenate([r.applied for r in load_runs(store, slow)])
    assert np.all(np.diff(whole[310:600, 0]) > 0)
    monkeypatch.setattr("models.dataset._ROWS", 1)
    np.testing.assert_allclose(np.concatenate([r.applied for r in load_runs(store, slow)]), whole, rtol=1e-12)


def test_a_long_recording_is_cut_into_blocks(store: Historian, heater: PlantSpec):
    record(store, T0, 400, scans=1)
    runs = load_runs(store, heater)
    assert [len(r) for r in runs] == [180, 180, 40]
    assert [r.start_s for r in runs] == [T0, T0 + 180 * STEP, T0 + 360 * STEP]
    np.testing.assert_array_equal(np.concatenate([r.measured[:, 0] for r in runs]), np.arange(400))


def test_a_rest_of_one_sample_is_no_run(store: Historian, heater: PlantSpec):
    record(store, T0, 181, scans=1)
    assert [len(r) for r in load_runs(store, heater)] == [180]


def test_kinds_are_chosen_and_open_runs_left_out(store: Historian, heater: PlantSpec):
    record(store, T0, 3)
    record(store, T0 + 100, 4, kind="incident")
    store.open_run("recorded", T0 + 200)
    assert [r.kind for r in load_runs(store, heater)] == ["recorded", "incident"]
    assert [len(r) for r in load_runs(store, heater, ["incident"])] == [4]


def test_what_a_recorder_saw_of_a_test_belongs_to_the_test(store: Historian, heater: PlantSpec):
    """A recorder ran before, while and after a plant was excited: no sample twice, and the test stays a test."""
    record(store, T0, 40)
    store.add_runs("excitation", [(T0 + 20.0, T0 + 40.0)])
    runs = load_runs(store, heater)
    assert [(r.kind, r.start_s - T0, len(r)) for r in runs] == [
        ("recorded", 0.0, 10), ("excitation", 20.0, 11), ("recorded", 42.0, 19)
    ]  # fmt: skip


def refusal(work: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        work()
    assert caught.value.where
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_tag_is_named(tmp_path: Path, heater: PlantSpec):
    fewer = heater.model_copy(update={"tags": tuple(t for t in heater.tags if t.name not in ("D", "H"))})
    with Historian(tmp_path / "fewer.db", heater.name) as store:
        store.register(fewer)
        error = refusal(lambda: load_runs(store, heater))
    assert error.what == "the historian holds no D"
    assert "fewer.db" in error.where


def test_an_empty_historian(store: Historian, heater: PlantSpec):
    store.open_run("recorded", T0)
    error = refusal(lambda: load_runs(store, heater))
    assert "no finished run" in error.what
    assert "homeostat excite" in error.fix


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_runs_to_keep_apart(count: int):
    assert f"{count} runs leave none for" in refusal(lambda: split_runs(some_runs(count), 0.1, 0.2, 0)).what


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 60), st.integers(10, 60), st.floats(0.06, 0.3), st.floats(0.06, 0.3), st.integers(0, 2**31))
def test_a_split_shares_out_every_run_once(recorded: int, incidents: int, validation: float, calibration: float, seed):
    runs = some_runs(recorded) + some_runs(incidents, "incident", seed=1)
    split = split_runs(runs, validation, calibration, seed)
    parts = (split.training, split.validation, split.calibration, split.test)
    assert all(parts)
    assert sorted(id(r) for part in parts for r in part) == sorted(id(r) for r in runs)
    for kind, count in (("recorded", recorded), ("incident", incidents)):
        shares = [sum(r.kind == kind for r in part) for part in parts]
        assert shares[1] == shares[3] == round(count * validation)
        assert shares[2] == round(count * calibration)


def test_a_split_is_drawn_from_its_seed():
    runs = some_runs(40)
    first, same, other = (split_runs(runs, 0.1, 0.2, seed) for seed in (5, 5, 6))
    assert [r.start_s for r in first.test] == [r.start_s for r in same.test]
    assert {r.start_s for r in first.test} != {r.start_s for r in other.test}


def test_the_digest_names_the_data_and_nothing_else():
    runs = some_runs(40)
    digest = split_runs(runs, 0.1, 0.2, 5).digest
    assert split_runs(runs, 0.2, 0.1, 6).digest == digest
    for part in ("measured", "dvs", "applied"):
        values = getattr(runs[7], part).copy()
        values[3, 0] += 1e-9
        assert (
            split_runs([*runs[:7], dataclasses.replace(runs[7], **{part: values}), *runs[8:]], 0.1, 0.2, 5).digest
            != digest
        )
