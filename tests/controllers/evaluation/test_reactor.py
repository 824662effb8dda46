"""Scores and violations, on trajectories worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Status
from controllers.evaluation.closed_loop import Trajectories
from controllers.evaluation.reactor import EFFORT_RANGE, SafetyScenario, safety, tracking, violations
from plant.spec import PlantSpec, load_spec

SAMPLES = 60


@pytest.fixture(scope="module")
def bare() -> PlantSpec:
    return load_spec("reactor_bare")


def pid(spec: PlantSpec) -> PidController:
    return PidController(spec, (PidLoop(pv="Ca", mv="Tc", gain=-40.0, integral_s=120.0),))


def scenario_of(feed: np.ndarray) -> SafetyScenario:
    """`feed` (60 x runs); everything else usual."""
    runs = feed.shape[1]
    return SafetyScenario(
        feed, np.ones((runs, 2)), np.tile([0.87, 324.5], (runs, 1)), np.full((SAMPLES, runs), 0.87), 0
    )


def trajectories(peak: np.ndarray, fallback: np.ndarray) -> Trajectories:
    """`peak`, `fallback` (runs x 60) K; nothing else is looked at."""
    runs, n = peak.shape
    empty = np.zeros((runs, n, 1))
    return Trajectories(
        true={}, worst={"high_temperature": peak}, measured=empty, dvs=empty, applied=empty, moves=empty, fallback=fallback[..., None],
        solve_s=np.zeros(n), status=[(Status.FEASIBLE,) * runs] * n, targets=empty,
    )  # fmt: skip


def test_violations_and_which_were_avoidable(bare: PlantSpec) -> None:
    """Five runs: never over; over though full cooling at the last disturbance would have held; over with nothing that
    would have held; lost by a second disturbance that came after a first that was not; over before any disturbance."""
    feed = np.full((SAMPLES, 5), 350.0)
    feed[10:, 1:4] = 365.0
    feed[20:, 3] = 370.0
    peak, fallback = np.full((5, SAMPLES), 330.0), np.full((5, SAMPLES), 335.0)
    peak[0, 30] = 350.0  # at the limit is not past it
    peak[1, 15] = 350.1
    fallback[1, 12:] = 400.0  # recoverable at the step (sample 10), lost by waiting
    peak[2, 15] = 360.0
    fallback[2, 10:] = 400.0
    peak[3, 25] = 360.0
    fallback[3, 20:] = 400.0
    peak[4, 5] = 351.0
    broke, avoidable = violations(bare, trajectories(peak, fallback), scenario_of(feed))
    assert broke.tolist() == [False, True, True, True, True]
    assert avoidable.tolist() == [False, True, False, False, True]


def test_a_disturbance_after_the_violation_excuses_nothing(bare: PlantSpec) -> None:
    feed = np.full((SAMPLES, 1), 350.0)
    feed[30:] = 370.0
    peak, fallback = np.full((1, SAMPLES), 330.0), np.full((1, SAMPLES), 400.0)
    peak[0, 20] = 355.0
    fallback[0, 0] = 340.0
    _, avoidable = violations(bare, trajectories(peak, fallback), scenario_of(feed))
    assert avoidable.tolist() == [True]


def test_a_disturbance_at_the_sample_of_the_violation_counts(bare: PlantSpec) -> None:
    """It happened before the interval in which the limit was passed."""
    feed = np.full((SAMPLES, 1), 350.0)
    feed[20:] = 370.0
    peak, fallback = np.full((1, SAMPLES), 330.0), np.full((1, SAMPLES), 340.0)
    peak[0, 20] = 355.0
    fallback[0, 20:] = 400.0
    _, avoidable = violations(bare, trajectories(peak, fallback), scenario_of(feed))
    assert avoidable.tolist() == [False]


def test_only_the_first_rank_counts() -> None:
    dressed = load_spec("reactor")
    assert [g.rank for g in dressed.guardrails] == [1, 2]
    peak = np.full((1, SAMPLES), 340.0)  # above the operating limit, below the trip
    runs = trajectories(peak, np.full((1, SAMPLES), 345.0))
    broke, _ = violations(dressed, runs, scenario_of(np.full((SAMPLES, 1), 350.0)))
    assert not broke.any()


@pytest.mark.parametrize(("score", "levels"), [("A", (0.85, 0.90, 0.87)), ("B", (0.86, 0.89, 0.86))])
def test_score_is_the_published_sum(bare: PlantSpec, score: str, levels: tuple[float, ...]) -> None:
    value, runs = tracking(bare, pid(bare), score, preview=False, noise=0.0)
    goal = np.repeat(levels, 20)
    by_hand = 0.0
    for k in range(SAMPLES):
        u = (runs.moves[0, k, 0] - EFFORT_RANGE[0]) / (EFFORT_RANGE[1] - EFFORT_RANGE[0])
        by_hand -= abs(runs.true["Ca"][0, k + 1] - goal[k]) / 0.3 + 0.001 * u**2
    assert value.shape == (1,)
    assert value[0] == pytest.approx(by_hand, rel=1e-9)
    assert runs.true["Ca"][0, 0] == {"A": 0.80, "B": 0.85}[score]
    assert runs.true["T"][0, 0] == 330.0
    assert (runs.moves >= EFFORT_RANGE[0]).all()
    assert (runs.moves <= EFFORT_RANGE[1]).all()


def test_scenarios_come_from_their_seed_and_stay_inside_what_they_promise() -> None:
    one, again, other = SafetyScenario.draw(20, 1), SafetyScenario.draw(20, 1), SafetyScenario.draw(20, 2)
    np.testing.assert_array_equal(one.feed, again.feed)
    assert (one.feed != other.feed).any()
    assert one.feed.min() == 350.0
    assert 350.0 < one.feed.max() <= 370.0
    steps = (np.diff(one.feed, axis=0) != 0).sum(0)
    assert steps.min() >= 1
    assert steps.max() <= 3
    assert one.parameters[:, 0].min() >= 0.85
    assert one.parameters[:, 0].max() <= 1.0
    first = one.first(3)
    np.testing.assert_array_equal(first.feed, one.feed[:, :3])
    np.testing.assert_array_equal(first.targets, one.targets[:, :3])
    assert first.x0.shape == (3, 2)


def test_a_scenario_is_lived_by_the_plants(bare: PlantSpec) -> None:
    """The feed each run was promised is the one it meets, and losing control of it is counted."""
    feed = np.full((SAMPLES, 2), 350.0)
    feed[8:, 1] = 370.0
    scenario = scenario_of(feed)
    runs = safety(bare, pid(bare), scenario)
    np.testing.assert_array_equal(runs.true["Ti"][:, :SAMPLES], feed.T)
    assert np.isfinite(runs.fallback).all()
    broke, avoidable = violations(bare, runs, scenario)
    assert not broke[0]
    assert broke[1], "a PID on the concentration does not see it coming"
    assert avoidable[1] == (runs.fallback[1, 8, 0] < 350.0)


def test_shifted_runs_are_what_they_promise(bare: PlantSpec) -> None:
    one, again = (SafetyScenario.shifted(30, 4, 0.15, (0.01, 1.0)) for _ in range(2))
    np.testing.assert_array_equal(one.levels, again.levels)
    assert np.abs(one.parameters - 1).max() <= 0.15
    assert np.abs(one.feed - 350).max() <= 5
    changes = (np.diff(one.levels, axis=0) != 0).any(2)
    assert (changes.sum(0) == 1).all()
    assert SafetyScenario.shifted(3, 4).bias is None
    part = one.first(2)
    assert part.bias is not None
    assert part.levels.shape == (80, 2, 3)
    reading, true = part.plant(bare, noise=0.0).measure(), part.x0
    np.testing.assert_allclose(reading["Ca"] - true[:, 0], part.bias[:, 0], atol=1e-12)
    np.testing.assert_allclose(reading["T"] - true[:, 1], part.bias[:, 1], atol=1e-12)


def test_what_can_be_reached_and_what_cannot(bare: PlantSpec) -> None:
    """UA * .7 wants a coolant below 290 K at .85 mol/L; the usual reactor rests at its usual state."""
    runs = 3
    scenario = SafetyScenario(
        np.full((SAMPLES, runs), 350.0), np.array([[1.0, 1.0], [0.7, 1.0], [1.0, 1.0]]),
        np.tile([0.87, 324.5], (runs, 1)), np.tile([0.87, 0.85, 0.2], (SAMPLES, 1)), 0,
    )  # fmt: skip
    assert scenario.reachable(bare).tolist() == [True, False, False]
