"""Disturbances: seeded, inside their ranges, with the holds and shares they promise."""

from __future__ import annotations

import numpy as np

from simulators.disturbances import RandomSteps, Schedule, Steady
from simulators.reactor import BareReactor

REACTOR = BareReactor()
FEED, UA, K0 = 0, 0, 1


def started(disturbance: Steady, batch: int, seed: int = 0) -> Steady:
    disturbance.start(REACTOR, batch, np.random.default_rng(seed))
    return disturbance


def history(disturbance: Steady, steps: int, dt_s: float) -> np.ndarray:
    """d after each step: steps x batch x n_d."""
    out = []
    for _ in range(steps):
        disturbance.advance(dt_s)
        out.append(disturbance.d.copy())
    return np.stack(out)


def test_steady_changes_nothing() -> None:
    steady = started(Steady(), 3)
    path = history(steady, 5, 1e4)
    assert (path == np.array(REACTOR.d0)).all()
    assert (steady.p == 1.0).all()
    assert steady.p.shape == (3, 2)


def test_random_steps_come_from_the_seed() -> None:
    def path(seed: int) -> np.ndarray:
        return history(started(RandomSteps(levels={"Ti": (340.0, 370.0)}), 4, seed), 50, 60.0)

    np.testing.assert_array_equal(path(1), path(1))
    assert (path(1) != path(2)).any()


def test_random_steps_stay_inside_and_leave_the_rest_alone() -> None:
    path = history(started(RandomSteps(levels={"Ti": (340.0, 370.0)}), 200), 100, 60.0)
    feed = path[..., FEED]
    assert feed.min() >= 340.0
    assert feed.max() <= 370.0
    assert feed.max() > 365.0
    assert feed.min() < 345.0
    assert (path[..., 1:] == np.array(REACTOR.d0)[1:]).all()


def test_random_steps_hold_for_the_mean_time_and_rest_by_their_share() -> None:
    steps, dt = 400, 30.0
    feed = history(started(RandomSteps(levels={"Ti": (340.0, 370.0)}, hold_s=600.0, rest=0.25), 200), steps, dt)[
        ..., FEED
    ]
    changes = (np.diff(feed, axis=0) != 0).sum()
    # A draw from rest to rest shows no change: 1/16 of the expected holds.
    expected = 200 * steps * dt / 600.0 * (1 - 0.25**2)
    assert 0.9 * expected < changes < 1.1 * expected
    assert abs((feed[steps // 2 :] == REACTOR.d0[FEED]).mean() - 0.25) < 0.05


def test_random_parameters_differ_by_plant_and_some_stay_clean() -> None:
    wide = started(RandomSteps(parameters={"UA": (0.8, 0.9)}, clean=0.3), 2000)
    ua = wide.p[:, UA]
    assert abs((ua == 1.0).mean() - 0.3) < 0.05
    dirty = ua[ua != 1.0]
    assert dirty.min() >= 0.8
    assert dirty.max() <= 0.9
    assert len(np.unique(dirty)) == len(dirty)
    assert (wide.p[:, K0] == 1.0).all()
    wide.advance(1e5)
    np.testing.assert_array_equal(wide.p[:, UA], ua)


def test_drift_is_a_factor_an_hour_whatever_the_step() -> None:
    fine, coarse = (started(RandomSteps(drift_per_h={"UA": 0.1}), 2) for _ in range(2))
    history(fine, 720, 10.0)
    history(coarse, 2, 3600.0)
    np.testing.assert_allclose(fine.p[:, UA], 0.9**2)
    np.testing.assert_allclose(coarse.p[:, UA], 0.9**2)
    assert (fine.p[:, K0] == 1.0).all()


def test_schedule_is_seen_at_its_times() -> None:
    levels = np.zeros((3, 2, 3))
    levels[..., FEED] = [[350.0, 351.0], [360.0, 361.0], [370.0, 371.0]]
    parameters = np.array([[0.9, 1.0], [1.0, 0.8]])
    schedule = started(Schedule(np.array([0.0, 26.0, 52.0]), levels, parameters), 2)
    np.testing.assert_array_equal(schedule.d[:, FEED], [350.0, 351.0])
    np.testing.assert_array_equal(schedule.p, parameters)
    path = history(schedule, 39, 2.0)[..., FEED]
    assert (path[:12, 0] == 350.0).all(), "until 24 s"
    assert (path[12:25, 0] == 360.0).all(), "from 26 s, the end of the 13th step, in spite of rounding"
    assert (path[25:, 1] == 371.0).all(), "the last level is held"


def test_schedule_in_thirds_of_a_sample_meets_its_time() -> None:
    """26 s in steps that do not add up exactly in floating point."""
    levels = np.full((2, 1, 3), 350.0)
    levels[1, 0, FEED] = 370.0
    schedule = started(Schedule(np.array([0.0, 26.0]), levels), 1)
    path = history(schedule, 3, 26.0 / 3)[:, 0, FEED]
    np.testing.assert_array_equal(path, [350.0, 350.0, 370.0])
    assert (schedule.p == 1.0).all()


def test_schedule_starts_again() -> None:
    levels = np.full((2, 1, 3), 350.0)
    levels[1] = 360.0
    schedule = started(Schedule(np.array([0.0, 10.0]), levels), 1)
    schedule.advance(20.0)
    assert schedule.d[0, FEED] == 360.0
    schedule.start(REACTOR, 1, np.random.default_rng(0))
    assert schedule.d[0, FEED] == 350.0
