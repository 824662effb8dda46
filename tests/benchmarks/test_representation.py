"""The detection protocol and the probe of the representation benchmark, on synthetic data."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.eastman import ONSET, Eastman, detect, sampled
from benchmarks.engines import Engines, averaged, cross_validate, handcrafted, predict


def _eastman(size: float) -> Eastman:
    rng = np.random.default_rng(0)
    faults = {i: rng.standard_normal((960, 52)) for i in range(1, 22)}
    faults[5][:ONSET] = faults[4][:ONSET]
    for run in faults.values():
        run[ONSET:] += size
    normal = {"d00": rng.standard_normal((500, 52)), "d00_te": rng.standard_normal((960, 52))}
    return Eastman(normal | {f"before {i}": r[:ONSET] for i, r in faults.items()}, faults)


def _mean(runs, _seed):
    centre = np.concatenate(runs).mean()
    return lambda run: np.abs(run.mean(1) - centre)


def test_a_fault_of_no_size_is_detected_at_the_false_alarm_rate_and_a_large_one_at_once() -> None:
    nothing = detect(_eastman(0.0), _mean, 0)
    np.testing.assert_allclose(nothing.detected.mean(1), [0.05, 0.01], rtol=0.25)
    np.testing.assert_allclose(nothing.alarms, [0.05, 0.01], rtol=0.25)
    large = detect(_eastman(3.0), _mean, 0)
    assert (large.detected == 1).all()
    assert (large.delay_min == 0).all()


def test_nothing_is_scored_by_a_detector_that_saw_it() -> None:
    data = _eastman(0.0)
    seen: list[set[bytes]] = []

    def spy(runs, _seed):
        mine = {r.tobytes() for r in runs}
        seen.append(mine)

        def score(run):
            assert run[:ONSET].tobytes() not in mine
            assert run.tobytes() not in mine
            return np.arange(len(run), dtype=float)

        return score

    detect(data, spy, 3)
    assert len(seen) == 9
    groups = data.groups(3)
    assert sorted(n for g in groups for n in g) == sorted(data.normal)
    assert any({"before 4", "before 5"} <= set(g) for g in groups)


def test_analysers_are_missing_between_their_samples() -> None:
    rows = sampled(np.ones((10, 52)))
    assert np.isfinite(rows).sum(0)[[0, 22, 35, 36, 40, 41]].tolist() == [10, 5, 5, 2, 2, 10]


def test_averages_never_look_ahead() -> None:
    rows = np.arange(5.0)[:, None]
    assert averaged(rows, 3)[:, 0].tolist() == [0, 0.5, 1, 2, 3]


def test_a_probe_reads_the_life_of_wearing_engines() -> None:
    rng = np.random.default_rng(0)

    def engine(life: int) -> np.ndarray:
        wear = np.exp(-np.arange(life)[::-1] / 40.0)[:, None]
        return wear * np.array([1.0, -2.0, 0.5]) + 0.05 * rng.standard_normal((life, 3))

    train = [engine(int(n)) for n in rng.integers(120, 250, 20)]
    life = [np.minimum(np.arange(len(e))[::-1], 125.0) for e in train]
    left = rng.integers(5, 100, 10)
    data = Engines(train, life, [engine(200)[: 200 - n] for n in left], left.astype(float))
    error, cycles, ridge = cross_validate(data, handcrafted, folds=1)
    guess = predict(data, handcrafted, 0, cycles, ridge)
    assert guess.min() >= 0
    assert guess.max() <= 125
    rmse = np.sqrt(np.mean((guess - data.truth) ** 2))
    assert rmse < 20
    assert error == pytest.approx(rmse, abs=15)
