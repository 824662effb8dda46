"""What linear rivals share: after least squares, descent on the multi-step error itself."""

from __future__ import annotations

import copy
import logging

import torch

from models.config import TrainingConfig
from models.rivals.contract import Forecaster
from models.rivals.stretches import Report, Stretches, descend, multi_step_error, robust, whole
from models.windows import WindowSet
from plant.errors import ModelError

_PACE = 0.03  # of the learning rate: least squares is near already
log = logging.getLogger(__name__)


def refine(
    model: Forecaster, data: WindowSet, validation: WindowSet, training: TrainingConfig, report: Report | None = None
) -> None:
    """Train `model`, double and fitted by least squares, as the other rivals are. What comes out stays if the multi-step
    error on the validation runs is smaller for it."""
    rng = torch.Generator().manual_seed(training.seed)
    held = Stretches.of(validation, whole(validation)).double()
    before, start = multi_step_error(model, held), copy.deepcopy(model.state_dict())

    def objective(starts: torch.Tensor) -> torch.Tensor:
        part = Stretches.of(data, starts)
        return robust(model.roll(part.values, part.mask, part.u, part.d), part.y, part.counted)

    gentle = training.model_copy(update={"learning_rate": _PACE * training.learning_rate})
    model.float()
    try:
        descend(model, objective, data, gentle, rng, report)
    except ModelError as e:
        log.info("least squares stays: %s", e)
    model.double()
    if not multi_step_error(model, held) < before:
        model.load_state_dict(start)
