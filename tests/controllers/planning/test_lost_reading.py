"""A reading that is lost is predicted on: no model is left alone with a hole where its window was."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from controllers.contracts import Array, Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.forecast import ForecastMpc
from controllers.planning.mpc import JepaMpc
from homeostat.lockstep import excitation_run
from models.rivals.registry import train_rival
from models.world_model import WorldModel
from plant.spec import PlantSpec
from simulators.plant import SimulatedPlant

from .conftest import QUICK, TINY, one_thread, runs_of

CONFIG = PlannerConfig(horizon=12, effort=0.0)
AT, SAMPLES = 12, 40


class Blinded:
    """Shows `inner` no reading of `column` from sample `AT` on, and remembers what it predicts of it a sample ahead."""

    def __init__(self, inner: JepaMpc, column: int) -> None:
        self.inner, self.column, self.horizon = inner, column, inner.horizon
        self.reset()

    def reset(self) -> None:
        self.inner.reset()
        self.answers: list[Decision] = []

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        measured = np.array(observation.measured)
        if len(self.answers) >= AT:
            measured[:, self.column] = np.nan
        self.answers.append(self.inner.decide(dataclasses.replace(observation, measured=measured), targets))
        return self.answers[-1]

    @property
    def predicted(self) -> Array:
        return np.stack([d.predicted[:, 0, self.column] for d in self.answers], 1)


@pytest.fixture(scope="module")
def controllers(bare: PlantSpec, trained: WorldModel) -> dict[str, Callable[[], JepaMpc]]:
    runs = runs_of(bare, excitation_run(bare, 64, 60, seed=1))
    with one_thread():
        rival = train_rival("arx", bare, runs[8:], runs[:8], TINY, QUICK)
    return {"jepa": lambda: JepaMpc(trained, CONFIG, batch=4), "arx": lambda: ForecastMpc(rival, CONFIG, batch=4)}


@pytest.mark.parametrize("form", ["jepa", "arx"])
@pytest.mark.parametrize(("tag", "error", "off_target"), [("Ca", 0.01, 0.012), ("T", 2.5, 0.006)])
def test_a_lost_reading_is_predicted_and_the_loop_goes_on(
    form: str, tag: str, error: float, off_target: float, bare: PlantSpec, controllers: dict[str, Callable[[], JepaMpc]]
) -> None:
    """28 samples without it, a target step among them."""
    column = [t.name for t in bare.measured].index(tag)
    controller = Blinded(controllers[form](), column)
    targets = np.full((SAMPLES, 1), 0.87)
    targets[20:] = 0.885
    low, high = limits_of(bare)
    runs = close_loop(
        controller, SimulatedPlant(bare, 3, 4), targets, preview=False, move_low=low, move_high=high,
        first_move=np.array([300.0]),
    )  # fmt: skip
    assert not any(s in (Status.INFEASIBLE, Status.RECOVERY) for d in controller.answers for s in d.status)
    missed = np.abs(controller.predicted - runs.true[tag][:, 1:])[:, AT:]
    assert missed.max() < error
    assert np.abs(runs.true["Ca"][:, -8:] - 0.885).max() < off_target


def test_a_slow_reading_is_masked_in_between(trained: WorldModel) -> None:
    """Every third sample, as the model was taught; only where it stays away for longer is it stood in for."""
    spec = trained.spec
    slow = [t.model_copy(update={"period_s": 3 * spec.sample_time_s}) if t.name == "Ca" else t for t in spec.tags]
    model = copy.copy(trained)
    model.spec = spec.model_copy(update={"tags": tuple(slow)})
    controller = JepaMpc(model, CONFIG)
    low, high = limits_of(spec)
    held = []
    for k in range(9):
        ca = 0.87 if k in (0, 3) else np.nan
        seen = Observation(26.0 * k, np.array([[ca, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
        controller.decide(seen, Targets(np.full((1, 1, 1), 0.87), low, high))
        held.append(bool(torch.isfinite(controller._window[0, -1, 0])))
    assert held == [True, False, False, True, False, False, True, True, True]


def test_a_plant_nobody_can_see_is_not_predicted_on(trained: WorldModel) -> None:
    controller, (low, high) = JepaMpc(trained, CONFIG), limits_of(trained.spec)
    for k in range(4):
        measured = np.array([[0.87, 324.5]]) if k < 2 else np.full((1, 2), np.nan)
        seen = Observation(26.0 * k, measured, np.array([[350.0]]), np.array([[300.0]]))
        answer = controller.decide(seen, Targets(np.full((1, 1, 1), 0.87), low, high))
    assert answer.status == (Status.INFEASIBLE,)
    assert "none of Ca, T can be read" in answer.why[0]
