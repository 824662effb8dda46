"""The reactor as a plant: dead time, noise, the valve, and the label nobody can measure."""

from __future__ import annotations

import numpy as np
import pytest

from plant.errors import SpecError
from plant.process import Process
from plant.spec import Guardrail, PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.registry import simulator_of
from simulators.scenario import scenario_of
from simulators.stepping import ErrorControlled

DRESSED, BARE = load_spec("reactor"), load_spec("reactor_bare")
MOVE = np.array([[300.0]])


def test_is_a_process() -> None:
    plant: Process = SimulatedPlant(DRESSED, batch=2)
    assert plant.batch == 2
    assert set(plant.measure()) == {t.name for t in DRESSED.online if t.move is None}
    assert all(v.shape == (2,) for v in plant.measure().values())


def test_analyser_reports_the_past() -> None:
    """AI101 reads the concentration of 26 s ago, every other sensor the present."""
    plant = SimulatedPlant(DRESSED, noise=0.0)
    truth = [plant.true_outputs()["AI101"][0]]
    for _ in range(40):
        plant.advance(np.array([[309.0]]), 2.0)
        truth.append(plant.true_outputs()["AI101"][0])
        reading = plant.measure()
        assert reading["TI101"][0] == plant.true_outputs()["TI101"][0]
        assert reading["AI101"][0] == truth[max(0, len(truth) - 1 - 13)], "13 scans of 2 s"
    assert abs(truth[-1] - truth[-14]) > 1e-3, "something moved, so the delay showed"


@pytest.mark.parametrize("dt_s", [26.0, 26.0 / 13, 26.0 / 7])
def test_dead_time_does_not_depend_on_the_step(dt_s: float) -> None:
    plant = SimulatedPlant(DRESSED, noise=0.0)
    before = plant.true_outputs()["AI101"][0]
    for _ in range(round(26.0 / dt_s)):
        plant.advance(np.array([[309.0]]), dt_s)
    assert plant.measure()["AI101"][0] == before
    after = plant.true_outputs()["AI101"][0]
    for _ in range(round(26.0 / dt_s)):
        plant.advance(np.array([[309.0]]), dt_s)
    np.testing.assert_allclose(plant.measure()["AI101"][0], after, rtol=1e-12)


def test_noise_comes_from_the_seed_with_the_spread_of_the_spec() -> None:
    def readings(seed: int, noise: float = 1.0) -> dict[str, np.ndarray]:
        return SimulatedPlant(DRESSED, seed, 4000, noise=noise).measure()

    one, again, other = readings(3), readings(3), readings(4)
    for tag in (t for t in DRESSED.online if t.move is None):
        np.testing.assert_array_equal(one[tag.name], again[tag.name])
        assert (one[tag.name] != other[tag.name]).any()
        assert abs(one[tag.name].std() / tag.noise - 1) < 0.1
        np.testing.assert_allclose(readings(3, 2.0)[tag.name].std() / one[tag.name].std(), 2.0, rtol=1e-6)
        assert readings(3, 0.0)[tag.name].std() == 0.0


def test_noise_does_not_touch_the_plant() -> None:
    quiet, loud = SimulatedPlant(DRESSED, 1, noise=0.0), SimulatedPlant(DRESSED, 1, noise=5.0)
    for plant in (quiet, loud):
        for _ in range(5):
            plant.measure()
            plant.advance(MOVE, 2.0)
    np.testing.assert_array_equal(quiet.x, loud.x)
    assert quiet.time_s == 10.0


def test_coolant_slews_at_a_kelvin_a_second() -> None:
    plant = SimulatedPlant(DRESSED, noise=0.0)
    path = [plant.x[0, 2]]
    for _ in range(20):
        plant.advance(np.array([[310.0]]), 1.0)
        path.append(plant.x[0, 2])
    steps = np.diff(path)
    assert steps.max() <= 1.0 + 1e-6
    np.testing.assert_allclose(steps[:3], 1.0, rtol=1e-6)
    assert path[-1] > 309.0


def brute_force(plant: SimulatedPlant, safe: float, horizon_s: float, ceiling: float) -> np.ndarray:
    """The same question asked of a copy of the plant, in steps of a fifth of a second."""
    copy = SimulatedPlant(
        plant.spec, 0, plant.batch, noise=0.0, x0=plant.x, stepper=ErrorControlled(plant.simulator, 1e-9, 1e-11)
    )
    copy.conditions.d, copy.conditions.p = plant.d.copy(), plant.p.copy()
    top = copy.true_outputs()["TI101"].copy()
    for _ in range(round(horizon_s / 0.2)):
        copy.advance(np.full((plant.batch, 1), safe), 0.2)
        np.fmax(top, copy.true_outputs()["TI101"], out=top)
    return np.minimum(top, ceiling)


def test_fallback_worst_of_a_maximum_against_brute_force() -> None:
    """From calm to lost, feed and fouling as they are now; a lost plant reads the ceiling."""
    x0 = np.array([[0.877, 324.5, 300.0], [0.85, 335.0, 303.0], [0.85, 339.0, 303.0], [0.88, 340.0, 305.0],
                   [0.9, 348.0, 305.0], [0.8, 336.0, 299.0]])  # fmt: skip
    levels = np.tile([350.0, 1.0, 100.0], (1, 6, 1))
    levels[0, 5, 0] = 368.0
    parameters = np.ones((6, 2))
    parameters[2, 0] = 0.9
    plant = SimulatedPlant(DRESSED, 0, 6, Schedule(np.zeros(1), levels, parameters), x0=x0)
    before = plant.x.copy()
    peak = plant.fallback_worst([DRESSED.guardrails[0].model_copy(update={"fallback_s": 300.0})])[:, 0]
    expected = brute_force(plant, 290.0, 300.0, 400.0)
    assert (peak < 350.0).any()
    assert (peak == 400.0).any()
    np.testing.assert_allclose(peak, expected, atol=0.1)
    assert (peak >= x0[:, 1] - 1e-9).all()
    np.testing.assert_array_equal(plant.x, before, err_msg="asking changes nothing")
    assert plant.time_s == 0.0


def test_batch_members_live_their_own_lives() -> None:
    together = SimulatedPlant(BARE, 0, 3, noise=0.0)
    moves = np.array([[295.0], [300.0], [304.0]])
    for _ in range(10):
        together.advance(moves, 26.0)
    for i in range(3):
        alone = SimulatedPlant(BARE, 0, 1, noise=0.0)
        for _ in range(10):
            alone.advance(moves[i : i + 1], 26.0)
        np.testing.assert_allclose(alone.x[0], together.x[i], rtol=1e-5)


def test_disturbance_reaches_the_plant_and_its_sensor() -> None:
    levels = np.tile([350.0, 1.0, 100.0], (2, 1, 1))
    levels[1, 0, 0] = 370.0
    plant = SimulatedPlant(DRESSED, 0, 1, Schedule(np.array([0.0, 26.0]), levels), noise=0.0)
    calm = SimulatedPlant(DRESSED, 0, 1, noise=0.0)
    for p in (plant, calm):
        p.advance(MOVE, 26.0)
    assert plant.measure()["TI100"][0] == 370.0
    np.testing.assert_array_equal(plant.x, calm.x, err_msg="what changes at a sample acts after it")
    for p in (plant, calm):
        p.advance(MOVE, 26.0)
    assert plant.x[0, 1] > calm.x[0, 1] + 1.0


def changed(**fields) -> PlantSpec:
    return DRESSED.model_copy(update=fields)


def test_a_spec_the_simulator_cannot_serve_is_refused() -> None:
    with pytest.raises(SpecError, match=r"'kettle' is not a simulator.*Known simulators: reactor"):
        simulator_of(changed(simulator="kettle"))
    with pytest.raises(SpecError, match="None is not a simulator"):
        SimulatedPlant(changed(simulator=None))
    renamed = [t.model_copy(update={"name": "TI999"}) if t.name == "TI100" else t for t in DRESSED.tags]
    with pytest.raises(SpecError, match=r"no output TI999.*TI100"):
        SimulatedPlant(changed(tags=tuple(renamed)))
    other = [t.model_copy(update={"name": "TC999"}) if t.move else t for t in DRESSED.tags]
    with pytest.raises(SpecError, match=r"the MVs are \['TC999'\].*TC101"):
        SimulatedPlant(changed(tags=tuple(other)))


def lived(plant: SimulatedPlant, guards: list[Guardrail], seconds: float, step_s: float) -> np.ndarray:
    """The worst true values if the plant itself now goes to its safe moves at their rate limits and lives on."""
    move = plant.spec.mvs[0].move
    assert move is not None
    sign, moves = np.array([g.sign for g in guards]), plant.moves.copy()

    def true() -> np.ndarray:
        return np.stack([plant.true_outputs()[g.tag] for g in guards], 1)

    worst = sign * true()
    for _ in range(round(seconds / step_s)):
        moves = np.clip(move.safe, moves - move.rate_per_s * step_s, moves + move.rate_per_s * step_s)
        plant.advance(moves, step_s)
        worst = np.maximum(worst, sign * true())
    return sign * worst


def test_fallback_worst_of_a_minimum_finishes_the_meal_that_has_begun() -> None:
    """Asked in the middle of a dinner with its bolus too large, right or missing: four hours without another meal."""
    spec = load_spec("glucose")
    facts = {
        "name": "dinner",
        "description": "",
        "duration_s": 86400,
        "population": {"cohort": "adult"},
        "timetable": {"meals": "S1"},
    }
    plant = SimulatedPlant(spec, 3, 9, Drawn(scenario_of(facts)), noise=0.0)
    basal = plant.moves.copy()
    while plant.time_s < 18.1 * 3600:
        dose = np.resize([0.0, 40.0, 85.0], 9)[:, None] * (plant.time_s >= 17.9 * 3600)
        plant.advance(basal + dose, 60.0)
    assert (plant.d[:, 0] > 0).all(), "they are eating"
    before = plant.x.copy()
    guard = spec.guardrails[0].model_copy(update={"fallback_s": 4 * 3600.0})
    asked = plant.fallback_worst([guard])[:, 0]
    np.testing.assert_array_equal(plant.x, before, err_msg="asking changes nothing")
    expected = lived(plant, [guard], guard.fallback_s, 60.0)[:, 0]
    assert (expected < 54.0).any()
    assert (expected > 54.0).any()
    np.testing.assert_allclose(asked, expected, atol=0.2)


def test_fallback_worst_stops_where_the_label_does() -> None:
    spec = load_spec("glucose")
    plant = SimulatedPlant(spec, 0, 1, noise=0.0)
    for _ in range(15):
        plant.advance(np.array([[90.0]]), 60.0)
    for low in (30.0, 45.0):
        tags = tuple(t.model_copy(update={"range": (low, 600.0)}) if t.name == "CGM_off" else t for t in spec.tags)
        plant.spec = spec.model_copy(update={"tags": tags})
        assert plant.fallback_worst(spec.guardrails[:1])[0, 0] == low


def test_fallback_worst_of_an_engine_takes_fuel_away_at_its_rate() -> None:
    """In the middle of accelerations and decelerations, a maximum beside two minima."""
    spec = load_spec("turbofan")
    plant = SimulatedPlant(spec, 0, 6, noise=0.0)
    for _ in range(8):
        plant.advance(plant.moves + np.array([[-0.1], [-0.05], [0.0], [0.05], [0.1], [0.1]]), 0.04)
    guards = [g for g in spec.guardrails if g.fallback_tag]
    assert [g.name for g in guards] == ["over_temperature", "lpc_surge", "hpc_surge"]
    asked, now = plant.fallback_worst(guards), plant.true_outputs()
    expected = lived(plant, guards, guards[0].fallback_s, 0.04)
    np.testing.assert_allclose(asked[:, 0], expected[:, 0], atol=4.0)
    np.testing.assert_allclose(asked[:, 1:], expected[:, 1:], atol=0.3)
    for i, guard in enumerate(guards):
        assert (guard.sign * (asked[:, i] - now[guard.tag]) >= 0).all()
    assert (asked[:, 1] < now["SM_LPC"] - 4.0).all(), "a cut of fuel loads the low-pressure compressor"
