"""Calibrated margins that a running loop widens when they fail it: adaptive conformal inference on their size."""

from __future__ import annotations

import torch
from torch import Tensor

_RATE = 0.1  # a miss widens by a tenth; at 99 % it takes a hundred hits to take that back
_MOST = 4.0  # times as wide at most: beyond, surprise stops the loop


class Widening:
    """For `batch` plants, by how much the margins of each guardrail are widened now: `factor` (batch x n_guardrail), 1 to start
    with and never less.

    Adaptive conformal inference (Gibbs & Candes 2021) on the logarithm of the factor: whenever a guardrail was near, and more
    was promised of this sample than came, at any step of the horizon, it grows, else it shrinks, so that in the long run as
    many misses are made as `level` allows. `margins` (horizon x n_guardrail) are the calibrated ones, in the tags' units as all here;
    `near` (n_guardrail,) how close a prediction must be to count. Only a measured quantity tells about its margins.
    """

    def __init__(self, margins: Tensor, level: float, near: Tensor, batch: int) -> None:
        self._margins, self._level, self._near = margins, level, near
        self.factor = torch.ones(batch, len(near), dtype=torch.float64)

    def learn(self, predicted: Tensor, observed: Tensor, kept: Tensor) -> None:
        """`predicted` (batch x k x n_guardrail), the margins of this sample as predicted 1..k samples ago; `observed` (batch x
        n_guardrail), what they are, NaN where nobody measures it; `kept` (batch x k x n_guardrail), what was kept in hand on
        top of the calibrated margin."""
        width = self._margins[: predicted.shape[1]] * self.factor[:, None]
        counts = torch.isfinite(predicted) & (predicted.abs() < self._near) & torch.isfinite(observed)[:, None]
        missed = (counts & (predicted - observed[:, None] > width + kept)).any(1).double()
        grown = self.factor * torch.exp(_RATE * (missed - (1 - self._level)))
        self.factor = torch.where(counts.any(1), grown.clamp(1.0, _MOST), self.factor)
