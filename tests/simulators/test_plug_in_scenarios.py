"""Scenarios of a plant of one's own: those it need not bring, and every place where those it brings may lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from homeostat.lockstep import excitation_run, rehearse
from plant.errors import SpecError
from plant.spec import PlantSpec, load_spec
from simulators.scenario import load_scenario, scenarios_of
from tests.simulators.plug_in import LAG, installed, plant_file


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = installed(tmp_path / "site", lag="lag_plug_in:Lag", packaged="lag_package.lag:Lag")
    (site / "lag_plug_in.py").write_text(LAG)
    package = site / "lag_package"
    (package / "scenarios" / "packaged").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "lag.py").write_text(LAG)
    (package / "scenarios" / "packaged" / "storm.yaml").write_text(scenario("storm", "from the package"))
    (package / "scenarios" / "packaged" / "operation.yaml").write_text(scenario("operation", "from the package"))
    monkeypatch.syspath_prepend(str(site))
    return site


def scenario(name: str, description: str, more: str = "") -> str:
    return f"name: {name}\ndescription: {description}\nduration_s: 600\n{more}"


def of(tmp_path: Path, simulator: str) -> PlantSpec:
    return load_spec(plant_file(tmp_path / "plants", simulator=simulator))


def test_a_plant_that_brings_none_is_excited_operated_and_lives_a_day(site: Path, tmp_path: Path) -> None:
    spec = of(tmp_path, "lag")
    assert scenarios_of(spec) == ["steady", "day", "excitation", "operation"]
    levels = {name: load_scenario(name, spec).disturbances["w"].random for name in scenarios_of(spec)[1:]}
    assert levels["excitation"] is not None
    assert levels["excitation"].range == (-2.5, 5.0), "a quarter of what may be"
    assert levels["operation"] is not None
    assert levels["operation"].range == (-5.0, 10.0)
    for name in scenarios_of(spec):
        load_scenario(name, spec).check(spec)
    points = load_scenario("day", spec).set_points["Y"].random
    assert points is not None
    assert points.range == (40.0, 60.0)
    assert load_scenario("operation", spec).parameters["k"].factor == (0.875, 1.125)
    assert excitation_run(spec, 3, 20, seed=1).values["Y"].shape == (3, 20)
    run = rehearse(spec, load_scenario("day", spec), seed=1)
    assert run.reason == ""
    assert np.ptp(run.true["Y"]) > 1.0


@pytest.mark.parametrize("place", ["scenarios/calm.yaml", "calm.yaml", "calm"])
def test_scenarios_lie_beside_the_plant(
    site: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = of(tmp_path, "lag")
    path = tmp_path / "plants" / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(scenario("calm", "mine"))
    monkeypatch.chdir(tmp_path)
    assert scenarios_of(spec) == ["steady", "calm", "day", "excitation", "operation"]
    assert load_scenario("calm", spec).description == "mine"


def test_only_scenarios_are_taken_for_scenarios(site: Path, tmp_path: Path) -> None:
    spec = of(tmp_path, "lag")
    for name, text in {
        "guard0.yaml": "planner: {guard: 0}",
        "notes": "duration_s is what a scenario has",
        "README.md": "duration_s: 1",
        "dump": "duration_s: 1\n" + "x" * 100_000,
    }.items():
        (tmp_path / "plants" / name).write_text(text)
    (tmp_path / "plants" / "folder").mkdir()
    (tmp_path / "plants" / "binary").write_bytes(b"duration_s: \xff\xfe")
    assert scenarios_of(spec) == ["steady", "day", "excitation", "operation"]


def test_a_package_brings_scenarios_and_a_file_beside_the_plant_is_nearer(site: Path, tmp_path: Path) -> None:
    spec = of(tmp_path, "packaged")
    assert scenarios_of(spec) == ["steady", "day", "excitation", "operation", "storm"]
    assert load_scenario("storm", spec).description == "from the package"
    (tmp_path / "plants" / "operation").write_text(scenario("operation", "nearer"))
    assert load_scenario("operation", spec).description == "nearer"


def test_one_that_does_not_fit_is_named(site: Path, tmp_path: Path) -> None:
    spec = of(tmp_path, "lag")
    (tmp_path / "plants" / "excitation").write_text(scenario("excitation", "x", "disturbances: {v: {value: 1}}\n"))
    with pytest.raises(SpecError, match="plants/excitation: disturbances names 'v'; mill has w"):
        load_scenario("excitation", spec)
