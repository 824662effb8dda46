"""Linear ARX by ridge regression, iterated: y(t+1) from the last `order` samples and the move that follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.rivals.contract import Forecaster
from models.rivals.stretches import Stretches, filled, multi_step_error
from models.windows import WindowSet
from plant.errors import ModelError

_RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)  # of the mean square of a regressor


class Arx(Forecaster):
    """`theta` ((order * channels + n_mv + 1) x n_measured): the oldest sample first, then the move, then a constant."""

    theta: Tensor

    @property
    def size(self) -> int:
        return self.theta.numel()

    def learn(self, data: WindowSet, validation: WindowSet) -> None:
        """Least squares on one step; `order` and ridge are those with the least multi-step error on the validation
        runs. Raises `ModelError` when no sample follows a whole window."""
        self.double()
        whole = data.starts[data.starts - data.first[data.starts] >= data.window - 1]
        part = Stretches.of(data, whole).double()
        good = part.counted[:, 0].amin(-1) > 0
        if not good.any():
            raise ModelError("no whole window is followed by a reading of every tag", "ARX", "Record longer runs.")
        held = Stretches.of(validation, validation.starts).double()
        x = self._regressors(filled(part.values, part.mask)[good], part.u[good, 0])
        gram, cross = x.T @ x / len(x), x.T @ part.y[good, 0] / len(x)
        best, tail = math.inf, self.n_mv + 1
        for order in sorted({min(n, data.window) for n in (1, 2, 4, 8, 16)}):
            keep = torch.arange(len(gram))[-(order * self.channels + tail) :]
            for ridge in _RIDGES:
                penalty = torch.full((len(keep),), ridge, dtype=torch.float64)
                penalty[-1] = 0.0
                matrix = gram[keep][:, keep] + penalty.diag()
                theta = torch.linalg.lstsq(matrix, cross[keep], driver="gelsd").solution
                before = getattr(self, "theta", None)
                self.register_buffer("theta", theta)
                error = multi_step_error(self, held)
                if error < best or before is None:
                    best = error
                else:
                    self.register_buffer("theta", before)

    def _regressors(self, window: Tensor, u: Tensor) -> Tensor:
        return torch.cat([window.flatten(1), u, torch.ones_like(u[:, :1])], 1)

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        order = (self.theta.shape[0] - self.n_mv - 1) // self.channels
        window = filled(values, mask)[:, -order:]
        steps = []
        for i in range(u.shape[1]):
            y = self._regressors(window, u[:, i]) @ self.theta
            steps.append(y)
            if i + 1 < u.shape[1]:
                new = torch.cat([y, d[:, i + 1], u[:, i]], 1)
                window = torch.cat([window[:, 1:], new[:, None]], 1)
        return torch.stack(steps, 1)
