"""Injected faults strike when and where they say, and `benchmarks.surprise` scores what it says it scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import surprise
from benchmarks.report import Report
from benchmarks.surprise import Amounts, Plant, Scored, auroc, found, measure, shuffled
from benchmarks.surprise_faults import FAULTS, Fault, broken_runs
from benchmarks.world_model_rows import Sizes
from plant.spec import PlantSpec, load_spec

TINY = Amounts(fitted=6, limits=6, normal=4, broken=3, samples=60, onset=40)


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    return load_spec("vandevusse")


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant.recorded("vandevusse", TINY)


def test_auroc() -> None:
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1.0
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert np.isnan(auroc(np.array([]), np.array([1.0])))


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_plant_has_five_sensor_faults_and_five_of_the_process(name: str) -> None:
    sensors = [bool(f.tag) for f in FAULTS[name]]
    assert (sum(sensors), len(sensors)) == (5, 10)


def test_a_biased_sensor_reads_off_from_the_onset_on(spec: PlantSpec) -> None:
    fault = Fault("bias", "", "T_R", "bias", 10.0)
    sound, broken = (broken_runs(spec, f, 2, 50, 30, 9).runs[0] for f in (None, fault))
    t = [tag.name for tag in spec.measured].index("T_R")
    np.testing.assert_array_equal(sound.measured[:30], broken.measured[:30])
    off = (broken.measured[30:, t] - sound.measured[30:, t]) / spec.tag("T_R").noise
    assert off[0] == pytest.approx(10.0), "the same noise, ten deviations higher"


def test_a_stuck_valve_moves_the_plant_and_not_its_twin(spec: PlantSpec) -> None:
    recorded = broken_runs(spec, Fault("stuck", "", move=("F", 0.0)), 3, 50, 20, 9)
    far = [np.abs(r.measured - s[:, : len(spec.measured)]) for r, s in zip(recorded.runs, recorded.sound, strict=True)]
    noise = np.array([t.noise for t in spec.measured])
    assert all((f[:20] < 6 * noise).all() for f in far)
    assert any((f[30:] > 10 * noise).any() for f in far)


def test_what_shows_shows_after_the_onset_and_never_in_a_sound_run(plant: Plant) -> None:
    assert not np.concatenate(plant.shows(plant.normal)).any()
    (bias,) = [f for f in plant.broken if f.name == "bias"]
    for mask in plant.shows(plant.broken[bias]):
        assert not mask[: TINY.onset].any()
        assert mask[TINY.onset + 1 :].all()


def test_shuffled_runs_have_the_moves_of_another(plant: Plant) -> None:
    one, two = shuffled(plant.fitted[:2])
    n = len(one)
    np.testing.assert_array_equal(one.measured, plant.fitted[0].measured[:n])
    np.testing.assert_array_equal(one.applied, plant.fitted[1].applied[:n])
    np.testing.assert_array_equal(two.applied, plant.fitted[0].applied[: len(two)])


def test_scoring_of_a_detector_that_knows(plant: Plant) -> None:
    (bias,) = [f for f in plant.broken if f.name == "bias"]
    t = [tag.name for tag in plant.spec.measured].index("T_R")

    def knows(runs) -> list[Scored]:
        blame = np.eye(len(plant.spec.measured))[t]
        late = np.arange(TINY.samples) >= TINY.onset + 2
        return [Scored(np.where(late, 3.0, 0.1)[: len(r)], np.tile(blame, (len(r), 1))) for r in runs]

    result = found(plant, bias, knows, np.full(100, 0.2))
    assert result.told == result.blamed == 1.0
    assert 0 < result.delay <= 2
    assert 0.8 < result.every < 1.0


def test_a_plant_is_measured_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(surprise, "FAULTS", {"vandevusse": FAULTS["vandevusse"][:1] + FAULTS["vandevusse"][-1:]})
    report = Report("surprise")
    measure(report, "vandevusse", 1, TINY, Sizes(12, 0, 4, 5), tmp_path)
    faults, rows = report.tables
    assert [row[0] for row in faults[2]] == ["bias", "leak"]
    assert [row[0] for row in rows[2]] == [
        "world model",
        "moves shuffled",
        "untrained encoder",
        "linear prediction",
    ]
    assert len(report.bars) == 2
