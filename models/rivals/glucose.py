"""What the glucose forecast is held against: a direct linear ARX with the quantiles of its own errors, and a GRU.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.glucose_forecast import (
    STRIDE,
    WINDOW,
    Episodes,
    GlucoseConfig,
    GlucoseForecast,
    clock,
    log_glucose,
    unscaled,
)

_RIDGE = 1e-3  # of the mean square of a regressor
_BINS = WINDOW // STRIDE


class ArxGlucose(GlucoseForecast):
    """For each step a linear map of what the encoder sees and of the rates up to it; its quantiles lie as far below as those
    of its errors in training. `theta` (horizon x inputs), `gaps` (horizon x n_quantile)."""

    theta: Tensor
    gaps: Tensor

    def __init__(self, config: GlucoseConfig) -> None:
        super().__init__(config)
        inputs = self.encoder.first.in_features + config.horizon + 1
        del self.encoder, self.predictor, self.head
        self.register_buffer("theta", torch.zeros(config.horizon, inputs))
        self.register_buffer("gaps", torch.zeros(config.horizon, len(config.quantiles)))

    def encode(self, cgm: Tensor, applied: Tensor, slow: Tensor, clock: Tensor, days: Tensor, known: Tensor) -> Tensor:
        return torch.cat([cgm, applied, slow, clock, days, known], -1)

    def forecast(self, z: Tensor, rates: Tensor, known: Tensor) -> Tensor:
        missing = self.config.horizon - rates.shape[1]
        x = torch.cat([z, rates, rates.new_zeros(len(rates), missing), torch.ones_like(z[:, :1])], 1)
        mean = (x @ self.theta.mT)[:, : rates.shape[1], None]
        return unscaled(torch.cat([mean, mean + self.gaps[: rates.shape[1]]], -1))

    def learn(self, episodes: Episodes) -> None:
        """Ridge regression of log glucose at each step; half of the episodes are shown no clock."""
        e = episodes
        hours = clock(e.hour) * (np.arange(len(e.hour)) % 2)[:, None]
        days = np.minimum(e.days / 3.0, 1.0)[:, None]
        after = e.applied[:, WINDOW:].reshape(len(e.hour), -1, STRIDE).mean(2)
        x = np.concatenate(
            [e.cgm[:, :WINDOW], e.applied[:, :WINDOW], e.slow[:, 0], hours, days, e.known, after, np.ones_like(days)], 1
        )
        y = log_glucose(e.glucose)
        gram, cross = x.T @ x / len(x), x.T @ y / len(x)
        rates = np.arange(len(gram) - 1 - after.shape[1], len(gram) - 1)
        for k in range(after.shape[1]):
            keep = np.setdiff1d(np.arange(len(gram)), rates[k + 1 :])
            part = gram[np.ix_(keep, keep)]
            theta = np.zeros(len(gram))
            theta[keep] = np.linalg.solve(part + _RIDGE * np.diag(part.diagonal() + 1e-6), cross[keep, k])
            self.theta[k] = torch.as_tensor(theta)
            self.gaps[k] = torch.as_tensor(np.quantile(y[:, k] - x @ theta, sorted(self.config.quantiles)))


class GruGlucose(GlucoseForecast):
    """A GRU over six hours in bins of 15 min whose first state is a map of what else is known, and a GRU cell ahead."""

    def __init__(self, config: GlucoseConfig) -> None:
        super().__init__(config)
        d, others = config.latent, self.encoder.first.in_features - 2 * WINDOW
        del self.encoder, self.predictor
        self.first = nn.Linear(others, d)
        self.past, self.ahead = nn.GRUCell(2 * STRIDE, d), nn.GRUCell(3, d)

    def encode(self, cgm: Tensor, applied: Tensor, slow: Tensor, clock: Tensor, days: Tensor, known: Tensor) -> Tensor:
        h = self.first(torch.cat([slow, clock, days, known], -1))
        x = torch.cat([cgm.reshape(len(cgm), _BINS, STRIDE), applied.reshape(len(cgm), _BINS, STRIDE)], -1)
        for i in range(_BINS):
            h = self.past(x[:, i], h)
        return h

    def roll(self, z: Tensor, rates: Tensor, known: Tensor) -> Tensor:
        steps = []
        for u in rates.unbind(1):
            z = self.ahead(torch.cat([u[:, None], known], -1), z)
            steps.append(z)
        return torch.stack(steps, 1)
