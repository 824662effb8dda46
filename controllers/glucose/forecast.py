"""`InsulinForecast`: the learned forecast of glucose as a `QuantileForecast`, with the history of the patients it speaks of.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controllers.contracts import Array, Observation
from models.glucose_forecast import (
    DAY,
    DAYS,
    REACH,
    STRIDE,
    WINDOW,
    GlucoseForecast,
    clock,
    known,
    scaled_glucose,
    scaled_rate,
    slow,
)  # fmt: skip
from plant.spec import PlantSpec

_FROM, _TO = 2, 10  # the steps of 15 min that count: what a dose does begins after the first and is seen by the tenth
_LOWEST = 0  # of the quantiles


class InsulinForecast:
    """Patients with basal rates U/h and weights kg (batch,). Before the first sample nothing happened; a missing CGM is the last
    one. `limit_mg_dL`: margins are distances above it. `clocked` (batch,): who is shown the hour of the day, which `time_s` must
    then count from midnight; without it what was seen at the same hours of the days before is remembered all the same.
    """

    def __init__(
        self,
        spec: PlantSpec,
        model: GlucoseForecast,
        basal: Array,
        weight: Array,
        limit_mg_dL: float,
        clocked: bool | NDArray[np.bool_] = False,
    ) -> None:
        self.batch, self._model, self._basal, self._limit = len(basal), model, basal, limit_mg_dL
        self.known = torch.as_tensor(known(basal, weight), dtype=torch.float32)
        self._clocked = np.broadcast_to(np.asarray(clocked), basal.shape)
        self._at = [t.name for t in spec.measured].index("CGM")
        self.reset()

    def reset(self) -> None:
        self._cgm: Array | None = None
        self._applied = np.zeros((self.batch, REACH))
        self._samples = 0
        self._z: Tensor | None = None

    def see(self, observation: Observation) -> None:
        cgm, applied = observation.measured[:, self._at], observation.applied[:, 0]
        if self._cgm is None:
            self._cgm = np.repeat(scaled_glucose(np.where(np.isfinite(cgm), cgm, 140.0))[:, None], REACH, 1)
            applied = self._basal
        latest = np.where(np.isfinite(cgm), scaled_glucose(cgm), self._cgm[:, -1])
        rate = scaled_rate(np.where(np.isfinite(applied), applied, self._basal), self._basal)
        for row, new in ((self._cgm, latest), (self._applied, rate)):
            row[:, :-1] = row[:, 1:]
            row[:, -1] = new
        self._samples += 1
        with torch.inference_mode():
            self._z = self._encode(observation.time_s / 3600.0)

    def margin(self, plants: NDArray[np.intp], moves: Array) -> Array:
        """See `QuantileForecast`: mg/dL above the limit, of the lowest quantile, the pump stopped after `moves`."""
        assert self._z is not None
        k = moves.shape[1]
        rates = np.full((len(plants) * k, _TO), scaled_rate(np.zeros(1), np.ones(1))[0])
        rates[:, 0] = scaled_rate(moves[:, :, 0] / STRIDE, self._basal[plants, None]).ravel()
        each = torch.as_tensor(np.repeat(plants, k))
        with torch.inference_mode():
            seen = self._model.forecast(self._z[each], torch.as_tensor(rates, dtype=torch.float32), self.known[each])
        low = seen[:, _FROM - 1 :, 1 + _LOWEST].amin(1).view(len(plants), k)
        return np.asarray(low.numpy(), float) - self._limit

    def _encode(self, hour: float) -> Tensor:
        """z (batch x latent) at `hour` of the day."""
        assert self._cgm is not None

        def tensor(a: Array) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32)

        hours = clock(np.full(self.batch, hour % 24.0)) * self._clocked[:, None]
        days = min((self._samples - 1) / (DAY * DAYS), 1.0)
        return self._model.encode(
            tensor(self._cgm[:, -WINDOW:]), tensor(self._applied[:, -WINDOW:]),
            tensor(slow(self._cgm, self._applied)[:, -1]), tensor(hours), torch.full((self.batch, 1), days), self.known,
        )  # fmt: skip
