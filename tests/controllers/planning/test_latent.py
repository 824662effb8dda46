"""What tightens the guardrails of a controller that looks ahead in a latent: surprise, and a reading that comes late."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from models.calibration import Calibration
from models.world_model import WorldModel

CONFIG = PlannerConfig(horizon=12, guard=0.0, calm=0.5)
SEEN = Observation(0.0, np.tile([0.87, 324.5], (2, 1)), np.full((2, 1), 350.0), np.full((2, 1), 300.0))
ASKED = Targets(np.full((2, 1, 1), 0.87), np.array([290.0]), np.array([310.0]))


def _margins(controller: JepaMpc, observation: Observation) -> np.ndarray:
    """To be kept by both plants at the first step (2,), K."""
    kept = []
    plan = controller.planner.plan

    def spy(problem, *rest, **more):
        kept.append((problem.required + problem.calibrated)[:, 0, 0].numpy().copy())
        return plan(problem, *rest, **more)

    controller.planner.plan = spy  # type: ignore[method-assign]
    controller.decide(observation, ASKED)
    return kept[0]


@pytest.mark.parametrize(
    ("surprise", "factor"), [(None, (1.0, 1.0)), ((0.2, 0.5), (1.0, 1.0)), ((0.2, 1.5), (1.0, 3.0))]
)
def test_surprise_widens_margins_in_proportion_and_only_where_it_is(
    trained: WorldModel, surprise: tuple[float, float] | None, factor: tuple[float, float]
) -> None:
    controller = JepaMpc(trained, CONFIG, Calibration(torch.full((12, 2), 2.0), 0.99, 100), batch=2)
    told = dataclasses.replace(SEEN, surprise=None if surprise is None else np.array(surprise))
    np.testing.assert_allclose(_margins(controller, told), 2.0 * np.array(factor))


def test_a_hidden_quantity_is_tightened_by_the_reading_that_shows_it(trained: WorldModel) -> None:
    tightened = []
    for shown_by in (None, "T"):
        model = copy.deepcopy(trained)
        rail = trained.spec.guardrails[0].model_copy(update={"tag": "T_fallback", "shown_by": shown_by})
        model.spec = trained.spec.model_copy(update={"guardrails": (rail,)})
        controller = JepaMpc(model, CONFIG, Calibration(torch.full((12, 2), 2.0), 0.99, 100), batch=2)
        controller._offset.bias[0, :, 1], controller._offset.bias[1, :, 1] = 3.0, -3.0
        tightened.append(_margins(controller, SEEN).tolist())
    assert tightened == [[2.0, 2.0], [5.0, 2.0]], "only ever tightened"
