"""Scenarios as data: each that comes with a plant fits it, and a mistake is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeostat.lockstep import rehearse
from plant.errors import SpecError
from plant.spec import builtin_plants, load_spec
from simulators.registry import simulator_of
from simulators.scenario import STEADY, Scenario, load_scenario, scenario_of, scenarios_of

SPEC = load_spec("reactor")
HEAD = "name: mine\ndescription: d\nduration_s: 60\n"


@pytest.mark.parametrize("plant", builtin_plants())
def test_every_scenario_that_comes_with_a_plant_fits_it(plant: str) -> None:
    spec = load_spec(plant)
    names = scenarios_of(spec)
    assert "steady" in names
    for name in names:
        scenario = load_scenario(name, spec)
        assert scenario.name == name
        assert scenario.description


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "disturbances: {Ti: {steps: [[10, [350, 360]]]}}\n")
    scenario = load_scenario(path, SPEC)
    assert scenario.disturbances["Ti"].steps == ((10.0, (350.0, 360.0)),)
    assert scenario_of(scenario.model_dump(mode="json", exclude_defaults=True)) == scenario, "data there and back"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disturbanses: {}\n", "disturbanses: unknown key"),
        ("disturbances: {Tj: {value: 1}}\n", "disturbances names 'Tj'; reactor has Ti, Caf, q"),
        ("disturbances: {Ti: {value: 900}}\n", r"disturbances.Ti reaches 900..900, outside \[280.0, 420.0\]"),
        ("disturbances: {Ti: {}}\n", "exactly one of value, steps, ramp, random, not none"),
        ("disturbances: {Ti: {value: 1, steps: []}}\n", "not value, steps"),
        ("disturbances: {Ti: {ramp: [[10, 350], [5, 350]]}}\n", "times of a ramp must rise"),
        ("disturbances: {Ti: {value: [360, 340]}}\n", r"\[360, 340\] is not a range"),
        ("parameters: {UB: {}}\n", "parameters names 'UB'; reactor has UA, k0"),
        ("parameters: {UA: {factor: 9}}\n", "parameters.UA reaches 9..9"),
        ("start: {states: {Cb: 1}}\n", "start names 'Cb'; reactor has Ca, T, Tc"),
        ("set_points: {TI999: {value: 1}}\n", "set_points names 'TI999'"),
        ("set_points: {TI101: {value: 9000}}\n", "set_points.TI101 reaches 9000"),
        ("sensors: [{tag: TC101, fault: dropout}]\n", "sensors.0.tag names 'TC101'"),
        ("sensors: [{tag: TI101, fault: bias}]\n", "bias and drift need a size"),
        ("sensors: [{tag: TI101, fault: tired}]\n", "sensors.0.fault.*'bias', 'drift', 'freeze' or 'dropout'"),
        ("actuators: [{mv: TI101, fault: stuck}]\n", "actuators.0.mv names 'TI101'; reactor has TC101"),
        ("actuators: [{mv: TC101, fault: slow}]\n", "slow needs lag_s"),
        ("duration_s: 60\n", "key 'duration_s' appears twice"),
    ],
)
def test_a_mistake_is_one_clear_error_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(SpecError, match=message) as caught:
        load_scenario(path, SPEC)
    assert "mine.yaml" in caught.value.where
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none_lists_those_there_are() -> None:
    with pytest.raises(SpecError, match=r"no such file.*Scenarios of reactor: steady, bad_instruments, day"):
        load_scenario("nap", SPEC)


def test_steady_is_for_every_plant() -> None:
    assert load_scenario("steady", SPEC) is STEADY
    assert Scenario.model_fields.keys() >= STEADY.model_fields_set


@pytest.mark.parametrize("plant", ["reactor", "reactor_bare", "vandevusse", "turbofan", "glucose"])
def test_operation_runs_from_start_to_end_in_the_hands_of_the_plant(plant: str) -> None:
    """A planner's margins are calibrated there: under its own loops a plant comes through, and no two runs are alike."""
    spec = load_spec(plant)
    scenario = load_scenario("operation", spec)
    runs = [rehearse(spec, scenario, seed) for seed in (1, 2)]
    for run in runs:
        assert run.reason == ""
        assert run.time_s[-1] == pytest.approx(scenario.samples(spec) * spec.sample_time_s)
    assert any((runs[0].true[t.name] != runs[1].true[t.name]).any() for t in spec.dvs)


@pytest.mark.parametrize("plant", builtin_plants())
def test_the_spec_says_how_late_a_reading_is(plant: str) -> None:
    spec = load_spec(plant)
    late = simulator_of(spec).dead_time_s
    assert {t.name: t.dead_time_s for t in spec.measured if t.dead_time_s} == {n: late[n] for n in late}
