"""Training of a world model from runs: multi-step latent prediction, SIGReg, masked inverse dynamics, read-out, heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.calibration import unchanged
from models.config import ModelConfig, TrainingConfig
from models.regularisers import sigreg
from models.windows import Run, WindowSet, channel_scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

_PESSIMISM = 0.05  # the quantile a fallback head answers
_DANGER = 0.6  # of the squashed margin: within about two thirds of a margin_scale, or beyond the limit

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Losses:
    """The terms of one step, each a scalar tensor before its weight."""

    prediction: Tensor
    sigreg: Tensor
    inverse: Tensor
    read_out: Tensor
    guardrail: Tensor
    padding: Tensor

    def total(self, weights: TrainingConfig) -> Tensor:
        return sum(
            (getattr(weights, name) * getattr(self, name) for name in self.__dataclass_fields__), torch.zeros(())
        )


def label_scale(model: WorldModel, labels: Tensor) -> Tensor:
    """Hidden worst values (..., n_guardrail) -> squashed margins in units of the head's output; NaN stays NaN."""
    limit = torch.tensor([g.limit for g in model.spec.guardrails])
    sign = torch.tensor([g.sign for g in model.spec.guardrails])
    return model.squash(sign * (limit - labels)) / model.margin_scale


def losses(model: WorldModel, data: WindowSet, starts: Tensor, weights: TrainingConfig, rng: torch.Generator) -> Losses:
    """Every loss term on the window sequences that begin at `starts` (batch,)."""
    k = data.horizon
    steps = torch.arange(k + 1)
    index, alive = data.sequence(starts)
    history = torch.full_like(starts, data.window)
    cut = torch.rand(len(starts), generator=rng) < weights.padded_share
    history[cut] = torch.randint(1, data.window + 1, (int(cut.sum()),), generator=rng)
    # A cut window grows by a sample a step, as it does after a start-up.
    values, mask = data.gather(index, (history[:, None] + steps).clamp(max=data.window))
    z = model.encode_normalised(values, mask)
    channels = data.rows[index]
    nm, nd = data.n_measured, data.n_dv
    y, d, u = channels[..., :nm], channels[..., nm : nm + nd], channels[..., nm + nd :]

    rolled = [z[:, 0]]
    for i in range(k):
        rolled.append(model.advance_normalised(rolled[-1], u[:, i + 1], d[:, i]))
    roll = torch.stack(rolled[1:], dim=1)

    # A roll-out counts until the first move that nobody knows.
    known_moves = (data.mask[index][:, 1:, nm + nd :].amin(-1) * alive[:, 1:]).cumprod(1)[..., None]
    prediction = (_robust(roll, z[:, 1:]) * known_moves).mean()
    lived = z[alive > 0]
    sample = torch.randperm(len(lived), generator=rng)[: weights.sigreg_samples]
    spread = sigreg(lived[sample], weights.sigreg_slices, rng)

    # Inverse dynamics: the move between two samples from their latents, hidden from the window that would contain it.
    pick = (torch.rand(len(starts), generator=rng) * (alive.sum(1) - 1)).long()
    rows = torch.arange(len(starts))
    hidden = mask[rows, pick + 1].clone()
    hidden[:, -1, nm + nd :] = 0.0
    z_next = model.encode_normalised(values[rows, pick + 1], hidden)
    guess = model.inverse_head(torch.cat([z[rows, pick], z_next], dim=-1))
    inverse = ((guess - u[rows, pick + 1]).square() * data.mask[index][rows, pick + 1, nm + nd :]).mean()

    seen = data.mask[index][..., :nm] * alive[..., None]
    read = (_robust(model.read_out_head(z), y) * seen).mean()
    read = read + (_robust(model.read_out_head(roll), y[:, 1:]) * seen[:, 1:] * known_moves).mean()

    guard = torch.zeros(())
    if model.spec.guardrails:
        smooth = partial(nn.functional.smooth_l1_loss, beta=0.1, reduction="none")
        both = torch.cat([z, roll], dim=1)
        truth = _limit_truth(model, y)
        truth = torch.cat([truth, truth[:, 1:]], dim=1)
        counted = torch.cat([alive[..., None], known_moves], dim=1)
        guard = (smooth(model.limit_heads(both), truth) * counted).mean()
        worst = label_scale(model, data.labels[index])
        worst = torch.cat([worst, worst[:, 1:]], dim=1)
        known = torch.isfinite(worst)
        if known.any():
            # A rolled latent cannot know of a disturbance that came after its start; its label does.
            held = unchanged(model, d)[:, 1:, None].to(z.dtype).cumprod(1)
            told = known * torch.cat([alive[..., None], known_moves * held], dim=1)
            guess, truth = model.fallback_heads(both), torch.where(known, worst, 0.0)
            # A low quantile, not the middle: where a state may or may not be lost, the head has to say so.
            price = torch.where(guess > truth, 1 - _PESSIMISM, _PESSIMISM)
            error = 2 * price * smooth(guess, truth)
            guard = guard + (error * told).sum() / told.sum().clamp(min=1.0)

    padding = torch.zeros(())
    if cut.any():
        full, full_mask = data.gather(index[cut, 0])
        padding = (z[cut, 0] - model.encode_normalised(full, full_mask)).square().mean()
    return Losses(prediction, spread, inverse, read, guard, padding)


def _robust(guess: Tensor, truth: Tensor) -> Tensor:
    """Squared error that turns linear past one standard deviation: a mistimed ignition must not own the gradient."""
    return 2 * nn.functional.smooth_l1_loss(guess, truth, beta=1.0, reduction="none")


def _limit_truth(model: WorldModel, y: Tensor) -> Tensor:
    """Squashed margins (..., n_guardrail) of normalised measurements, in units of the heads' output."""
    names = [t.name for t in model.spec.measured]
    value = model.denormalise(y, "measured")
    columns = []
    for i, g in enumerate(model.spec.guardrails):
        if g.tag not in names:
            raise ModelError(
                f"guardrail {g.name} watches {g.tag}, which is not a measured CV or AUX",
                f"plant {model.spec.name}",
                "Name a measured tag.",
            )
        margin = g.sign * (g.limit - value[..., names.index(g.tag)])
        columns.append(torch.tanh(margin / model.margin_scale[i]))
    return torch.stack(columns, dim=-1)


def train(
    spec: PlantSpec,
    runs: Sequence[Run],
    validation: Sequence[Run],
    config: ModelConfig,
    training: TrainingConfig,
    report: Report | None = None,
) -> WorldModel:
    """Train a world model on `runs`; `validation` runs choose nothing but are reported and decide the best weights.

    Deterministic from `training.seed` on one machine. Raises `ModelError` when there is too little to learn from.
    """
    hours = sum(len(r) for r in runs) * spec.sample_time_s / 3600
    if sum(len(r) for r in runs) < 20 * config.horizon:
        raise ModelError(
            f"only {hours:.2f} plant-hours of training data", f"plant {spec.name}", "Record more, or run `excite`."
        )
    torch.manual_seed(training.seed)
    rng = torch.Generator().manual_seed(training.seed)
    scale = channel_scale(spec, runs)
    data = WindowSet(runs, scale, config.window, config.horizon)
    held = WindowSet(validation, scale, config.window, config.horizon)
    model = WorldModel(spec, config, scale)
    if spec.guardrails:
        worst = label_scale(model, data.labels[data.sequence(data.starts)[0]])
        data.danger = data.starts[(worst.nan_to_num(1.0) < _DANGER).any(-1).any(-1)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 100)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / training.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for step in range(training.steps):
        starts = data.draw(training.batch, training.steady_share, training.danger_share, rng)
        terms = losses(model, data, starts, training, rng)
        loss = terms.total(training)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise ModelError(
                f"the loss is not finite at step {step}",
                f"training {spec.name}",
                "Lower learning_rate, or check the data.",
            )
        optimiser.step()
        schedule.step()
        if report and (step % 100 == 0 or step == training.steps - 1):
            with torch.no_grad():
                check = losses(model, held, held.draw(512, 1.0, 0.0, rng), training, rng)
            report(step, training.steps, {n: float(getattr(check, n)) for n in check.__dataclass_fields__})
    return model.eval()
