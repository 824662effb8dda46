"""Linear ARX, iterated: y(t+1) from the last samples and the move that follows. Ridge regression on one step, then the
error over the horizon."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.rivals.contract import Forecaster
from models.rivals.stretches import Stretches, filled, multi_step_error, whole
from models.windows import WindowSet
from plant.errors import ModelError

_RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)  # of the mean square of a regressor


class Arx(Forecaster):
    """`theta` ((window * channels + n_mv + 1) x n_measured): the oldest sample first, then the move, then a constant."""

    theta: nn.Parameter

    def learn(self, data: WindowSet, validation: WindowSet) -> None:
        """Least squares on one step; how many samples back it looks and the ridge are those with the least multi-step
        error on the validation runs. Raises `ModelError` when no sample follows a whole window."""
        self.double()
        starts = whole(data)
        part = Stretches.of(data, starts).double()
        good = part.counted[:, 0].amin(-1) > 0
        if not good.any():
            raise ModelError("no whole window is followed by a reading of every tag", "ARX", "Record longer runs.")
        held = Stretches.of(validation, whole(validation)).double()
        x = self._regressors(filled(part.values, part.mask)[good], part.u[good, 0])
        gram, cross = x.T @ x / len(x), x.T @ part.y[good, 0] / len(x)
        best, kept = math.inf, torch.zeros_like(cross)
        for order in sorted({min(n, data.window) for n in (1, 2, 4, 8, 16)}):
            keep = torch.arange(len(gram))[-(order * self.channels + self.n_mv + 1) :]
            for ridge in _RIDGES:
                penalty = torch.full((len(keep),), ridge, dtype=torch.float64)
                penalty[-1] = 0.0
                theta = torch.zeros_like(cross)
                theta[keep] = torch.linalg.lstsq(
                    gram[keep][:, keep] + penalty.diag(), cross[keep], driver="gelsd"
                ).solution
                self.theta = nn.Parameter(theta)
                if (error := multi_step_error(self, held)) < best:
                    best, kept = error, theta
        self.theta = nn.Parameter(kept)

    def _regressors(self, window: Tensor, u: Tensor) -> Tensor:
        return torch.cat([window.flatten(1), u, torch.ones_like(u[:, :1])], 1)

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        window = filled(values, mask)
        steps = []
        for i in range(u.shape[1]):
            y = self._regressors(window, u[:, i]) @ self.theta
            steps.append(y)
            if i + 1 < u.shape[1]:
                new = torch.cat([y, d[:, i + 1], u[:, i]], 1)
                window = torch.cat([window[:, 1:], new[:, None]], 1)
        return torch.stack(steps, 1)
