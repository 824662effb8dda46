"""What has been seen of patients, as the glucose forecast wants it.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.glucose_forecast import (
    DAY,
    DAYS,
    REACH,
    WINDOW,
    GlucoseForecast,
    clock,
    known,
    scaled_glucose,
    scaled_rate,
    slow,
)  # fmt: skip

Array = NDArray[np.float64]


class History:
    """CGM and insulin of a batch of patients with basal rates U/h and weights kg (batch,). Before the first sample nothing
    happened; a missing CGM is the last one."""

    def __init__(self, basal: Array, weight: Array) -> None:
        self._basal, self.known = basal, torch.as_tensor(known(basal, weight), dtype=torch.float32)
        self._cgm: Array | None = None
        self._applied = np.zeros((len(basal), REACH))
        self._samples = 0

    def see(self, cgm: Array, applied: Array) -> None:
        """A sample: CGM mg/dL (NaN: none) and the rate U/h in force until now (batch,)."""
        if self._cgm is None:
            self._cgm = np.repeat(scaled_glucose(np.where(np.isfinite(cgm), cgm, 140.0))[:, None], REACH, 1)
            applied = self._basal
        latest = np.where(np.isfinite(cgm), scaled_glucose(cgm), self._cgm[:, -1])
        rate = scaled_rate(np.where(np.isfinite(applied), applied, self._basal), self._basal)
        for row, new in ((self._cgm, latest), (self._applied, rate)):
            row[:, :-1] = row[:, 1:]
            row[:, -1] = new
        self._samples += 1

    def encode(self, model: GlucoseForecast, hour: float, clocked: NDArray[np.bool_]) -> Tensor:
        """z (batch x latent) at `hour` of the day, shown to those who are `clocked` (batch,)."""
        assert self._cgm is not None
        n = len(self._basal)

        def tensor(a: Array) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32)

        hours = clock(np.full(n, hour % 24.0)) * clocked[:, None]
        days = min((self._samples - 1) / (DAY * DAYS), 1.0)
        return model.encode(
            tensor(self._cgm[:, -WINDOW:]), tensor(self._applied[:, -WINDOW:]),
            tensor(slow(self._cgm, self._applied)[:, -1]), tensor(hours), torch.full((n, 1), days), self.known,
        )  # fmt: skip
