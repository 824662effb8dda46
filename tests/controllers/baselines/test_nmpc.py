"""The yardstick is what it was measured to be: NMPC with the true model, on the published score."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.evaluation.reactor import EFFORT_RANGE, tracking
from plant.spec import PlantSpec, load_spec
from simulators.reactor import BareReactor


@pytest.fixture(scope="module")
def bare() -> PlantSpec:
    return load_spec("reactor_bare")


@pytest.fixture(scope="module")
def nmpc(bare: PlantSpec) -> NmpcController:
    return NmpcController(bare, BareReactor(), effort_range=EFFORT_RANGE)


def test_score_a_with_preview(bare: PlantSpec, nmpc: NmpcController) -> None:
    """-0.366 is also the full-horizon optimum: 15 samples of preview are enough."""
    score, runs = tracking(bare, nmpc, "A", preview=True, noise=0.0)
    assert score[0] == pytest.approx(-0.366, abs=0.002)
    assert (runs.moves >= EFFORT_RANGE[0] - 1e-6).all()
    assert (runs.moves <= EFFORT_RANGE[1] + 1e-6).all()
    assert all(status == (Status.OPTIMAL,) for status in runs.status)


def test_score_b_without_preview(bare: PlantSpec, nmpc: NmpcController) -> None:
    score, _ = tracking(bare, nmpc, "B", preview=False, noise=0.0)
    assert score[0] == pytest.approx(-0.327, abs=0.002)


def test_guardrail_is_not_for_sale(bare: PlantSpec) -> None:
    """A target that only a runaway reaches: the plan stays below the limit, and goes past it when told to ignore it."""
    low, high = limits_of(bare)
    observation = Observation(0.0, np.array([[0.85, 328.0]]), np.array([[350.0]]), np.array([[300.0]]))
    hottest = []
    for guardrails in (True, False):
        controller = NmpcController(bare, BareReactor(), guardrails=guardrails, substeps=20)
        decision = controller.decide(observation, Targets(np.full((1, 1, 1), 0.4), low, high))
        hottest.append(decision.predicted[0, :, 1].max())
    assert hottest[0] <= 350.0 + 0.01
    assert hottest[1] > 355.0


def test_plants_of_a_batch_are_solved_apart(bare: PlantSpec, nmpc: NmpcController) -> None:
    low, high = limits_of(bare)
    measured = np.array([[0.87, 324.5], [0.80, 330.0]])
    dvs, applied = np.array([[350.0], [355.0]]), np.full((2, 1), 300.0)
    goals = np.array([0.88, 0.86])[:, None, None]
    nmpc.reset()
    both = nmpc.decide(Observation(0.0, measured, dvs, applied), Targets(goals, low, high))
    for i in range(2):
        nmpc.reset()
        one = slice(i, i + 1)
        alone = nmpc.decide(Observation(0.0, measured[one], dvs[one], applied[one]), Targets(goals[one], low, high))
        np.testing.assert_allclose(alone.plan[0], both.plan[i], atol=1e-4)
    assert both.margins.shape == (2, nmpc.horizon, 1)
    np.testing.assert_allclose(both.margins[..., 0], 350.0 - both.predicted[..., 1])
