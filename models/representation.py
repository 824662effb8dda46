"""A small JEPA for recorded time series without moves, and linear probes on its frozen encoder.

    context  c = the last `window` samples          target  y = `target_window` samples that end h samples after them
    z = Encoder(c), g = Target(y), loss = mean over h of |Predictor_h(z) - g|^2 + sigreg * (SIGReg(g) + SIGReg(z))

Targets never overlap the context: h >= target_window. Nothing stops the gradient; SIGReg alone stands against collapse
(Balestriero & LeCun 2025). Probes read the hidden layer below the latent, which keeps what the latent gave up to be
Gaussian. Rows are global z-scores: scaling each window by itself would erase the operating point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.config import Count, NonNegative, Positive
from models.regularisers import sigreg
from models.whitening import LEAST_STD
from models.world_model import Mlp
from plant.errors import ModelError

Array = NDArray[np.float64]

_PAD = 5  # samples: what stands before a run's first sample is the mean of this many


class JepaConfig(BaseModel):
    """Shape and training of the encoder. `window`, `target_window` and `horizons` count samples; a horizon is the distance
    from the context's last sample to the target's last. `separate_target`: targets have an encoder of their own; otherwise
    they go through the context's, and `target_window` must equal `window`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: Count = 60
    target_window: Count = 16
    horizons: Annotated[tuple[int, ...], Field(min_length=1)] = (16, 32)
    width: Count = 256
    latent: Count = 16
    separate_target: bool = True
    steps: Annotated[int, Field(ge=0)] = 1000
    batch: Count = 256
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    sigreg: NonNegative = 0.02
    sigreg_slices: Count = 32
    seed: int = 0

    @model_validator(mode="after")
    def _checked(self) -> JepaConfig:
        if min(self.horizons) < self.target_window:
            raise ValueError(
                f"horizon {min(self.horizons)} is below target_window {self.target_window}: the target would overlap the context"
            )
        if not self.separate_target and self.target_window != self.window:
            raise ValueError("without a separate target encoder, target_window must equal window")
        return self


class Jepa(nn.Module):
    """Encoder, target encoder and one predictor over all horizons. Untrained it is the random-encoder control."""

    mean: Tensor
    std: Tensor

    def __init__(self, tags: int, config: JepaConfig) -> None:
        super().__init__()
        self.config, self.tags = config, tags
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = Mlp(config.window * tags, config.width, config.latent)
            same = not config.separate_target
            self.target = self.encoder if same else Mlp(config.target_window * tags, config.width, config.latent)
            self.predictor = Mlp(config.latent + len(config.horizons), config.width, config.latent)
        self.register_buffer("mean", torch.zeros(tags))
        self.register_buffer("std", torch.ones(tags))

    def scale(self, rows: Sequence[Array]) -> None:
        """Take the global z-score from `rows`, training runs of (n x tags); NaN is left out. A tag that never moves gets
        deviation 1: it reads 0 everywhere."""
        stacked = np.concatenate(rows)
        std = np.nanstd(stacked, axis=0)
        self.mean.copy_(torch.from_numpy(np.nanmean(stacked, axis=0)))
        self.std.copy_(torch.from_numpy(np.where(std > LEAST_STD * np.nanmax(np.abs(stacked), axis=0), std, 1.0)))

    def windows(self, run: Array) -> Tensor:
        """`run` (n x tags) -> z-scored context windows (n x window x tags), one that ends at each sample. Missing values hold
        the last one seen; before the first sample stands the mean of the first few."""
        z = _held((run - self.mean.numpy()) / self.std.numpy())
        padded = np.concatenate([np.tile(z[:_PAD].mean(0), (self.config.window - 1, 1)), z])
        view = np.lib.stride_tricks.sliding_window_view(padded, self.config.window, axis=0)
        return torch.from_numpy(np.ascontiguousarray(view.transpose(0, 2, 1), dtype=np.float32))

    @torch.inference_mode()
    def embed(self, windows: Tensor) -> Tensor:
        """Windows (n x window x tags) -> both hidden layers of the encoder (n x 2 width), what a probe reads."""
        silu, e = nn.functional.silu, self.encoder
        first = silu(e.first(windows.flatten(1)))
        return torch.cat([first, silu(e.second(first))], 1)

    @torch.inference_mode()
    def latents(self, windows: Tensor) -> Tensor:
        """Windows (n x window x tags) -> z (n x latent)."""
        return self.encoder(windows.flatten(1))

    def loss(self, context: Tensor, futures: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`context` (batch x window x tags), `futures` (batch x horizons x target_window x tags), NaN-free ->
        (prediction, SIGReg), both scalars."""
        z = self.encoder(context.flatten(1))
        goal = self.target(futures.flatten(2))
        n, h = goal.shape[:2]
        which = torch.eye(h).expand(n, h, h)
        guess = self.predictor(torch.cat([z[:, None].expand(n, h, -1), which], -1))
        spread = sigreg(goal[:, 0], self.config.sigreg_slices, rng)
        return (guess - goal).square().mean(), spread + sigreg(z, self.config.sigreg_slices, rng)


def train_jepa(runs: Sequence[Array], config: JepaConfig) -> Jepa:
    """Train on `runs`, each (n x tags), NaN where missing. Deterministic from `config.seed` on one machine; `steps` = 0
    gives the random encoder. Raises `ModelError` when no run is longer than the longest horizon, or when the loss is not
    finite."""
    model = Jepa(runs[0].shape[1], config)
    model.scale(runs)
    reach = max(config.horizons)
    usable = [r for r in runs if len(r) > reach]
    if not usable:
        raise ModelError(
            f"no run is longer than the longest horizon ({reach} samples)",
            "representation",
            "Record longer runs, or shorten the horizons.",
        )
    contexts, futures = [], []
    for run in usable:
        z = torch.from_numpy(_held((run - model.mean.numpy()) / model.std.numpy()).astype(np.float32))
        contexts.append(model.windows(run)[: len(run) - reach])
        ends = torch.arange(len(run) - reach)[:, None] + torch.tensor(config.horizons)
        steps = torch.arange(1 - config.target_window, 1)
        futures.append(z[ends[..., None] + steps])
    context, future = torch.cat(contexts), torch.cat(futures)
    rng = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(config.steps):
        rate = 0.5 * (1 + math.cos(math.pi * step / config.steps)) * min(1.0, (step + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate
        pick = torch.randint(len(context), (config.batch,), generator=rng)
        prediction, spread = model.loss(context[pick], future[pick], rng)
        loss = prediction + config.sigreg * spread
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is not finite at step {step}", "representation", "Lower learning_rate, or check the data."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


@dataclass(frozen=True)
class Probe:
    """A ridge regression on z-scored features, solved in closed form."""

    mean: Array
    std: Array
    weights: Array
    offset: float

    @staticmethod
    def fit(features: Array, labels: Array, ridge: float) -> Probe:
        """`features` (n x d), `labels` (n,); `ridge` is relative to n. Raises `ModelError` below two samples."""
        if len(features) < 2:
            raise ModelError(f"{len(features)} labelled samples", "probe", "Label at least two.")
        mean, std = features.mean(0), features.std(0)
        std = np.where(std > LEAST_STD * np.abs(features).max(0), std, 1.0)
        x, offset = (features - mean) / std, float(labels.mean())
        gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
        return Probe(mean, std, np.linalg.solve(gram, x.T @ (labels - offset)), offset)

    def __call__(self, features: Array) -> Array:
        """(n x d) -> (n,), in the labels' units."""
        return (features - self.mean) / self.std @ self.weights + self.offset


def _held(rows: Array) -> Array:
    """Missing values of (n x tags) replaced by the last one seen, before the first by 0."""
    seen = np.isfinite(rows)
    if seen.all():
        return rows
    last = np.maximum.accumulate(np.where(seen, np.arange(len(rows))[:, None], -1), axis=0)
    return np.where(last >= 0, np.take_along_axis(np.nan_to_num(rows), np.maximum(last, 0), axis=0), 0.0)
