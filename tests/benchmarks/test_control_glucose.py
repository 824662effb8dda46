"""The glucose row: everything runs, the meals are those meant, the gain at matched time below range is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import control_glucose
from benchmarks.control_glucose import Bench, Lived, Sizes, measure
from benchmarks.glucose_data import everybody, later
from benchmarks.report import Report
from plant.spec import load_spec
from simulators.glucose import DISCLAIMER
from simulators.glucose.meals import meals
from simulators.glucose.patients import Cohort, Split

_SIZES = Sizes(1, 1, 1, 1, 2, 1, ("ARX", "GRU"))


def test_meals_move_around_the_day() -> None:
    planned = meals("S1", 2, 2)
    moved = later(planned, np.array([0, 180]))
    np.testing.assert_array_equal(moved.served[0], planned.served[0])
    assert moved.served[1, 10 * 60] == planned.served[1, 7 * 60] > 0
    assert moved.served[1, 2 * 60] == planned.served[1, -60] > 0


def test_held_out_people_are_nobody_s_training() -> None:
    held, seen = everybody(3, Split.HELD_OUT, 1), everybody(3, Split.TRAINING, 1)
    assert len(held) == 9
    assert held.cohorts[0] == Cohort.ADULT
    assert not (held.p[:, None] == seen.p[None]).all(-1).any()
    twice = held.repeated(2)
    np.testing.assert_array_equal(twice.p[9:], held.p)


def _lived(tir: float, below: float) -> Lived:
    def each(value: float) -> dict[str, np.ndarray]:
        return {c.value: np.full(2, value) for c in Cohort}

    return Lived(each(tir), each(below), each(0.0), dict.fromkeys([c.value for c in Cohort], 0))


def test_gain_at_the_same_time_below_range() -> None:
    bench = Bench(Report("test"), _SIZES, load_spec("glucose"))
    bench.adaptive = {"clock": [_lived(80.0, 0.2), _lived(84.0, 1.0)]}
    bench.plain = {"clock": _lived(86.0, 2.0)}
    assert bench.over_adaptive(_lived(90.0, 0.6), "adult", "clock") == pytest.approx(8.0)
    assert bench.over_adaptive(_lived(90.0, 3.0), "adult", "clock") == pytest.approx(6.0)
    assert bench.over_plain(_lived(90.0, 0.6), "adult", "clock") == pytest.approx(4.0)


def test_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(control_glucose, "QUICK", _SIZES)
    monkeypatch.setattr(control_glucose, "_FOLDER", tmp_path)
    report = Report("control: glucose")
    measure(report, quick=True)
    assert report.notes[0] == DISCLAIMER
    assert len(report.tables) == 3
    assert all(np.isfinite(float(str(row[3]).split(" ")[0])) for _, _, rows in report.tables for row in rows)
    assert len(report.bars) == 3 * 3 * 6 + 2
    off = [row for row in report.tables[2][2] if row[1] == "guardrails off"]
    assert all(row[4] > 10.0 for row in off)  # the attack is real
