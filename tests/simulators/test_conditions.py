"""Conditions: what happens comes from the scenario and the seed alone, inside its ranges, when it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plant.errors import SpecError
from plant.spec import load_spec
from simulators.conditions import Schedule, Steady
from simulators.drawn import Drawn, draw_path
from simulators.plant import SimulatedPlant
from simulators.reactor import BareReactor, DressedReactor
from simulators.scenario import Scenario, Signal, scenario_of

REACTOR = BareReactor()
SPEC = load_spec("reactor")
FEED, UA, K0 = 0, 0, 1


def scenario(**parts) -> Scenario:
    return scenario_of({"name": "test", "description": "", "duration_s": 3600.0, **parts})


def started(conditions, batch: int, seed: int = 0):
    conditions.start(REACTOR, batch, np.random.default_rng(seed))
    return conditions


def history(conditions: Steady, steps: int, dt_s: float) -> np.ndarray:
    """d after each step: steps x batch x n_d."""
    out = []
    for _ in range(steps):
        conditions.advance(dt_s)
        out.append(conditions.d.copy())
    return np.stack(out)


def test_steady_changes_nothing() -> None:
    steady = started(Steady(), 3)
    assert (history(steady, 5, 1e4) == np.array(REACTOR.d0)).all()
    assert (steady.p == 1.0).all()
    assert steady.p.shape == (3, 2)


def test_schedule_holds_each_level_until_the_next() -> None:
    levels = np.tile(REACTOR.d0, (3, 2, 1)).astype(float)
    levels[1, :, FEED], levels[2, 0, FEED] = 360.0, 365.0
    schedule = started(Schedule(np.array([0.0, 26.0, 78.0]), levels), 2)
    seen = [schedule.d[:, FEED].tolist(), *history(schedule, 4, 26.0)[..., FEED].tolist()]
    assert seen == [[350.0, 350.0], [360.0, 360.0], [360.0, 360.0], [365.0, 350.0], [365.0, 350.0]]


RANDOM = {"disturbances": {"Ti": {"random": {"range": [340, 370], "hold_s": 600, "rest": 0.25}}}}


def test_random_levels_come_from_the_seed_and_stay_inside() -> None:
    def path(seed: int) -> np.ndarray:
        return history(started(Drawn(scenario(**RANDOM)), 200, seed), 100, 60.0)

    one = path(1)
    np.testing.assert_array_equal(one, path(1))
    assert (one != path(2)).any()
    feed = one[..., FEED]
    assert 340.0 <= feed.min() < 345.0
    assert 365.0 < feed.max() <= 370.0
    assert (one[..., 1:] == np.array(REACTOR.d0)[1:]).all()


def test_random_levels_hold_for_the_mean_time_and_rest_by_their_share() -> None:
    steps, dt = 400, 30.0
    feed = history(started(Drawn(scenario(**RANDOM)), 200), steps, dt)[..., FEED]
    changes = (np.diff(feed, axis=0) != 0).sum()
    expected = 200 * steps * dt / 600.0 * (1 - 0.25**2)  # a draw from rest to rest shows no change
    assert changes == pytest.approx(expected, rel=0.05)
    assert (feed[100:] == 350.0).mean() == pytest.approx(0.25, abs=0.02)


def test_parameters_differ_by_plant_and_wear_by_the_hour() -> None:
    worn = started(
        Drawn(scenario(parameters={"UA": {"factor": [0.8, 0.9], "clean": 0.5}, "k0": {"loss_per_h": 0.1}})), 2000
    )
    clean = worn.p[:, UA] == 1.0
    assert clean.mean() == pytest.approx(0.5, abs=0.04)
    assert worn.p[~clean, UA].min() >= 0.8
    assert worn.p[~clean, UA].max() <= 0.9
    for _ in range(120):
        worn.advance(60.0)
    np.testing.assert_allclose(worn.p[:, K0], 0.81, rtol=1e-9)


def path(signal: dict, batch: int = 1, usual: float = 5.0, seed: int = 0):
    return draw_path(Signal.model_validate(signal), usual, batch, np.random.default_rng(seed))


def test_steps_hold_and_ramps_are_straight() -> None:
    steps = path({"steps": [[10, 1.0], [20, 2.0]]})
    assert [steps.at(t)[0] for t in (0, 9.9, 10, 19, 20, 1e6)] == [5.0, 5.0, 1.0, 1.0, 2.0, 2.0]
    ramp = path({"ramp": [[0, 0.0], [100, 35.0], [200, 35.0], [300, 5.0]]})
    assert [round(ramp.at(t)[0], 9) for t in (0, 50, 100, 150, 250, 400)] == [0.0, 17.5, 35.0, 35.0, 20.0, 5.0]
    late = path({"ramp": [[100, 1.0], [200, 3.0]]})
    assert [late.at(t)[0] for t in (0, 99, 100, 150)] == [5.0, 5.0, 1.0, 2.0]


def test_ranges_are_drawn_once_a_plant() -> None:
    steps = path({"steps": [[[10, 20], [100, 200]]]}, 500)
    at = np.array([steps.at(t) for t in np.linspace(0, 30, 301)])
    jumps = (at != 5.0).argmax(0) / 10
    assert 10 <= jumps.min() < 11
    assert 19 < jumps.max() <= 20.1
    assert (np.diff(at[202:], axis=0) == 0).all(), "a plant keeps its level"
    assert at[-1].std() > 20


def test_meals_of_a_scenario_are_eaten_told_and_eaten_again() -> None:
    """S1 is 45/70/15/80/10 g; what is told carries the counting error; the second day is the first."""
    glucose = load_spec("glucose")
    day = scenario(timetable={"meals": "S1", "counting_sd": 0.2}, population={"cohort": "child", "split": "held_out"})
    day = day.model_copy(update={"duration_s": 86400.0})
    plant = SimulatedPlant(glucose, 3, 2, Drawn(day))
    eaten, told = [], []
    for k in range(2 * 1440):
        eaten.append(plant.d[:, 0].copy())
        if k % 5 == 0:
            told.append(plant.d[:, 2].copy())
        plant.conditions.advance(60.0)
    eaten, told = np.array(eaten), np.array(told)
    np.testing.assert_allclose(eaten[:1440].sum(0), 220.0)
    np.testing.assert_array_equal(eaten[:1440], eaten[1440:])
    assert eaten.max() == 5.0
    assert (told > 0).sum(0).tolist() == [10, 10]
    assert 0 < abs(told[:288].sum(0) - 220.0).min() < 120.0
    assert np.ptp(plant.p, axis=0).max() > 0, "two children, not one twice"
    with pytest.raises(SpecError, match="unknown drinks"):
        SimulatedPlant(glucose, 3, 1, Drawn(scenario(timetable={"drinks": "S1"})))
    with pytest.raises(SpecError, match="no meal scenario 'S9'"):
        SimulatedPlant(glucose, 3, 1, Drawn(scenario(timetable={"meals": "S9"})))


def test_start_states_are_spread_and_some_are_rare() -> None:
    start = {"states": {"Ca": [0.7, 0.9]}, "rare": {"T": [340, 350]}, "rare_share": 0.2}
    plant = SimulatedPlant(SPEC, 1, 2000, Drawn(scenario(start=start)))
    hot = plant.x[:, 1] > 330.0
    assert hot.mean() == pytest.approx(0.2, abs=0.03)
    assert np.ptp(plant.x[~hot, 0]) > 0.19
    assert (plant.x[hot, 0] == DressedReactor.x0[0]).all(), "what a start does not name is as usual"


def sensed(faults: list[dict], minutes: int = 10) -> np.ndarray:
    """TI101 of a plant at rest, without noise, once a minute."""
    plant = SimulatedPlant(SPEC, 0, 1, Drawn(scenario(sensors=faults)), noise=0.0)
    out = [plant.measure()["TI101"][0]]
    for _ in range(minutes):
        plant.advance(plant.moves + 0.2, 60.0)
        out.append(plant.measure()["TI101"][0])
    return np.array(out)


def test_sensor_faults_do_what_they_are_called() -> None:
    true = sensed([])
    assert (np.diff(true) != 0).all()
    when = {"tag": "TI101", "at_s": 120, "for_s": 240}
    on = np.arange(11) * 60.0
    on = (on >= 120) & (on < 360)
    np.testing.assert_allclose(sensed([{**when, "fault": "bias", "size": 3.0}]), true + 3.0 * on)
    drift = sensed([{**when, "fault": "drift", "size": 60.0}]) - true
    np.testing.assert_allclose(drift, np.where(on, np.arange(11) - 2.0, 0.0), atol=1e-9)
    frozen = sensed([{**when, "fault": "freeze"}])
    assert (frozen[2:6] == true[1]).all()
    np.testing.assert_array_equal(frozen[~on], true[~on])
    dropped = sensed([{**when, "fault": "dropout"}])
    np.testing.assert_array_equal(np.isnan(dropped), on)


def test_a_fault_strikes_its_share_of_the_plants() -> None:
    fault = {"tag": "TI101", "fault": "dropout", "share": 0.3}
    plant = SimulatedPlant(SPEC, 0, 1000, Drawn(scenario(sensors=[fault])))
    assert np.isnan(plant.measure()["TI101"]).mean() == pytest.approx(0.3, abs=0.05)


def moved(faults: list[dict]) -> np.ndarray:
    """The move that reaches the plant while 1 K a sample is asked for."""
    plant = SimulatedPlant(SPEC, 0, 1, Drawn(scenario(actuators=faults)), noise=0.0)
    out = []
    for k in range(8):
        plant.advance(np.array([[300.0 + k]]), 30.0)
        out.append(plant.moves[0, 0])
    return np.array(out)


def test_actuators_stick_and_slow_down() -> None:
    asked = 300.0 + np.arange(8)
    np.testing.assert_array_equal(moved([]), asked)
    stuck = moved([{"mv": "TC101", "fault": "stuck", "at_s": 60, "for_s": 90}])
    assert stuck.tolist() == [300.0, 301.0, 301.0, 301.0, 301.0, 305.0, 306.0, 307.0]
    slow = moved([{"mv": "TC101", "fault": "slow", "lag_s": 30.0}])
    share = 1 - np.exp(-1.0)
    assert slow[1] == pytest.approx(300.0 + share)
    assert (np.diff(slow) > 0).all()
    assert (slow[1:] < asked[1:]).all()


def test_set_points_follow_their_signal() -> None:
    drawn = started(Drawn(scenario(set_points={"AI101": {"steps": [[60, 0.9], [120, 0.85]]}})), 2)
    seen = [drawn.set_points()["AI101"][0]]
    for _ in range(3):
        drawn.advance(60.0)
        seen.append(drawn.set_points()["AI101"][0])
    assert np.isnan(seen[0])
    assert seen[1:] == [0.9, 0.85, 0.85]
    assert drawn.set_points(60.0)["AI101"].tolist() == [0.9, 0.9], "any time can be asked for, as a preview does"


def test_the_record_of_a_run_holds_what_made_it() -> None:
    told = json.loads(SimulatedPlant(SPEC, 7, 1, Drawn(scenario(**RANDOM)), noise=2.0).facts())
    assert (told["seed"], told["noise"], told["simulator"]) == (7, 2.0, "reactor")
    assert scenario_of(told["scenario"]) == scenario(**RANDOM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": Schedule(parameters=np.full((1, 2), 9.0))}, r"parameter UA is 9..9.*\[0.2, 3\]"),
        ({"conditions": Schedule(parameters=np.full((1, 2), np.nan))}, "parameters is not finite"),
        ({"conditions": Schedule(levels=np.full((1, 1, 3), 900.0))}, r"disturbance Ti is 900.*\[280, 420\]"),
        ({"conditions": Schedule(levels=np.full((1, 2, 3), 350.0))}, r"disturbances has shape \(2, 3\).*\(1, 3\).*Caf"),
        ({"x0": np.zeros((1, 2))}, r"x0 has shape \(1, 2\).*Ca, T, Tc"),
        ({"conditions": Drawn(scenario(population={"cohort": "adult"}))}, "DressedReactor has no population"),
        ({"conditions": Drawn(scenario(timetable={"meals": "S1"}))}, "DressedReactor has no timetable"),
    ],
)
def test_a_plant_that_does_not_fit_its_conditions_is_refused(change: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SimulatedPlant(SPEC, **change)
