"""A world model that predicts observations: the JEPA's encoder and predictor, a decoder, and no latent target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.rivals.contract import Forecaster
from models.windows import Scale
from models.world_model import Mlp
from plant.spec import PlantSpec


class Reconstruction(Forecaster):
    """Trained only by what the decoder says of the present and of every step ahead."""

    def __init__(self, spec: PlantSpec, config: ModelConfig, channel: Scale, constant: Scale | None = None) -> None:
        super().__init__(spec, config, channel, constant)
        d = config.latent
        self.encoder = Mlp(2 * config.window * self.channels, config.encoder_width, d)
        self.predictor = Mlp(d + self.n_mv + self.n_dv, config.predictor_width, d)
        for layer in (self.predictor.linear, self.predictor.last):
            nn.init.zeros_(layer.weight)
        self.decoder = Mlp(d, config.head_width, self.n_measured)

    def encode_normalised(self, values: Tensor, mask: Tensor) -> Tensor:
        """Normalised windows and masks (..., window, channels) -> z (..., latent)."""
        return self.encoder(torch.cat([(values * mask).flatten(-2), mask.flatten(-2)], -1))

    def now_and_ahead(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        """What the decoder says (batch x k + 1 x n_measured), the present first."""
        z = [self.encode_normalised(values, mask)]
        for i in range(u.shape[1]):
            z.append(z[-1] + self.predictor(torch.cat([z[-1], u[:, i], d[:, i]], -1)))
        return self.decoder(torch.stack(z, 1))

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        return self.now_and_ahead(values, mask, u, d)[:, 1:]
