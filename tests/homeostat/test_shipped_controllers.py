"""The controllers that come with Homeostat: one YAML a plant, which `demo`, `control`, `evaluate` and the benchmarks run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from controllers.runtime.config import ControllerConfig, config_for, shipped_configs
from homeostat.checkpoints import load_checkpoint
from homeostat.chosen import controller_of
from homeostat.cli import app
from homeostat.demo import speed_of
from plant.spec import builtin_plants, load_spec


@pytest.mark.parametrize("plant", sorted(builtin_plants()))
def test_every_plant_has_one_that_can_be_made(plant: str) -> None:
    assert plant in shipped_configs()
    spec = load_spec(plant)
    assert controller_of(spec, config_for(plant), load_checkpoint(spec)).horizon >= 1


def test_control_runs_it_unless_told_otherwise(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("planner: {calm: 0.5}\n")

    def shown(*options: str) -> ControllerConfig:
        result = CliRunner().invoke(app, ["control", "turbofan", "--show-config", *options])
        return ControllerConfig.model_validate(yaml.safe_load(result.stdout))

    assert shown() == config_for("turbofan")
    assert shown().planner.calm == 0.35, "what `benchmarks.control --plant turbofan` measures"
    assert shown("--config", str(mine)).planner.calm == 0.5


def test_a_plant_of_ones_own_has_the_defaults() -> None:
    assert config_for("two_tanks") == ControllerConfig()


@pytest.mark.parametrize("plant", sorted(builtin_plants()))
def test_a_demo_leaves_every_decision_its_time(plant: str) -> None:
    """An engine that decides every 80 ms ran at twenty times life's speed, and missed a third of its decisions."""
    spec = load_spec(plant)
    wall_s = round(spec.sample_time_s / speed_of(spec), 6)
    assert 0.8 <= wall_s < 2.0
