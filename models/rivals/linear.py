"""What linear rivals share: after least squares, descent on the multi-step error itself."""

from __future__ import annotations

import copy
import logging

import torch

from models.config import TrainingConfig
from models.descent import Descent
from models.rivals.contract import Forecaster
from models.rivals.stretches import Report, Stretches, multi_step_error, robust, some_of, whole
from models.windows import WindowSet
from plant.errors import ModelError

_PACE = 0.03  # of the learning rate: least squares is near already
_STEPS, _EVERY = 400, 40  # at most; between two looks at the validation runs
_HELD = 2000  # starts that these look at
log = logging.getLogger(__name__)


def refine(
    model: Forecaster, data: WindowSet, validation: WindowSet, training: TrainingConfig, report: Report | None = None
) -> None:
    """Train `model`, double and fitted by least squares, on the multi-step error, as prediction-error methods do. What stays is
    the step with the least error on the validation runs, the first included."""
    rng = torch.Generator().manual_seed(training.seed)
    held = Stretches.of(validation, some_of(whole(validation), _HELD)).double()
    best, kept = multi_step_error(model, held), copy.deepcopy(model.state_dict())
    steps = min(training.steps, _STEPS)
    gentle = training.model_copy(update={"learning_rate": _PACE * training.learning_rate})
    descent = Descent(model.parameters(), model, gentle, steps, "training of a rival")
    try:
        for step in range(steps):
            part = Stretches.of(data, data.draw(training.batch, training.steady_share, 0.0, rng)).double()
            loss = robust(model.roll(part.values, part.mask, part.u, part.d), part.y, part.counted)
            descent.step(loss, step)
            if (step + 1) % _EVERY == 0 or step == steps - 1:
                if (error := multi_step_error(model, held)) < best:
                    best, kept = error, copy.deepcopy(model.state_dict())
                if report:
                    report(step, steps, {"loss": float(loss.detach())})
    except ModelError as e:
        log.info("what was best before stays: %s", e)
    model.load_state_dict(kept)
