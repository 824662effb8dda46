"""The world model behind the rivals' interface."""

from __future__ import annotations

import torch
from torch import Tensor

from models.rivals.contract import Forecaster
from models.world_model import WorldModel


class LatentForecaster(Forecaster):
    """Encodes the window, advances the latent, reads it out."""

    def __init__(self, model: WorldModel) -> None:
        scale = model.scale()
        super().__init__(model.spec, model.config, scale, model.constant_scale())
        self.model = model

    def encode_normalised(self, values: Tensor, mask: Tensor) -> Tensor:
        """Normalised windows and masks (..., window, channels) -> z (..., latent)."""
        return self.model.encode_normalised(values, mask)

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        own, moves = values.shape[-1] - 2 * self.model.n_constant, self.model.n_mv
        c = u[:, 0, moves:]
        z = self.model.encode_normalised(values[..., :own], mask[..., :own], c)
        steps = []
        for i in range(u.shape[1]):
            z = self.model.advance_normalised(z, u[:, i, :moves], d[:, i], c)
            steps.append(self.model.read_out_head(z))
        return torch.stack(steps, 1)
