"""A JEPA of patients on a pump and a CGM that answers quantiles: what glucose may do over the next hours under given doses.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.

The encoder reads six hours of CGM and insulin, the averages of the last day, the same hours of the days before, a clock
where there is one, and what a clinic knows of the patient. The predictor steps the latent by 15 min of insulin; a head reads
mean and low quantiles of the true glucose off the rolled latent.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.config import TrainingConfig
from models.descent import Descent
from models.regularisers import sigreg
from models.world_model import Mlp
from plant.errors import ModelError

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

SAMPLE_MIN = 5
STRIDE = 3  # samples in a latent step: 15 min
WINDOW = 72  # samples the encoder sees one by one: 6 h
DAY = 288
DAYS = 3  # of the same hours before
REACH = DAYS * DAY + 13  # samples of history that `slow` wants
_AROUND, _BIN, _BINS = 12, 6, 10  # the same hours: from 1 h before to 4 h after now, by half hours
GOALS = (5, 16)  # steps at which the rolled latent is held against the encoder's
_SLOW = 3 + 2 * _BINS
_CLOCK, _KNOWN = 5, 2


class GlucoseConfig(BaseModel):
    """Shape and training. `horizon` counts steps of 15 min; `quantiles` those the head answers besides the mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent: int = Field(24, ge=1)
    encoder_width: int = Field(128, ge=1)
    predictor_width: int = Field(96, ge=1)
    head_width: int = Field(64, ge=1)
    horizon: int = Field(16, ge=1)
    quantiles: tuple[float, ...] = (0.02, 0.05, 0.2)
    steps: int = Field(3000, ge=1)
    batch: int = Field(256, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    latent_weight: float = Field(0.3, ge=0)
    sigreg_weight: float = Field(2e-4, ge=0)
    blind_share: float = Field(0.35, ge=0, le=1)
    seed: int = 0


@dataclass(frozen=True)
class Episodes:
    """Stretches of `n` patients whose rates, from a sample on, answer nothing that happens: `WINDOW` samples up to that one and
    `horizon` steps of 15 min from it.

    `cgm` scaled and `applied` scaled (n x WINDOW + 3 horizon): the rate in the 5 min before each sample; `slow` (n x 3 x 23) at
    the start and at `GOALS`; `hour` of the day at the start (n,); `days` of history (n,); `known` (n x 2); `glucose` the true one
    at the end of each step (n x horizon), mg/dL.
    """

    cgm: NDArray[Any]
    applied: NDArray[Any]
    slow: NDArray[Any]
    hour: NDArray[Any]
    days: NDArray[Any]
    known: NDArray[Any]
    glucose: NDArray[Any]

    @staticmethod
    def join(parts: Sequence[Episodes]) -> Episodes:
        """All of `parts`."""
        return Episodes(*(np.concatenate([vars(p)[k] for p in parts]) for k in vars(parts[0])))

    def some(self, chosen: NDArray[np.int64]) -> Episodes:
        """Those at the indices `chosen`."""
        return Episodes(*(v[chosen] for v in vars(self).values()))


def scaled_glucose(g: Array) -> Array:
    """What the encoder sees of a CGM, mg/dL."""
    return (np.clip(g, 20.0, 600.0) - 140.0) / 60.0


def scaled_rate(rate: Array, basal: Array) -> Array:
    """What the networks see of an insulin rate: how many basal rates above one's own."""
    return (rate / basal - 1.0) / 8.0


def slow(cgm: Array, applied: Array) -> Array:
    """What of the last days the encoder sees, at every sample that has `REACH` samples behind it: from scaled CGM and applied
    rates (batch x n each) -> (batch x n - REACH + 1 x 23)."""
    n = cgm.shape[1]
    now = np.arange(REACH - 1, n)
    columns = []
    sums = [np.concatenate([np.zeros((len(v), 1)), np.cumsum(v, 1)], 1) for v in (cgm, applied, cgm * cgm)]

    def mean(s: Array, first: NDArray[np.int64], samples: int) -> Array:
        return (s[:, first + samples] - s[:, first]) / samples

    level, dose, square = (mean(s, now - DAY + 1, DAY) for s in sums)
    columns += [level, dose, np.sqrt(np.maximum(square - level**2, 0.0))]
    for s in sums[:2]:
        for j in range(_BINS):
            same = [mean(s, now - DAY * d - _AROUND + _BIN * j, _BIN) for d in range(1, DAYS + 1)]
            columns.append(sum(same) / DAYS)
    return np.stack(columns, -1)


def clock(hour: Array) -> Array:
    """Hours of the day (...,) -> (... x 5): two harmonics and that the clock is known."""
    angle = 2 * np.pi * np.asarray(hour) / 24.0
    return np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle), np.ones_like(angle)], -1)


def known(basal: Array, weight: Array) -> Array:
    """What a clinic knows of patients (n,) -> (n x 2)."""
    return np.stack([np.log(basal / 0.8), np.log(weight / 50.0)], -1)


class GlucoseForecast(nn.Module):
    """The model. `encode` reads what `slow`, `clock` and `known` make of a history."""

    def __init__(self, config: GlucoseConfig) -> None:
        super().__init__()
        self.config = config
        d, q = config.latent, len(config.quantiles)
        self.encoder = Mlp(2 * WINDOW + _SLOW + _CLOCK + _KNOWN + 1, config.encoder_width, d)
        self.predictor = Mlp(d + 1 + _KNOWN, config.predictor_width, d)
        for layer in (self.predictor.linear, self.predictor.last):
            nn.init.zeros_(layer.weight)
        self.head = Mlp(d + _KNOWN + 1, config.head_width, 1 + q)
        middle = np.sort(np.array(config.quantiles))
        if not len(middle) or middle[0] <= 0 or middle[-1] >= 0.5:
            raise ModelError(f"quantiles {config.quantiles}", "glucose forecast", "Ask for some between 0 and 0.5.")

    def encode(self, cgm: Tensor, applied: Tensor, slow: Tensor, clock: Tensor, days: Tensor, known: Tensor) -> Tensor:
        """Scaled CGM and applied rates (... x 72), `slow` (... x 23), `clock` (... x 5, zero: none), days of history over
        `DAYS` (... x 1), `known` (... x 2) -> z (... x latent)."""
        return self.encoder(torch.cat([cgm, applied, slow, clock, days, known], -1))

    def roll(self, z: Tensor, rates: Tensor, known: Tensor) -> Tensor:
        """z (batch x latent) and scaled mean rates of the next k steps (batch x k) -> the k latents (batch x k x latent)."""
        steps = []
        for u in rates.unbind(1):
            z = z + self.predictor(torch.cat([z, u[:, None], known], -1))
            steps.append(z)
        return torch.stack(steps, 1)

    def read(self, latents: Tensor, known: Tensor) -> Tensor:
        """Rolled latents (batch x k x latent), the first one step ahead -> log glucose (batch x k x 1 + n_quantile): mean, and
        quantiles from the lowest, ordered by construction."""
        k = latents.shape[1]
        ahead = torch.arange(1, k + 1, dtype=latents.dtype) / 16.0
        part = torch.cat(
            [latents, known[:, None].expand(-1, k, -1), ahead[None, :, None].expand(len(latents), -1, 1)], -1
        )
        out = self.head(part)
        mean, gaps = out[..., :1], nn.functional.softplus(out[..., 1:] - 1.0)
        return torch.cat([mean, mean - gaps.flip(-1).cumsum(-1).flip(-1)], -1)

    def forecast(self, z: Tensor, rates: Tensor, known: Tensor) -> Tensor:
        """Mean and quantiles (batch x k x 1 + n_quantile), mg/dL."""
        return unscaled(self.read(self.roll(z, rates, known), known))


def log_glucose(g: Array) -> Array:
    """What the head answers in: the logarithm spends its accuracy where glucose is low."""
    return np.log(np.clip(g, 20.0, 600.0) / 120.0) / 0.35


def unscaled(y: Tensor) -> Tensor:
    """`log_glucose` backwards, mg/dL."""
    return 120.0 * torch.exp(0.35 * y)


class _Tensors:
    """Episodes as tensors."""

    def __init__(self, episodes: Episodes) -> None:
        def tensor(a: Array) -> Tensor:
            return torch.as_tensor(np.asarray(a, np.float32))

        e = episodes
        self.cgm, self.applied, self.slow, self.known = map(tensor, (e.cgm, e.applied, e.slow, e.known))
        times = (0, *(g * STRIDE for g in GOALS))
        self.clock = tensor(np.stack([clock(e.hour + t * SAMPLE_MIN / 60.0) for t in times], 1))
        self.days = tensor(np.stack([np.minimum((e.days + t / DAY) / DAYS, 1.0) for t in times], 1))[..., None]
        self.truth = tensor(log_glucose(e.glucose))
        after = e.applied[:, WINDOW:]
        self.rates = tensor(after.reshape(len(after), -1, STRIDE).mean(2))

    def encode(self, model: GlucoseForecast, some: Tensor, goal: int, seen: Tensor) -> Tensor:
        """Latents of the episodes `some` (batch,) at their start (`goal` 0) or at GOALS[goal - 1]; `seen` (batch x 1) 0 hides
        the clock."""
        first = STRIDE * (0, *GOALS)[goal]
        window = slice(first, first + WINDOW)
        return model.encode(
            self.cgm[some, window], self.applied[some, window], self.slow[some, goal], self.clock[some, goal] * seen,
            self.days[some, goal], self.known[some],
        )  # fmt: skip


def padded(values: Array, first: Array) -> Array:
    """`values` (batch x n) behind REACH - 1 samples of `first` (batch x 1): before a record begins, nothing happened."""
    return np.concatenate([np.repeat(first, REACH - 1, 1), values], 1)


def pinball(guess: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """The loss whose least mean is the quantile: Koenker & Bassett, Econometrica 46 (1978) 33."""
    error = truth[..., None] - guess
    return torch.maximum(levels * error, (levels - 1.0) * error)


def fit(
    episodes: Episodes, config: GlucoseConfig, start: GlucoseForecast | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> GlucoseForecast:  # fmt: skip
    """A model trained on `episodes`, from `start` where given. Their rates are open-loop: a closed loop's insulin answers meals
    nobody announced, and a roll-out would learn that insulin raises glucose. `ModelError` when there are none, or the loss is
    not finite. Deterministic from `config.seed` on one machine."""
    if not len(episodes.cgm):
        raise ModelError("no stretch of open-loop insulin", "glucose training", "Record some of four hours.")
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed)
    model = GlucoseForecast(config) if start is None else copy.deepcopy(start)
    data = _Tensors(episodes)
    training = TrainingConfig(learning_rate=config.learning_rate, matrix_rate=config.learning_rate, weight_decay=1e-4)
    descent = Descent(model.parameters(), model, training, config.steps, "glucose training")
    model.train()
    for step in range(config.steps):
        some = torch.randint(len(data.cgm), (config.batch,), generator=rng)
        parts = _losses(model, data, some, rng)
        loss = parts["quantile"] + parts["mean"] + config.latent_weight * parts["latent"]
        descent.step(loss + config.sigreg_weight * parts["spread"], step)
        if report and (step % 200 == 0 or step == config.steps - 1):
            report(step, {k: float(v) for k, v in parts.items()})
    return model.eval()


def _losses(model: GlucoseForecast, data: _Tensors, some: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    config = model.config
    seen = (torch.rand(len(some), 1, generator=rng) >= config.blind_share).float()
    z = data.encode(model, some, 0, seen)
    rolled = model.roll(z, data.rates[some], data.known[some])
    out, truth = model.read(rolled, data.known[some]), data.truth[some]
    quantile = 4.0 * pinball(out[..., 1:], truth, torch.tensor(sorted(config.quantiles))).sum(-1).mean()
    mean = (out[..., 0] - truth).square().mean()
    latent = spread = torch.zeros(())
    if config.latent_weight:
        goals = torch.stack([data.encode(model, some, i, seen) for i in range(1, 1 + len(GOALS))], 1)
        latent = 2 * nn.functional.smooth_l1_loss(rolled[:, [g - 1 for g in GOALS]], goals)
        spread = sigreg(z, 64, rng)
    return {"quantile": quantile, "mean": mean, "latent": latent, "spread": spread}
