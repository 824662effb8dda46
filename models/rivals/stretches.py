"""What every rival learns from: the world model's own windows and what followed them, and one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import TrainingConfig
from models.descent import Descent
from models.rivals.contract import Forecaster, with_constants
from models.windows import WindowSet, all_known

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Stretches:
    """Normalised windows (`values`, `mask`: batch x window x channels) and the k samples after them: moves `u`,
    disturbances `d` before each step, measurements `y` (batch x k x n each), `counted` (as `y`): 1 where a measurement
    exists and every move up to it is known. What is constant within a run stands behind the windows and the moves."""

    values: Tensor
    mask: Tensor
    u: Tensor
    d: Tensor
    y: Tensor
    counted: Tensor

    @staticmethod
    def of(data: WindowSet, starts: Tensor, history: Tensor | None = None, steps: int | None = None) -> Stretches:
        """The stretches whose windows end at `starts` (batch,); `history` (batch,) is how far a window may look back, `steps`
        how many samples follow: the horizon of `data` unless given."""
        nm, nd = data.n_measured, data.n_dv
        index, alive = data.sequence(starts)
        if steps is not None:
            index, alive = index[:, : steps + 1], alive[:, : steps + 1]
        rows, seen = data.rows[index], data.mask[index]
        known = (all_known(seen[:, 1:, nm + nd :]) * alive[:, 1:]).cumprod(1)[..., None]
        values, mask = data.gather(starts, history)
        values, u = values * mask, rows[:, 1:, nm + nd :]
        if (c := data.conditions(starts)) is not None:
            values, mask, u = with_constants(values, mask, u, c)
        return Stretches(values, mask, u, rows[:, :-1, nm : nm + nd], rows[:, 1:, :nm], seen[:, 1:, :nm] * known)

    def double(self) -> Stretches:
        return Stretches(*(getattr(self, name).double() for name in self.__dataclass_fields__))


def cut(data: WindowSet, batch: int, share: float, rng: torch.Generator) -> Tensor:
    """How far back each window (batch,) may look: a `share` of them is cut short, as after a start-up."""
    history = torch.full((batch,), data.window)
    short = torch.rand(batch, generator=rng) < share
    history[short] = torch.randint(1, data.window + 1, (int(short.sum()),), generator=rng)
    return history


def whole(data: WindowSet) -> Tensor:
    """The starts that a whole window ends at; all of them when no run is that long."""
    full = data.starts[data.starts - data.first[data.starts] >= data.window - 1]
    return full if len(full) else data.starts


def some_of(starts: Tensor, count: int) -> Tensor:
    """`starts` (n,), or `count` of them spread evenly."""
    return starts if len(starts) <= count else starts[torch.linspace(0, len(starts) - 1, count).round().long()]


def robust(guess: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """The world model's own read-out loss: squared error that turns linear past one standard deviation."""
    return (2 * nn.functional.smooth_l1_loss(guess, truth, beta=1.0, reduction="none") * counted).mean()


def multi_step_error(model: Forecaster, part: Stretches) -> float:
    """Root mean square error over all steps of `part`, normalised, mean over tags; inf for a model that runs away."""
    with torch.no_grad():
        mean = float(rms(model.roll(part.values, part.mask, part.u, part.d), part).mean())
    return mean if math.isfinite(mean) else math.inf


def k_step(model: Forecaster, part: Stretches, steps: Sequence[int]) -> Tensor:
    """Root mean square error of each tag `steps` ahead (steps x n_measured), normalised; NaN where nobody read it then, inf for
    a model that runs away."""
    kind = next(model.parameters(), part.values).dtype
    part = part.double() if kind == torch.float64 else part
    with torch.no_grad():
        error = (model.roll(part.values, part.mask, part.u, part.d) - part.y).square().nan_to_num(torch.inf)
    mean = torch.where(part.counted > 0, error, torch.nan)[:, [k - 1 for k in steps]].nanmean(0)
    return mean.sqrt().double()


def rms(guess: Tensor, part: Stretches) -> Tensor:
    """Root mean square error of each tag (n_measured,), normalised, over all steps of `part`; inf where it is no number."""
    error = ((guess - part.y).square() * part.counted).sum((0, 1)) / part.counted.sum((0, 1)).clamp(min=1.0)
    return error.sqrt().nan_to_num(torch.inf)


def descend(
    model: nn.Module,
    objective: Callable[[Tensor], Tensor],
    data: WindowSet,
    training: TrainingConfig,
    rng: torch.Generator,
    report: Report | None = None,
    parameters: Iterable[nn.Parameter] | None = None,
) -> None:
    """Minimise `objective(starts)` over batches drawn as the world model's are: same optimiser, schedule, number of steps;
    over all of `model`'s parameters, or those given. Raises `ModelError` when the loss is no longer finite."""
    moved = model.parameters() if parameters is None else parameters
    descent = Descent(moved, model, training, training.steps, "training of a rival")
    for step in range(training.steps):
        loss = objective(data.draw(training.batch, training.steady_share, 0.0, rng))
        descent.step(loss, step)
        if report and (step % 100 == 0 or step == training.steps - 1):
            report(step, training.steps, {"loss": float(loss.detach())})
