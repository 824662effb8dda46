"""The controllers that come with Homeostat: one YAML a plant, which `demo`, `control`, `evaluate` and the benchmarks run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from controllers.baselines.clinical import PdInsulinFeedback
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.glucose.last_check import LastCheck
from controllers.planning.quantile_filter import QuantileFilter
from controllers.runtime.config import ControllerConfig, config_for, shipped_configs
from homeostat.checkpoints import load_checkpoint
from homeostat.chosen import controller_of
from homeostat.cli import app
from homeostat.demo import speed_of, told
from plant.errors import HomeostatError
from plant.spec import builtin_plants, load_spec
from simulators.drawn import Drawn
from simulators.glucose import DISCLAIMER
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario


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


def _patient(**filter: object) -> ControllerConfig:
    shipped = config_for("glucose").model_dump(mode="json")
    return ControllerConfig.model_validate({**shipped, "filter": {**shipped["filter"], **filter}})


def test_insulin_closes_by_pd_behind_the_learned_forecast_and_the_last_check() -> None:
    """The whole of what the glucose table measures, named by the YAML, for plants whose settings are known each."""
    spec, config = load_spec("glucose"), config_for("glucose")
    known = {"basal_U_per_h": np.array([0.9, 1.5]), "weight_kg": np.array([60.0, 95.0])}
    made = controller_of(spec, config, None, 2, known)
    assert isinstance(made, LastCheck)
    assert isinstance(made.inner, QuantileFilter)
    assert isinstance(made.inner.inner, PdInsulinFeedback)
    low, high = limits_of(spec)
    targets = Targets(np.full((2, 1, 1), 110.0), low, high)
    for k, cgm in enumerate((250.0, 260.0, 80.0)):
        seen = Observation(300.0 * k, np.full((2, 2), [cgm, 2.0]), np.zeros((2, 1)), known["basal_U_per_h"][:, None])
        decision = made.decide(seen, targets)
        assert decision.guardrails == ("low_glucose",)
        assert decision.status == (Status.FEASIBLE, Status.FEASIBLE)
        if cgm > 200.0:
            assert (decision.moves[:, 0] > known["basal_U_per_h"]).all(), "glucose is high"
    assert (decision.moves[:, 0] == 0.0).all(), "and now falls fast"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda: _patient(settings={"basal_U_per_h": 1.0}), "no weight_kg"),
        (lambda: _patient(settings={"basal_U_per_h": 0.0, "weight_kg": 70.0}), "not positive"),
        (lambda: _patient(settings={"basal_U_per_h": 1.0, "weight_kg": 70.0, "mood": 1.0}), "unknown mood"),
        (lambda: _patient(forecast="weather"), "no forecast here"),
        (lambda: _patient(last_check="mood"), "no last check is called 'mood'.*There is insulin"),
        (lambda: _patient(back_off=config_for("glucose").filter.back_off.model_dump() | {"guardrail": "x"}), "no guardrail 'x'"),  # type: ignore[union-attr]
    ],
)  # fmt: skip
def test_what_an_insulin_controller_lacks_is_said(config: Callable[[], ControllerConfig], said: str) -> None:
    with pytest.raises(HomeostatError, match=said):
        controller_of(load_spec("glucose"), config(), None)


@pytest.mark.parametrize("argv", [("demo", "glucose", "--train"), ("control", "glucose", "--checkpoint", "model")])
def test_a_controller_without_a_world_model_takes_none(argv: tuple[str, ...], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*argv, "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "no world model" in " ".join(result.output.replace("│", " ").split())


def test_a_forecast_without_a_back_off_is_refused() -> None:
    with pytest.raises(ValueError, match="a forecast needs a back_off"):
        _patient(back_off=None)


def test_a_demo_tells_the_controller_who_the_patient_is() -> None:
    """A controller that doses by another patient's basal rate is another controller."""
    spec = load_spec("glucose")
    plant = SimulatedPlant(spec, 3, conditions=Drawn(load_scenario("day", spec)))
    chosen = told(spec, config_for("glucose"), 3).filter
    assert chosen is not None
    assert chosen.settings["basal_U_per_h"] == pytest.approx(plant.moves[0, 0])
    assert chosen.settings["within_h"] == 0.1, "gains stay as configured"
    assert told(load_spec("reactor"), config_for("reactor"), 3) == config_for("reactor")


def test_evaluate_runs_it_on_patients_it_is_told_of(tmp_path: Path) -> None:
    options = ["--runs", "2", "--seeds", "1", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, ["evaluate", "glucose", *options])
    assert result.exit_code == 0, result.output
    assert "past very_low_glucose" in result.stdout
    assert "| pd_insulin_feedback behind guardrails | moves held |" in result.stdout
    for name in ("evaluation.md", "evaluation.html"):
        text = (tmp_path / "glucose" / "evaluation" / name).read_text()
        assert DISCLAIMER in " ".join(text.split()), name


@pytest.mark.parametrize("plant", ["reactor", "reactor_bare", "vandevusse"])
def test_where_the_benchmarks_plan_by_defaults_so_does_what_comes_with_the_plant(plant: str) -> None:
    assert config_for(plant).planner == ControllerConfig().planner


def test_a_plant_of_ones_own_has_the_defaults() -> None:
    assert config_for("two_tanks") == ControllerConfig()


@pytest.mark.parametrize("plant", sorted(builtin_plants()))
def test_a_demo_leaves_every_decision_its_time(plant: str) -> None:
    """An engine that decides every 80 ms ran at twenty times life's speed, and missed a third of its decisions."""
    spec = load_spec(plant)
    wall_s = round(spec.sample_time_s / speed_of(spec), 6)
    assert 0.8 <= wall_s < 2.0
