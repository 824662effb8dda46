"""Bad training data are said before training begins: each by its tag, its run and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest

from historian import Historian
from historian.parquet import ParquetHistory
from homeostat.training import train_plant
from models.config import ModelConfig, TrainingConfig
from models.counts import Counts
from models.data_check import DataReport, Severity, check_runs
from models.dataset import load_runs
from models.windows import Run
from plant.errors import ModelError
from plant.link import Quality
from plant.spec import PlantSpec, Tag

MODEL = ModelConfig(window=3, latent=4, encoder_width=8, predictor_width=8, head_width=8, horizon=4)
T0 = 1_700_000_000.0


@pytest.fixture(autouse=True)
def _enough(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few samples there are, but in the test of that."""
    if "few" not in request.node.name:
        monkeypatch.setattr("models.data_check._FEW", 0)


def tag(name: str, role: str, bounds: tuple[float, float], nominal: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "description": f"Signal {name}", "unit": "degC", "range": bounds,
            "nominal": nominal, "node_id": f"ns=2;s=heater.{name}", **more}  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    return PlantSpec.model_validate({
        "name": "heater",
        "description": "A heater",
        "endpoint": "opc.tcp://127.0.0.1:0/heater",
        "sample_time_s": 2.0,
        "scan_time_s": 2.0,
        "tags": [
            tag("T", "CV", (0.0, 150.0), 50.0, noise=0.1),
            tag("D", "DV", (-20.0, 20.0), 0.0),
            tag("U", "MV", (0.0, 100.0), 30.0, move={"limits": (0.0, 80.0), "rate_per_s": 5.0, "safe": 0.0}),
            tag("C", "COND", (0.0, 10.0), 5.0),
        ],
    })  # fmt: skip


def runs_of(count: int = 8, samples: int = 30, seed: int = 0) -> list[Run]:
    """Runs with nothing wrong in them."""
    rng = np.random.default_rng(seed)
    return [
        Run("recorded", T0 + 1000 * i, 50 + rng.normal(0, 5, (samples, 1)), rng.normal(0, 3, (samples, 1)),
            rng.uniform(0, 80, (samples, 1)), np.empty((samples, 0)), constants=rng.uniform(2, 8, 1))
        for i in range(count)
    ]  # fmt: skip


def changed(runs: list[Run], part: str, change: Any, which: slice = slice(None)) -> list[Run]:
    return [
        replace(r, **{part: change(getattr(r, part))}) if i in range(*which.indices(len(runs))) else r
        for i, r in enumerate(runs)
    ]


def refused(report: DataReport) -> ModelError:
    with pytest.raises(ModelError) as caught:
        report.refuse()
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return caught.value


def test_sound_data_are_not_refused(spec: PlantSpec):
    report = check_runs(spec, runs_of(), MODEL)
    report.refuse()
    assert report.findings == ()
    assert "8 runs (8 recorded), 240 samples of 2 s" in report.summary


def test_too_little(spec: PlantSpec):
    error = refused(check_runs(spec, runs_of(2), MODEL))
    assert "only 60 samples" in error.what
    assert "80 at least" in error.fix


def test_nothing_at_all(spec: PlantSpec):
    assert "only 0 samples" in refused(check_runs(spec, [], MODEL)).what


def test_an_mv_that_never_moved(spec: PlantSpec):
    error = refused(check_runs(spec, changed(runs_of(), "applied", lambda a: np.full_like(a, 30.0)), MODEL))
    assert "U never moved: it is 30 degC" in error.what
    assert "excite" in error.fix


def with_mvs(spec: PlantSpec, *more: str) -> PlantSpec:
    """`spec` with further MVs."""
    u = spec.tag("U")
    return spec.model_copy(
        update={"tags": (*spec.tags, *(u.model_copy(update={"name": n, "node_id": f"ns=2;s={n}"}) for n in more))}
    )


def beside(runs: list[Run], *columns: Any) -> list[Run]:
    """Runs with further moves, each made of the first."""
    return [replace(r, applied=np.hstack([r.applied, *(c(r.applied[:, :1]) for c in columns)])) for r in runs]


def test_one_of_several_mvs_that_never_moved_is_told_and_left_alone(spec: PlantSpec):
    runs = beside(runs_of(), lambda u: np.full_like(u, 12.0))
    report = check_runs(with_mvs(spec, "W"), runs, MODEL)
    report.refuse()
    (finding,) = report.findings
    assert finding.severity is Severity.WARNING
    assert "W never moved: it is 12 degC" in finding.what
    assert "the planner leaves it where it is" in finding.fix


def test_no_mv_that_ever_moved_is_refused(spec: PlantSpec):
    runs = beside(changed(runs_of(), "applied", lambda a: np.full_like(a, 30.0)), lambda u: np.full_like(u, 12.0))
    assert "U never moved" in refused(check_runs(with_mvs(spec, "W"), runs, MODEL)).what


def test_mvs_that_only_ever_moved_together_are_named(spec: PlantSpec):
    rng = np.random.default_rng(5)
    runs = beside(runs_of(), lambda u: rng.uniform(0, 80, u.shape), lambda u: 5 + 0.4 * u + rng.normal(0, 0.3, u.shape))
    report = check_runs(with_mvs(spec, "W", "X"), runs, MODEL)
    (finding,) = report.findings
    assert (finding.severity, finding.what) == (Severity.WARNING, "U and X only ever moved together")
    apart = [replace(r, applied=np.vstack([r.applied, np.add(r.applied[-1:], [0, 0, 40.0])])) for r in runs[:4]]
    parts = [replace(r, measured=r.measured[:1].repeat(31, 0), dvs=r.dvs[:1].repeat(31, 0), labels=r.labels[:1].repeat(31, 0)) for r in apart]  # fmt: skip
    assert check_runs(with_mvs(spec, "W", "X"), [*runs[4:], *parts], MODEL).findings == ()


@pytest.mark.parametrize(("part", "tag_name", "does"), [("hidden", "X", "watches"), ("labels", "Y", "saves by")])
def test_a_hidden_quantity_that_nobody_labelled_is_named(spec: PlantSpec, part: str, tag_name: str, does: str):
    lab = [tag(name, "HIDDEN", (0.0, 150.0), 50.0, node_id=None) for name in ("X", "Y")]
    rails = [{"name": "pure", "tag": "X", "max": 90.0}, {"name": "hot", "tag": "T", "max": 90.0, "fallback_tag": "Y"}]
    whole = PlantSpec.model_validate(
        spec.model_dump(exclude_none=True)
        | {"tags": [*(t.model_dump(exclude_none=True) for t in spec.tags), *lab], "guardrails": rails}
    )
    known = [
        replace(r, labels=np.tile([np.nan, 60.0], (30, 1)), hidden=np.tile([60.0, np.nan], (30, 1))) for r in runs_of()
    ]
    check_runs(whole, known, MODEL).refuse()
    error = refused(check_runs(whole, changed(known, part, lambda v: np.full_like(v, np.nan)), MODEL))
    assert f"nothing labels {tag_name}" in error.what
    assert does in error.what


def test_few_samples_say_what_is_not_known(spec: PlantSpec):
    (finding,) = check_runs(spec, runs_of(), MODEL).findings
    assert finding.severity is Severity.NOTE
    assert "240 samples of usual operation are few (0.13 plant-hours)" in finding.what
    assert "Not known from them" in finding.fix
    assert check_runs(spec, runs_of(80), MODEL).findings == ()


def test_an_mv_that_moves_between_runs_only(spec: PlantSpec):
    report = check_runs(spec, changed(runs_of(), "applied", lambda a: np.full_like(a, a[0, 0])), MODEL)
    report.refuse()
    assert [f.severity for f in report.findings] == [Severity.WARNING]
    assert "never within one" in report.findings[0].what


def test_nothing_moves_in_any_run(spec: PlantSpec):
    runs = changed(runs_of(), "applied", lambda a: np.full_like(a, a[0, 0]))
    runs = changed(runs, "dvs", np.zeros_like)
    noise = np.random.default_rng(1)
    runs = changed(runs, "measured", lambda y: y[0, 0] + noise.normal(0, 0.1, y.shape))
    error = refused(check_runs(spec, runs, MODEL))
    assert "nothing moves within any run" in error.what


@pytest.mark.parametrize(("part", "name", "hint"), [("measured", "T", "instrument"), ("dvs", "D", "plan only where")])
def test_a_constant_measurement_is_told_and_scaled_by_its_range(spec: PlantSpec, part: str, name: str, hint: str):
    report = check_runs(spec, changed(runs_of(), part, lambda a: np.full_like(a, 7.0)), MODEL)
    report.refuse()
    (finding,) = report.findings
    assert f"{name} is 7 degC throughout" in finding.what
    assert hint in finding.fix


def read(spec: PlantSpec, runs: list[Run]) -> DataReport:
    """The report on these runs once they went through a history."""
    counts = Counts()
    with TemporaryDirectory() as folder, Historian(Path(folder) / "historian.db", spec.name) as store:
        store.register(spec)
        for run in runs:
            times = run.start_s + spec.sample_time_s * np.arange(len(run))
            columns = [*run.measured.T, *run.dvs.T, *run.applied.T]
            names = [t.name for t in (*spec.measured, *spec.dvs, *spec.mvs)]
            constants: Any = () if run.constants is None else run.constants
            held = {t.name: np.full(len(run), c) for t, c in zip(spec.constants, constants, strict=True)}
            store.sample_block(dict(zip(names, columns, strict=True)) | held, times)
            store.add_runs(run.kind, [(float(times[0]), float(times[-1]))])
        assert store.flush()
        return check_runs(spec, load_runs(store, spec, counts=counts), MODEL, counts)


def test_kelvin_in_a_celsius_tag_names_both(spec: PlantSpec):
    error = refused(read(spec, changed(runs_of(), "measured", lambda y: y + 273.15)))
    assert "T reads about 32" in error.what
    assert "0..150 degC" in error.what
    assert "K instead of degC" in error.fix


def test_one_run_in_another_unit_is_named(spec: PlantSpec):
    error = refused(read(spec, changed(runs_of(), "measured", lambda y: 100 * y, slice(3, 4))))
    assert "run at 2023-11-14 23:03:20, tag T" in error.where
    assert "Times 0.01" in error.fix


def test_a_constant_in_another_unit(spec: PlantSpec):
    assert "C reads about" in refused(read(spec, changed(runs_of(), "constants", lambda c: 100 * c))).what


def test_incidents_may_leave_the_range_and_fill_values_are_told(spec: PlantSpec):
    runs = runs_of()
    far = [replace(r, kind="incident", start_s=r.start_s + 1e5, measured=r.measured + 300) for r in runs_of(3, seed=1)]
    assert [f.what for f in read(spec, [*runs, *far]).findings] == ["T is missing in 27.3% of the samples"]
    for run in runs[2:4]:
        run.measured[5:25] = -9999.0  # most of two runs: still no other unit
    report = read(spec, runs)
    report.refuse()
    assert [f.severity for f in report.findings] == [Severity.WARNING, Severity.NOTE]
    assert "40 readings of T are none: -9999 at 2023-11-14 22:46:50 is the first" in report.findings[0].what


def test_readings_that_the_recorder_judged_bad_still_tell_their_unit(store: Historian, spec: PlantSpec):
    """A live recording has judged them already: nothing of T is known, and the check says why."""
    store.register(spec)
    record(store)
    rng = np.random.default_rng(1)
    for i in range(12):
        times: Any = T0 + 1000 * i + 2.0 * np.arange(40)
        store.sample_block({"T": rng.normal(323, 5, 40)}, times, Quality.BAD)
    assert store.flush()
    counts = Counts()
    runs = load_runs(store, spec, counts=counts)
    assert all(np.isnan(r.measured).all() for r in runs)
    error = refused(check_runs(spec, runs, MODEL, counts))
    assert "T reads about 32" in error.what
    assert "K instead of degC" in error.fix


@pytest.mark.parametrize("more", [{"states": {0: "off", 1: "on"}}, {}])
def test_an_on_off_mv_is_in_no_other_unit(spec: PlantSpec, more: dict[str, Any]):
    """Levels are told when it stands between them, and a value that is none has no unit to guess."""
    move = {"limits": (0.0, 1.0), "rate_per_s": 1.0, "safe": 0.0, "levels": (0.0, 1.0)}
    switch = Tag.model_validate(tag("U", "MV", (0.0, 1.0), 0.0, move=move, **more))
    onoff = spec.model_copy(update={"tags": tuple(switch if t.name == "U" else t for t in spec.tags)})
    runs = changed(runs_of(), "applied", lambda u: (u > 40.0).astype(float))
    assert read(onoff, runs).findings == ()
    error = refused(read(onoff, changed(runs, "applied", lambda u: 2.0 + 30.0 * u + np.arange(len(u))[:, None])))
    assert "U reads about" in error.what
    assert "unit than" not in error.fix
    if not more:
        (told,) = read(onoff, changed(runs, "applied", lambda u: np.where(u > 0, 0.6, u))).findings
        assert "U reads 0.6, which is none of its levels (0, 1)" in told.what


def test_texts_of_a_foreign_historian_are_told_and_missing(spec: PlantSpec, tmp_path: Path):
    """Its export has words where it got no reading, and decimal commas."""
    rng = np.random.default_rng(0)
    times = [round((T0 + 2.0 * i) * 1e6) for i in range(120)]
    values = {
        "T": rng.normal(50, 5, 120),
        "D": rng.normal(0, 3, 120),
        "U": rng.uniform(0, 80, 120),
        "C": np.full(120, 4),
    }
    texts = {name: [f"{v:.2f}".replace(".", ",") for v in column] for name, column in values.items()}
    texts["T"][7], texts["T"][9] = "Bad Input", "I/O Timeout"
    (tmp_path / "samples").mkdir()
    pl.DataFrame({"name": list(texts), "unit": ["degC"] * 4}).write_parquet(tmp_path / "tags.parquet")
    runs = {"kind": ["recorded"], "start_ts": [times[0]], "end_ts": [times[-1]]}
    pl.DataFrame(runs).write_parquet(tmp_path / "runs.parquet")
    for name, column in texts.items():
        frame = pl.DataFrame({"tag": [name] * 120, "ts": times, "value": column})
        frame.write_parquet(tmp_path / "samples" / f"{name}.parquet")
    counts = Counts()
    loaded = load_runs(ParquetHistory(tmp_path), spec, counts=counts)
    assert np.isnan(loaded[0].measured[:, 0]).nonzero()[0].tolist() == [7, 9]
    found = [f for f in check_runs(spec, loaded, MODEL, counts).findings if "no numbers" in f.what]
    assert "2 samples of T are no numbers: 'Bad Input' at 2023-11-14 22:13:34 is the first" in found[0].what
    texts["T"] = ["No Data"] * 120
    pl.DataFrame({"tag": ["T"] * 120, "ts": times, "value": texts["T"]}).write_parquet(tmp_path / "samples/T.parquet")
    loaded = load_runs(ParquetHistory(tmp_path), spec, counts=(again := Counts()))
    assert (
        "no reading in any run is a number, the first is 'No Data'"
        in refused(check_runs(spec, loaded, MODEL, again)).what
    )


def test_gaps_are_masked_and_told(spec: PlantSpec):
    runs = runs_of()
    runs[0].measured[3:9] = np.nan
    (note,) = check_runs(spec, runs, MODEL).findings
    assert note.severity is Severity.NOTE
    assert "T is missing in 2.5%" in note.what
    for run in runs:
        run.measured[:20] = np.nan
    assert check_runs(spec, runs, MODEL).findings[0].severity is Severity.WARNING


def test_a_tag_nobody_read(spec: PlantSpec):
    error = refused(check_runs(spec, changed(runs_of(), "dvs", lambda d: np.full_like(d, np.nan)), MODEL))
    assert "D: no reading in any run" in error.what
    error = refused(check_runs(spec, changed(runs_of(), "constants", lambda c: np.full_like(c, np.nan)), MODEL))
    assert "C: no reading in any run" in error.what


def test_constants(spec: PlantSpec):
    same = check_runs(spec, changed(runs_of(), "constants", lambda c: np.full_like(c, 4.0)), MODEL)
    assert "C is 4 degC in every run" in same.findings[0].what
    some = check_runs(spec, changed(runs_of(), "constants", lambda c: np.full_like(c, np.nan), slice(2)), MODEL)
    assert "C is unknown in 2 runs" in some.findings[0].what
    told = check_runs(spec, runs_of(), MODEL, Counts({("changed within a run", "C"): 3}))
    assert "changes 3 times" in told.findings[0].what


def test_what_was_put_right_while_reading_is_told(spec: PlantSpec):
    counts = Counts({("doubled", "T"): 3, ("out of order", "U"): 2, ("overlapping", ""): 1, ("doubled", "D"): 0})
    report = check_runs(spec, runs_of(), MODEL, counts)
    assert [f.severity for f in report.findings] == [Severity.WARNING, Severity.NOTE, Severity.NOTE]
    assert any(f.what == "3 samples of T share their time with a later one" for f in report.findings)


def test_the_gravest_comes_first_and_the_others_are_counted(spec: PlantSpec):
    runs = changed(changed(runs_of(), "applied", lambda a: np.full_like(a, 30.0)), "measured", lambda y: y + 273.15)
    report = read(spec, changed(runs, "constants", lambda c: np.full_like(c, 4.0)))
    assert [f.severity for f in report.findings] == [Severity.ERROR] * 2 + [Severity.WARNING]
    assert "(and 1 more: U never moved" in refused(report).what


@pytest.fixture
def store(tmp_path: Path, spec: PlantSpec) -> Iterator[Historian]:
    with Historian(tmp_path / "historian.db", spec.name) as historian:
        yield historian


def record(store: Historian, moves: Any = None) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        times: Any = T0 + 1000 * i + 2.0 * np.arange(40)
        values = {"T": rng.normal(50, 5, 40), "D": rng.normal(0, 3, 40), "U": rng.uniform(0, 80, 40)}
        store.sample_block({**values, "C": np.full(40, 4.0 + i % 2), **({} if moves is None else {"U": moves})}, times)
        store.add_runs("recorded", [(float(times[0]), float(times[-1]))])
    assert store.flush()


def test_training_is_refused_before_it_begins(store: Historian, spec: PlantSpec, tmp_path: Path):
    store.register(spec)
    record(store, np.full(40, 30.0))
    told: list[DataReport] = []
    with pytest.raises(ModelError, match="U never moved"):
        train_plant(spec, store, tmp_path / "out", "test", MODEL, TrainingConfig(steps=1), checked=told.append)
    assert "12 runs" in told[0].summary
    assert not (tmp_path / "out").exists()


def test_a_tag_stored_in_another_unit_names_both(store: Historian, spec: PlantSpec):
    other = spec.tag("T").model_copy(update={"unit": "K"})
    store.register(spec.model_copy(update={"tags": (other, *spec.tags[1:])}))
    record(store)
    with pytest.raises(ModelError, match="T is stored in K, the plant file says degC"):
        load_runs(store, spec)


def test_runs_that_overlap_share_no_sample(store: Historian, spec: PlantSpec):
    store.register(spec)
    record(store)
    store.add_runs("recorded", [(T0 + 20.0, T0 + 1010.0)])
    counts = Counts()
    runs = load_runs(store, spec, counts=counts)
    assert counts["overlapping", ""] == 2
    instants = np.concatenate([r.start_s + 2.0 * np.arange(len(r)) for r in runs])
    assert len(np.unique(instants)) == len(instants)


def test_the_constant_in_force_is_known_however_long_ago_it_was_stamped(store: Historian, spec: PlantSpec):
    store.register(spec)
    rng = np.random.default_rng(0)
    times: Any = T0 + 2.0 * np.arange(400)
    store.sample_block({"C": np.array([3.0, 6.0])}, np.array([T0 - 9000.0, T0 + 450.0]))
    store.sample_block({n: rng.uniform(0, 20, 400) for n in ("T", "D", "U")}, times)
    store.add_runs("recorded", [(T0, float(times[-1]))])
    assert store.flush()
    counts = Counts()
    runs = load_runs(store, spec, counts=counts)
    assert [float(r.constants[0]) for r in runs if r.constants is not None] == [3.0, 3.0, 6.0]
    assert counts["changed within a run", "C"] == 1
