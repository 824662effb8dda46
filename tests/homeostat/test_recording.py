"""Lock-step recordings: what lies in the historian is what was simulated, kept apart, flagged, and within the policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from historian import Historian
from homeostat import lockstep, recording
from homeostat.lockstep import excitation_run, incident_run, split
from homeostat.recording import EXCITATION_SAMPLES, INCIDENT_SAMPLES, excite_lockstep
from models.dataset import load_runs
from models.windows import Run
from plant.errors import HistorianError, SpecError
from plant.spec import PlantSpec, load_spec
from simulators.scenario import load_scenario, scenario_of

END_S = 1_750_000_000.0
RUNS, INCIDENTS, SEED = 5, 6, 12
CEILING_K = 345.0


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    return load_spec("reactor")


@pytest.fixture(scope="module")
def excited(spec: PlantSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Historian, float, list]]:
    """A historian after one excitation, the plant-hours it reported, and its progress."""
    path = tmp_path_factory.mktemp("excited") / "historian.db"
    seen: list[tuple[str, int, int]] = []
    with Historian(path, spec.name) as store:
        hours = excite_lockstep(
            spec, store, END_S, runs=RUNS, incidents=INCIDENTS, seed=SEED, progress=lambda *now: seen.append(now)
        )
        yield store, hours, seen


def everything(store: Historian) -> pl.DataFrame:
    return store.history(store.tags, 0.0, END_S)


def test_nothing_waits_and_the_hours_are_those_stored(excited, spec: PlantSpec):
    store, hours, seen = excited
    assert store.status()["pending"] == 0
    assert store.status()["last_error"] == ""
    rows = sum(
        round((end - start) / 1e6 / spec.sample_time_s) + 1
        for start, end in store.runs().select("start_ts", "end_ts").rows()
    )
    assert hours == pytest.approx(rows * spec.sample_time_s / 3600)
    assert store.count("TI101") == rows
    assert seen == [("excitation", RUNS, RUNS + INCIDENTS), ("incident", RUNS + INCIDENTS, RUNS + INCIDENTS)]


def test_incidents_are_flagged(excited):
    runs = excited[0].runs()
    for kind in ("excitation", "incident"):
        (note,) = runs.filter(pl.col("kind") == kind)["note"].unique().to_list()
        made = json.loads(note)
        assert scenario_of(made["scenario"]) == load_scenario(kind, load_spec("reactor")), (
            "the record says what made it"
        )
        assert made["seed"] == runs.filter(pl.col("kind") == kind)["seed"][0]
    assert runs["kind"].value_counts().sort("kind").rows() == [("excitation", RUNS), ("incident", INCIDENTS)]
    assert runs["seed"].null_count() == 0


def test_runs_are_kept_apart_and_end_before_the_present(excited, spec: PlantSpec):
    runs = excited[0].runs()
    apart_s = (runs["start_ts"][1:].to_numpy() - runs["end_ts"][:-1].to_numpy()) / 1e6
    assert apart_s.min() > 3 * spec.sample_time_s
    assert runs["end_ts"].to_numpy().max() < END_S * 1e6


def test_recorded_excitation_never_passes_the_ceiling_and_incidents_do(excited, spec: PlantSpec):
    store = excited[0]
    top = {"excitation": 0.0, "incident": 0.0}
    for kind, start, end in store.runs().select("kind", "start_ts", "end_ts").rows():
        values = store.history(["TI101"], start / 1e6, end / 1e6)["value"]
        top[kind] = max(top[kind], float(values.max()))  # type: ignore[arg-type]
    assert top["excitation"] <= CEILING_K + 4 * spec.tag("TI101").noise
    assert top["incident"] > CEILING_K, "an incident that is none teaches nothing"


def test_moves_stay_inside_the_limits(excited, spec: PlantSpec):
    low, high = spec.tag("TC101").move.limits  # type: ignore[union-attr]
    moves = excited[0].history(["TC101"], 0.0, END_S)["value"].drop_nulls()
    assert low <= moves.min() <= moves.max() <= high
    assert moves.n_unique() > 50


def test_a_model_reads_back_exactly_what_was_simulated(excited, spec: PlantSpec):
    store = excited[0]
    simulated = [
        *split(excitation_run(spec, RUNS, EXCITATION_SAMPLES, SEED * 100_003)),
        *split(incident_run(spec, INCIDENTS, INCIDENT_SAMPLES, SEED * 100_003 + 50_000)),
    ]
    runs = load_runs(store, spec)
    assert [r.kind for r in runs] == ["excitation"] * RUNS + ["incident"] * INCIDENTS
    for run, values in zip(runs, simulated, strict=True):
        _same(run, values, spec)
    assert [len(r) for r in load_runs(store, spec, ["excitation"])] == [EXCITATION_SAMPLES] * RUNS


def _same(run: Run, values: dict[str, np.ndarray], spec: PlantSpec) -> None:
    for part, tags in ((run.measured, spec.measured), (run.dvs, spec.dvs), (run.applied, spec.mvs)):
        np.testing.assert_array_equal(part, np.stack([values[t.name] for t in tags], 1))
    for i, guard in enumerate(spec.guardrails):
        expected = values[guard.fallback_tag] if guard.fallback_tag else np.full(len(run), np.nan)
        np.testing.assert_array_equal(run.labels[:, i], expected)


def test_the_seed_decides_everything(spec: PlantSpec, tmp_path: Path):
    frames = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with Historian(tmp_path / f"{name}.db", spec.name) as store:
            excite_lockstep(spec, store, END_S, runs=2, incidents=1, seed=seed)
            frames.append((everything(store), store.runs().drop("id")))
    assert frames[0][0].equals(frames[1][0])
    assert frames[0][1].equals(frames[1][1])
    assert not frames[0][0].equals(frames[2][0])


def test_batches_do_not_overlap(spec: PlantSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """More runs than one batch holds, and a second excitation: it lies before everything that is there."""
    monkeypatch.setattr(recording, "_BATCH", 2)
    with Historian(tmp_path / "historian.db", spec.name) as store:
        excite_lockstep(spec, store, END_S, runs=3, incidents=1, seed=4)
        first = everything(store)
        excite_lockstep(spec, store, END_S, runs=1, incidents=1, seed=5)
        runs = store.runs()
        assert len(runs) == 6
        assert (runs["start_ts"][1:].to_numpy() > runs["end_ts"][:-1].to_numpy()).all()
        assert len({tuple(r.measured[:, 0]) for r in load_runs(store, spec)}) == 6, "no batch repeats another"
        begin = first["ts"].min()
        assert isinstance(begin, int)
        assert store.history(store.tags, begin / 1e6, END_S).equals(first)


def test_a_historian_that_is_read_only_is_refused_before_anything_is_simulated(excited, spec: PlantSpec):
    with (
        Historian(excited[0].path, spec.name, read_only=True) as reader,
        pytest.raises(HistorianError, match="read-only"),
    ):
        excite_lockstep(spec, reader, END_S, runs=10_000, incidents=0)


def test_a_plant_without_a_fallback_label_has_no_incidents():
    spec = load_spec("vandevusse")
    unlabelled = [g.model_copy(update={"fallback_tag": None}) for g in spec.guardrails]
    with pytest.raises(SpecError, match="vandevusse: no guardrail has a fallback_tag"):
        incident_run(spec.model_copy(update={"guardrails": tuple(unlabelled)}), 2, 10, seed=0)


def test_incidents_push_every_mv_and_end_a_little_past_the_limit():
    spec = load_spec("vandevusse")
    values = incident_run(spec, 60, 60, seed=0).values
    hottest = np.nanmax(values["T_R"], axis=1)
    assert 0.1 < (hottest > 140.0).mean() < 0.9
    assert hottest.max() < 147.0
    for mv in spec.mvs:
        assert mv.move is not None
        usual = excitation_run(spec, 60, 60, seed=0).values[mv.name]
        towards = np.sign(np.mean(mv.move.limits) - mv.move.safe)
        assert towards * (np.nanmean(values[mv.name]) - np.nanmean(usual)) > 0


@pytest.mark.parametrize(("plant", "runs"), [("turbofan", 100), ("glucose", 500)])
def test_hardly_any_excited_plant_ends(plant: str, runs: int):
    """At most one in a hundred leaves its simulator's maps; the moves still reach both ends of their range, and more for
    a meal."""
    spec = load_spec(plant)
    unlabelled = [g.model_copy(update={"fallback_tag": None}) for g in spec.guardrails]
    spec = spec.model_copy(update={"guardrails": tuple(unlabelled)})
    scenario = load_scenario("excitation", spec)
    excited = lockstep.excited(spec, scenario, runs, 1)
    values = lockstep.record(spec, excited, scenario.samples(spec), 1, "excitation").values
    assert (excited.ended != 0).mean() <= 0.01
    (mv,) = spec.mvs
    assert mv.move is not None
    low, high = mv.move.excited
    reached = np.nanmin(values[mv.name]), np.nanmax(values[mv.name])
    assert reached[0] < low + 0.1 * (high - low)
    assert reached[1] > high - 0.1 * (high - low)
    for tag, gain in mv.move.feed_forward.items():
        eaten = values[tag][:, 5:-1] > 40.0
        doses = values[mv.name][:, 6:][eaten]
        assert np.nanmedian(doses) > 0.5 * 40.0 * gain


def test_a_recording_is_as_long_as_its_scenario(tmp_path: Path):
    spec = load_spec("glucose")
    with Historian(tmp_path / "historian.db", spec.name) as store:
        hours = excite_lockstep(spec, store, END_S, runs=2, incidents=0, seed=1)
        (meals, labels) = (store.history([tag], 0.0, END_S)["value"] for tag in ("CHO", "CGM_off"))
        assert hours == 2 * load_scenario("excitation", spec).duration_s / 3600
    assert meals.max() > 20.0, "no meal, no lesson"  # type: ignore[operator]
    assert len(labels) == 2 * 180
    assert labels.null_count() == 0
