"""What linear rivals share: after least squares, descent on the multi-step error itself."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable

import torch

from models.config import TrainingConfig
from models.descent import Descent
from models.rivals.contract import Forecaster
from models.rivals.stretches import Report, Stretches, multi_step_error, robust, some_of, whole
from models.windows import WindowSet
from plant.errors import ModelError

_PACE = 0.03  # of the learning rate: least squares is near already
STEPS, EVERY = 400, 40  # at most; between two looks
_HELD = 2000  # starts that these look at
log = logging.getLogger(__name__)


def refine(
    model: Forecaster, data: WindowSet, validation: WindowSet, training: TrainingConfig, report: Report | None = None
) -> None:
    """Train `model`, double and fitted by least squares, on the multi-step error, as prediction-error methods do. What stays is
    the step with the least error on the validation runs, the first included."""
    held = Stretches.of(validation, some_of(whole(validation), _HELD)).double()
    best, kept = math.inf, copy.deepcopy(model.state_dict())

    def look(step: int) -> None:
        nonlocal best, kept
        if (error := multi_step_error(model, held)) < best:
            best, kept = error, copy.deepcopy(model.state_dict())

    descend_on_horizon(model, data, training, look, min(training.steps, STEPS), report)
    model.load_state_dict(kept)


def descend_on_horizon(
    model: Forecaster, data: WindowSet, training: TrainingConfig, look: Callable[[int], None], steps: int,
    report: Report | None = None,
) -> None:  # fmt: skip
    """`steps` steps on the error over the horizon of `data`; `look` is called before the first and after every `EVERY`."""
    rng = torch.Generator().manual_seed(training.seed)
    gentle = training.model_copy(update={"learning_rate": _PACE * training.learning_rate})
    descent = Descent(model.parameters(), model, gentle, STEPS, "training of a rival")
    look(0)
    try:
        for step in range(steps):
            part = Stretches.of(data, data.draw(training.batch, training.steady_share, 0.0, rng)).double()
            loss = robust(model.roll(part.values, part.mask, part.u, part.d), part.y, part.counted)
            descent.step(loss, step)
            if (step + 1) % EVERY == 0 or step == steps - 1:
                look(step + 1)
                if report:
                    report(step, steps, {"loss": float(loss.detach())})
    except ModelError as e:
        log.info("what was best before stays: %s", e)
