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

    `rollout` is in engineering units and differentiable; a rival implements `roll`, the same in normalised units. What is
    constant within a run it takes for moves that nobody makes: `n_mv` and `channels` count those in, at the end.
    """

    channel_mean: Tensor
    channel_std: Tensor

    def __init__(self, spec: PlantSpec, config: ModelConfig, channel: Scale, constant: Scale | None = None) -> None:
        super().__init__()
        self.spec, self.config, self.constant = spec, config, constant
        self.n_measured, self.n_dv = len(spec.measured), len(spec.dvs)
        self.n_mv = len(spec.mvs) + 2 * len(spec.constants)
        self.channels = self.n_measured + self.n_dv + self.n_mv
        for name, value in (("channel_mean", channel.mean), ("channel_std", channel.std)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def scale(self) -> Scale:
        """The normalisation of [measured, dvs, applied]."""
        return Scale(self.channel_mean.double().cpu().numpy(), self.channel_std.double().cpu().numpy())

    @property
    def size(self) -> int:
        """How many numbers were learned."""
        return sum(p.numel() for p in self.parameters())

    def rollout(self, window: Tensor, u: Tensor, d: Tensor, constants: Tensor | None = None) -> Tensor:
        """Measurements of the next k samples (batch x k x n_measured).

        `window` (batch x samples x channels) ends now: [measured, dvs, applied], NaN where missing; the last
        `config.window` samples of it are read. `u` (batch x k x n_mv): the moves of the next k samples. `d` (batch x k x
        n_dv): the disturbances in force before each of those steps, the first as measured now. No NaN in `u` and `d`.
        `constants` (batch x n_constant): NaN where unknown; None: the spec's nominal values.
        """
        mean, std = self.channel_mean, self.channel_std
        at, after = self.n_measured, self.n_measured + self.n_dv
        window, u, d = (v.to(mean.dtype) for v in (window[:, -self.config.window :], u, d))
        mask = torch.isfinite(window)
        values = torch.where(mask, (window - mean) / std, 0.0)
        mask, u = mask.to(mean.dtype), (u - mean[after:]) / std[after:]
        if self.constant is not None:
            values, mask, u = with_constants(values, mask, u, self._conditions(constants, len(u)).to(mean.dtype))
        y = self.roll(values, mask, u, (d - mean[at:after]) / std[at:after])
        return y * std[:at] + mean[:at]

    def _conditions(self, constants: Tensor | None, batch: int) -> Tensor:
        """Normalised constants and which are known (batch x 2 * n_constant)."""
        assert self.constant is not None
        if constants is None:
            constants = torch.tensor([[t.nominal for t in self.spec.constants]]).expand(batch, -1)
        mean, std = (torch.as_tensor(v, dtype=constants.dtype) for v in (self.constant.mean, self.constant.std))
        known = torch.isfinite(constants)
        return torch.cat([torch.where(known, (constants - mean) / std, 0.0), known.to(constants.dtype)], 1)

    @abstractmethod
    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        """`rollout` in normalised units: `values` (batch x window x channels) are 0 where `mask` is."""


def with_constants(values: Tensor, mask: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Windows, masks (batch x window x channels) and moves (batch x k x n_mv) with what holds (batch x any) behind each."""
    behind = [c[:, None].expand(-1, part.shape[1], -1) for part in (values, u)]
    values, u = torch.cat([values, behind[0]], -1), torch.cat([u, behind[1]], -1)
    return values, torch.cat([mask, torch.ones_like(behind[0])], -1), u
