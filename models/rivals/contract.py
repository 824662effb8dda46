"""`Forecaster`: the one prediction interface of the world model and of everything it is measured against."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.windows import Scale
from plant.spec import PlantSpec


class Forecaster(nn.Module, ABC):
    """Predicts measurements from a window of samples, the moves to come and the disturbances they meet.

    `rollout` is in engineering units and differentiable; a rival implements `roll`, the same in normalised units.
    """

    channel_mean: Tensor
    channel_std: Tensor

    def __init__(self, spec: PlantSpec, config: ModelConfig, channel: Scale) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.n_measured, self.n_dv, self.n_mv = len(spec.measured), len(spec.dvs), len(spec.mvs)
        self.channels = self.n_measured + self.n_dv + self.n_mv
        for name, value in (("channel_mean", channel.mean), ("channel_std", channel.std)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    @property
    def size(self) -> int:
        """How many numbers were learned."""
        return sum(p.numel() for p in self.parameters())

    def rollout(self, window: Tensor, u: Tensor, d: Tensor) -> Tensor:
        """Measurements of the next k samples (batch x k x n_measured).

        `window` (batch x samples x channels) ends now: [measured, dvs, applied], NaN where missing; the last
        `config.window` samples of it are read. `u` (batch x k x n_mv): the moves of the next k samples. `d` (batch x k x
        n_dv): the disturbances in force before each of those steps, the first as measured now. No NaN in `u` and `d`.
        """
        mean, std = self.channel_mean, self.channel_std
        at, after = self.n_measured, self.n_measured + self.n_dv
        window, u, d = (v.to(mean.dtype) for v in (window[:, -self.config.window :], u, d))
        mask = torch.isfinite(window)
        values = torch.where(mask, (window - mean) / std, 0.0)
        y = self.roll(
            values, mask.to(mean.dtype), (u - mean[after:]) / std[after:], (d - mean[at:after]) / std[at:after]
        )
        return y * std[:at] + mean[:at]

    @abstractmethod
    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        """`rollout` in normalised units: `values` (batch x window x channels) are 0 where `mask` is."""
