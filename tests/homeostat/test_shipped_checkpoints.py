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


@pytest.mark.parametrize("plant", ["reactor", "reactor_bare", "vandevusse", "glucose", "turbofan"])
def test_they_are_calibrated_small_and_not_suspect(plant: str) -> None:
    checkpoint = load_checkpoint(load_spec(plant))
    assert checkpoint.facts["suspect"] == []
    assert checkpoint.doubts == ()
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


def test_two_moves_hold_a_product_and_a_temperature() -> None:
    """The van de Vusse reactor through two target steps and a day's feed steps: no offset, and no wandering of the moves."""
    torch.set_num_threads(1)
    spec = load_spec("vandevusse")
    checkpoint = load_checkpoint(spec)
    plant = SimulatedPlant(spec, 5, 3, Drawn(load_scenario("day", spec)))
    low, high = limits_of(spec)
    targets = np.column_stack([np.repeat([0.9, 0.6], 40), np.full(80, 134.15)])
    runs = close_loop(
        JepaMpc(checkpoint.model, PlannerConfig(), checkpoint.calibration, batch=3), plant, targets, preview=False,
        move_low=low, move_high=high, first_move=plant.moves,
    )  # fmt: skip
    for end, goal in ((40, 0.9), (80, 0.6)):
        np.testing.assert_allclose(runs.true["Cb"][:, end - 14 : end + 1].mean(1), goal, atol=0.006)
        np.testing.assert_allclose(runs.true["T_R"][:, end], 134.15, atol=1.5)
    assert runs.worst["high_temperature"].max() < 140.0
    assert not {s for sample in runs.status for s in sample} & {Status.INFEASIBLE, Status.DEADLINE, Status.RECOVERY}
