"""A recurrent NNARX in measurement space: a GRU reads the window, then its own predictions, trained over the horizon."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.rivals.contract import Forecaster
from models.windows import Scale
from plant.spec import PlantSpec


class Gru(Forecaster):
    """Each step sees [y, d, the move that follows, mask of y and d] and answers the next y: linearly in what it sees, plus
    what the hidden state adds. `width` follows from a budget of numbers to learn."""

    def __init__(
        self, spec: PlantSpec, config: ModelConfig, channel: Scale, budget: int, constant: Scale | None = None
    ) -> None:
        super().__init__(spec, config, channel, constant)
        inputs = self.channels + self.n_measured + self.n_dv
        width = 1
        while 3 * (width + 1) * (width + 1 + inputs + 2) + (width + 1) * self.n_measured <= budget:
            width += 1
        self.cell = nn.GRUCell(inputs, width)
        self.head = nn.Linear(width, self.n_measured)
        self.direct = nn.Linear(inputs, self.n_measured, bias=False)

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        seen, nm = self.n_measured + self.n_dv, self.n_measured
        h = values.new_zeros(len(values), self.cell.hidden_size)
        guess = values.new_zeros(len(values), nm)
        for i in range(values.shape[1] - 1):
            h, guess = self._step(values[:, i, :seen], mask[:, i, :seen], values[:, i + 1, seen:], h, guess)
        y, m = values[:, -1, :nm], mask[:, -1, :nm]
        steps = []
        for i in range(u.shape[1]):
            at = torch.cat([y, d[:, i]], 1)
            h, y = self._step(at, torch.cat([m, torch.ones_like(d[:, i])], 1), u[:, i], h, guess)
            m, guess = torch.ones_like(y), y
            steps.append(y)
        return torch.stack(steps, 1)

    def _step(self, at: Tensor, mask: Tensor, u: Tensor, h: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """A missing measurement is replaced by what was predicted for it."""
        nm = self.n_measured
        y = torch.where(mask[:, :nm] > 0, at[:, :nm], guess)
        x = torch.cat([y, at[:, nm:] * mask[:, nm:], u, mask], 1)
        h = self.cell(x, h)
        return h, self.head(h) + self.direct(x)
