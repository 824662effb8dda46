"""What a world model is trained to do: latent prediction, anti-collapse, masked inverse dynamics, read-out, heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.calibration import unchanged
from models.config import TrainingConfig
from models.regularisers import sigreg, vicreg
from models.windows import WindowSet, all_known
from models.world_model import Mlp, WorldModel
from plant.errors import ModelError
from plant.spec import Role

_UNKNOWN = 0.1  # of the sequences are seen without what is constant in them, as where nobody knows it
_PESSIMISM = 0.05  # the quantile a fallback head answers


@dataclass(frozen=True)
class Losses:
    """The terms of one step, each a scalar tensor before its weight; those a phase has no use for are zero."""

    prediction: Tensor
    spread: Tensor
    inverse: Tensor
    read_out: Tensor
    guardrail: Tensor
    padding: Tensor

    def total(self, weights: TrainingConfig) -> Tensor:
        return (
            weights.prediction * self.prediction
            + weights.spread * self.spread
            + weights.inverse * self.inverse
            + weights.read_out * self.read_out
            + weights.guardrail * self.guardrail
            + weights.padding * self.padding
        )


def spread_of(
    z: Tensor, alive: Tensor, weights: TrainingConfig, rng: torch.Generator, directions: torch.Generator
) -> Tensor:
    """The anti-collapse term on latents (... x latent) that are `alive` (...), of a random part of them; zero where a
    slowly moving target encoder stands against collapse instead. It draws as much from `rng` whoever is alive, so that
    several processes stay in step, and slices along `directions`, the same for all of them."""
    if weights.anti_collapse == "ema":
        return torch.zeros(())
    order = torch.randperm(alive.numel(), generator=rng)
    lived = order[alive.flatten()[order] > 0]
    if not len(lived):
        return torch.zeros(())
    part = z.flatten(0, -2)[lived[: weights.spread_samples]]
    return sigreg(part, weights.sigreg_slices, directions) if weights.anti_collapse == "sigreg" else vicreg(part)


class MaskedPrediction(nn.Module):
    """The first phase of decoupled training: from a window with most of it hidden, the latent of the whole window and of
    the window `ahead` samples on. No moves are told apart from other signals. Only the encoder outlives it."""

    def __init__(self, model: WorldModel, ahead: tuple[int, ...]) -> None:
        super().__init__()
        d = model.config.latent
        self.ahead = (0, *ahead)
        self.heads = nn.ModuleList(Mlp(d, model.config.head_width, d) for _ in self.ahead)

    def forward(
        self, model: WorldModel, target: WorldModel, data: WindowSet, starts: Tensor, weights: TrainingConfig,
        rng: torch.Generator,
    ) -> Losses:  # fmt: skip
        """Loss terms on the windows that end at `starts` (batch,). `target` encodes what is to be predicted: the model
        itself, or its slow copy."""
        directions = _another(rng)
        index, alive = data.sequence(starts)
        values, mask = data.gather(index)
        # Whole instants and whole channels are hidden: single cells could be read off their neighbours.
        shape = (len(starts), data.window, data.channels)
        instants = torch.rand(shape[:2], generator=rng)[..., None] < weights.masked_share
        channels = torch.rand(shape[0], data.channels, generator=rng)[:, None] < 0.5 * weights.masked_share
        c = some_unknown(data.conditions(starts), rng)
        z_seen = model.encode_normalised(values[:, 0], mask[:, 0] * ~(instants | channels), c)
        z = model.encode_normalised(values[:, self.ahead], mask[:, self.ahead], c)
        goal = z
        if weights.anti_collapse == "ema":
            with torch.no_grad():
                goal = target.encode_normalised(values[:, self.ahead], mask[:, self.ahead], c)
        guess = torch.stack([head(z_seen) for head in self.heads], 1)
        prediction = (_robust(guess, goal) * alive[:, self.ahead, None]).mean()
        nothing = torch.zeros(())
        spread = spread_of(z, alive[:, self.ahead], weights, rng, directions)
        return Losses(prediction, spread, nothing, nothing, nothing, nothing)


def label_scale(model: WorldModel, labels: Tensor) -> Tensor:
    """Hidden worst values (..., n_guardrail) -> squashed margins in units of the head's output; NaN stays NaN."""
    limit = torch.tensor([g.limit for g in model.spec.guardrails])
    sign = torch.tensor([g.sign for g in model.spec.guardrails])
    return model.squash(sign * (limit - labels)) / model.margin_scale


def losses(
    model: WorldModel, data: WindowSet, starts: Tensor, weights: TrainingConfig, rng: torch.Generator,
    target: WorldModel | None = None, frozen: bool = False, usual: Tensor | None = None,
) -> Losses:  # fmt: skip
    """Every loss term on the window sequences that begin at `starts` (batch,). `target` is the slow copy whose latents are
    predicted under `anti_collapse: ema`. With `frozen` the encoder stays as it is: what would only shape it is left out.
    Those that are not `usual` (batch,), 0 or 1, teach the guardrail heads alone: there are more of them than a plant would
    show, and where a reaction has run away, prediction has little to say. Nor do simulated incidents, which the latents do not
    learn from at all."""
    directions = _another(rng)
    k = data.horizon
    steps = torch.arange(k + 1)
    index, alive = data.sequence(starts)
    told = alive  # what the guardrail heads may learn from
    own = data.usual[starts]
    alive = alive * (own if usual is None else own * usual)[:, None]
    history = torch.full_like(starts, data.window)
    cut = torch.rand(len(starts), generator=rng) < weights.padded_share
    history[cut] = torch.randint(1, data.window + 1, cut.shape, generator=rng)[cut]
    # A cut window grows by a sample a step, as it does after a start-up.
    values, mask = data.gather(index, (history[:, None] + steps).clamp(max=data.window))
    c = some_unknown(data.conditions(starts), rng)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        z = model.encode_normalised(values, mask, c)
    goal = z
    if weights.anti_collapse == "ema" and target is not None and not frozen:
        with torch.no_grad():
            goal = target.encode_normalised(values, mask, c)
    channels = data.rows[index]
    nm, nd = data.n_measured, data.n_dv
    y, d, u = channels[..., :nm], channels[..., nm : nm + nd], channels[..., nm + nd :]

    rolled = [z[:, 0]]
    for i in range(k):
        rolled.append(model.advance_normalised(rolled[-1], u[:, i + 1], d[:, i], c))
    roll = torch.stack(rolled[1:], dim=1)

    # A roll-out counts until the first move that nobody knows.
    sure_moves = (all_known(data.mask[index][:, 1:, nm + nd :]) * told[:, 1:]).cumprod(1)[..., None]
    known_moves = sure_moves * alive[:, :1, None]
    prediction = (_robust(roll, goal[:, 1:]) * known_moves).mean()
    spread = torch.zeros(()) if frozen else spread_of(z, alive, weights, rng, directions)

    # Inverse dynamics: the move between two samples from their latents, hidden from the window that would contain it.
    inverse = torch.zeros(())
    pick = (torch.rand(len(starts), generator=rng) * (told.sum(1) - 1)).long()
    rows = torch.arange(len(starts))
    hidden = mask[rows, pick + 1].clone()
    hidden[:, -1, nm + nd :] = 0.0
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        z_next = model.encode_normalised(values[rows, pick + 1], hidden, c)
    if model.n_mv:
        guess = model.inverse_head(torch.cat([z[rows, pick], z_next], dim=-1))
        known = data.mask[index][rows, pick + 1, nm + nd :] * alive[:, :1]
        inverse = ((guess - u[rows, pick + 1]).square() * known).mean()

    seen = data.mask[index][..., :nm] * alive[..., None]
    read = (_robust(model.read_out_head(z), y) * seen).mean()
    read = read + (_robust(model.read_out_head(roll), y[:, 1:]) * seen[:, 1:] * known_moves).mean()

    guard = torch.zeros(())
    if model.spec.guardrails:
        smooth = partial(nn.functional.smooth_l1_loss, beta=0.1, reduction="none")
        both = torch.cat([z, roll], dim=1)
        both = torch.where(own[:, None, None] > 0, both, both.detach())  # incidents shape no latent
        truth = limit_truth(model, y, data.hidden[index])
        truth = torch.cat([truth, truth[:, 1:]], dim=1)
        counted = torch.cat([told[..., None], sure_moves], dim=1) * torch.isfinite(truth)
        weight, bias = (v.detach() for v in model.read_out_margins())
        rest = truth.nan_to_num(0.0) - (both @ weight.T + bias).detach()  # what the read-out does not say itself
        guard = (smooth(model.limit_heads(both), rest) * counted).mean()
        worst = label_scale(model, data.labels[index])
        worst = torch.cat([worst, worst[:, 1:]], dim=1)
        known = torch.isfinite(worst)
        if known.any():
            # A rolled latent cannot know of a disturbance that came after its start; its label does.
            held = unchanged(model, d)[:, 1:, None].to(z.dtype).cumprod(1)
            counted = known * torch.cat([told[..., None], sure_moves * held], dim=1)
            guess, truth = model.fallback_heads(both), torch.where(known, worst, 0.0)
            # A low quantile, not the middle: where a state may or may not be lost, the head has to say so.
            price = torch.where(guess > truth, 1 - _PESSIMISM, _PESSIMISM)
            error = 2 * price * smooth(guess, truth)
            guard = guard + (error * counted).sum() / counted.sum().clamp(min=1.0)

    padding = torch.zeros(())
    if cut.any():
        full, full_mask = data.gather(index[cut, 0])
        whole = model.encode_normalised(full, full_mask, None if c is None else c[cut])
        padding = ((z[cut, 0] - whole).square() * own[cut, None]).mean()
    return Losses(prediction, spread, inverse, read, guard, padding)


def some_unknown(c: Tensor | None, rng: torch.Generator) -> Tensor | None:
    """What holds for each sequence (batch x 2 * n_constant), hidden from some of them; None where the plant has none."""
    if c is None:
        return None
    return c * (torch.rand(len(c), 1, generator=rng) >= _UNKNOWN)


def _another(rng: torch.Generator) -> torch.Generator:
    """A generator of its own, seeded by `rng`: what it gives does not depend on how much others draw."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))


def _robust(guess: Tensor, truth: Tensor) -> Tensor:
    """Squared error that turns linear past one standard deviation: a mistimed ignition must not own the gradient."""
    return 2 * nn.functional.smooth_l1_loss(guess, truth, beta=1.0, reduction="none")


def limit_truth(model: WorldModel, y: Tensor, hidden: Tensor) -> Tensor:
    """Margins (..., n_guardrail) of normalised measurements and, where a guardrail watches a hidden quantity, of its recorded
    value `hidden` (..., n_guardrail), squashed; in units of the heads' output, NaN where nobody knows."""
    value = model.denormalise(y, "measured")
    columns = []
    for i, (g, at) in enumerate(zip(model.spec.guardrails, model.watched, strict=True)):
        if at is None and model.spec.tag(g.tag).role is not Role.HIDDEN:
            raise ModelError(
                f"guardrail {g.name} watches {g.tag}, which is not a measured CV or AUX",
                f"plant {model.spec.name}",
                "Name a measured or a hidden tag.",
            )
        margin = g.margin(hidden[..., i] if at is None else value[..., at]) / model.margin_scale[i]
        columns.append(torch.tanh(margin) if at is None else margin)
    return torch.stack(columns, dim=-1)
