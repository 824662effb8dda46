"""The checkpoints that come with Homeostat: they load, they are not suspect, and the demo's guardrail visibly matters."""

import numpy as np
import pytest
import torch

from controllers.contracts import Status
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.evaluation.reactor import tracking
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from homeostat.checkpoints import load_checkpoint, shipped
from plant.spec import load_spec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario


@pytest.mark.parametrize("plant", ["reactor", "reactor_bare"])
def test_they_are_calibrated_small_and_not_suspect(plant: str) -> None:
    checkpoint = load_checkpoint(load_spec(plant))
    assert checkpoint.facts["suspect"] == []
    assert checkpoint.calibration.runs >= 100
    assert sum(f.stat().st_size for f in shipped(plant).iterdir()) < 1_000_000
    assert "Made by `homeostat train" in (shipped(plant) / "card.md").read_text()


def test_a_target_beyond_the_operating_limit_is_approached_and_the_limit_held() -> None:
    """0.82 mol/L would need more than 330.5 K: the plant goes as far towards it as the guardrail lets it."""
    torch.set_num_threads(1)
    spec = load_spec("reactor")
    checkpoint = load_checkpoint(spec)
    plant = SimulatedPlant(spec, 78, 2, Drawn(load_scenario("day", spec)))
    low, high = limits_of(spec)
    runs = close_loop(
        JepaMpc(checkpoint.model, PlannerConfig(), checkpoint.calibration, batch=2), plant,
        np.repeat([0.90, 0.82], 25)[:, None], preview=False, move_low=low, move_high=high,
        first_move=np.array([300.0]),
    )  # fmt: skip
    settled = runs.true["AI101"][:, 1:]
    np.testing.assert_allclose(settled[:, 15:25].mean(1), 0.90, atol=0.004)
    assert (settled[:, 40:].mean(1) < 0.845).all(), "it must move towards 0.82"
    assert runs.worst["high_temperature"].max() < 330.5
    assert not {s for sample in runs.status for s in sample} & {Status.INFEASIBLE, Status.DEADLINE}


def test_the_published_score_is_met() -> None:
    """Score B with preview, noise-free: the bar is -0.22, the full-horizon optimum -0.196."""
    torch.set_num_threads(1)
    spec = load_spec("reactor_bare")
    checkpoint = load_checkpoint(spec)
    config = PlannerConfig(guardrails=False, effort_range=(295.0, 302.0), suppression=0.0)
    value, _ = tracking(spec, JepaMpc(checkpoint.model, config, checkpoint.calibration), "B", preview=True, noise=0.0)
    assert value[0] >= -0.22
