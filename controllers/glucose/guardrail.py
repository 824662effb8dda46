"""`GlucoseGuardrail`: any insulin controller behind a learned low quantile of glucose.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controllers.baselines.clinical import PdGains
from controllers.contracts import Controller, Decision, Observation, Targets
from controllers.glucose.history import History
from models.glucose_forecast import STRIDE, GlucoseForecast, scaled_rate
from plant.spec import PlantSpec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GuardrailConfig:
    """`floor_mg_dL`: what the low quantile has to stay above at the beginning; it is then adapted to each patient in
    `floor_low`..`floor_high`: a sample with the CGM below 70 raises it by `rise` mg/dL (below 54 by four times that), and each
    sample lowers it by `rise * budget`. `from_step`..`to_step`: steps of 15 min that count. Numbers, or (batch,) each."""

    floor_mg_dL: float | Array = 95.0
    floor_low: float | Array = 65.0
    floor_high: float | Array = 130.0
    rise: float | Array = 0.3
    budget: float | Array = 0.01
    from_step: int = 2
    to_step: int = 10
    quantile: int = 0
    candidates: int = 6
    step_U: float = 0.05


# Less timid than alone: the guardrail watches. Chosen on training patients.
BEHIND_GUARDRAIL = PdGains(lead_min=60.0, feedback=0.5, within_h=0.1, most=60.0)


class GlucoseGuardrail:
    """The largest part of the dose `inner` asks for after which, if the pump stopped, the forecast's low quantile of glucose
    stays above the patient's floor. It only ever takes away: how much, U/h, is the energy `moved`."""

    def __init__(
        self, spec: PlantSpec, forecast: GlucoseForecast, inner: Controller, basal: Array, weight: Array,
        config: GuardrailConfig | None = None, clock: bool | NDArray[np.bool_] = True,
    ) -> None:  # fmt: skip
        self._spec, self._forecast, self.inner = spec, forecast, inner
        self._clock = np.broadcast_to(np.asarray(clock), basal.shape)
        self._basal, self._weight, self.config = basal, weight, config or GuardrailConfig()
        self.horizon = inner.horizon
        self._cgm = [t.name for t in spec.measured].index("CGM")
        self.reset()

    def reset(self) -> None:
        self.inner.reset()
        self.history = History(self._basal, self._weight)
        self.floor = np.broadcast_to(np.asarray(self.config.floor_mg_dL, float), self._basal.shape).copy()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        answer = self.inner.decide(observation, targets)
        cgm = observation.measured[:, self._cgm]
        self.history.see(cgm, observation.applied[:, 0])
        asked = np.nan_to_num(answer.moves[:, 0])
        rate = asked * self._share(asked, observation.time_s / 3600.0)
        step = self.config.step_U * 3600.0 / self._spec.sample_time_s
        rate = np.floor(rate / step + 1e-6) * step
        self._adapt(cgm)
        moves = np.minimum(rate, asked)[:, None]
        return dataclasses.replace(
            answer, moves=moves, plan=np.concatenate([moves[:, None], answer.plan[:, 1:]], 1),
            energy={**answer.energy, "moved": asked - moves[:, 0]}, solve_time_s=time.perf_counter() - began,
        )  # fmt: skip

    def _share(self, asked: Array, hour: float) -> Array:
        """The largest share (batch,) of `asked` that keeps the floor; 0 where not even no insulin does."""
        share = np.zeros(len(asked))
        shares = np.linspace(0.0, 1.0, self.config.candidates)
        with torch.inference_mode():
            z = self.history.encode(self._forecast, hour, self._clock)
            some = np.flatnonzero(asked > 0)
            ends = self._room(z, some, asked, shares[[0, -1]])
            share[some[(ends >= 0).all(1)]] = 1.0
            # Only where nothing is safe and all of it is not, what lies between is looked at.
            open_ = (ends[:, 0] >= 0) & (ends[:, 1] < 0)
            between = self._room(z, some[open_], asked, shares[1:-1])
        share[some[open_]] = _first_crossing(shares, np.hstack([ends[open_, :1], between, ends[open_, 1:]]))
        return share

    def _room(self, z: Tensor, some: NDArray[np.intp], asked: Array, shares: Array) -> Array:
        """How far the low quantile of patients `some` stays above their floors after `shares` (n,) of `asked` and no more:
        (some x n), mg/dL."""
        c, n = self.config, len(shares)
        rates = np.full((len(some) * n, c.to_step), scaled_rate(np.zeros(1), np.ones(1))[0])
        rates[:, 0] = scaled_rate(asked[some, None] * shares / STRIDE, self._basal[some, None]).ravel()
        each = torch.as_tensor(np.repeat(some, n))
        seen = self._forecast.forecast(z[each], torch.as_tensor(rates, dtype=torch.float32), self.history.known[each])
        low = seen[:, c.from_step - 1 :, 1 + c.quantile].amin(1).view(len(some), n)
        return np.asarray(low.numpy() - self.floor[some, None], float)

    def _adapt(self, cgm: Array) -> None:
        c = self.config
        low = (cgm < 70.0) + 3.0 * (cgm < 54.0)
        self.floor = np.clip(self.floor + c.rise * (low - c.budget), c.floor_low, c.floor_high)


def _first_crossing(shares: Array, room: Array) -> Array:
    """The largest of `shares` (n,) up to which `room` (batch x n) is nowhere negative, in between by a straight line."""
    n, rows = len(shares), np.arange(len(room))
    fails = room < 0
    at = np.where(fails.any(1), fails.argmax(1), n)
    i = np.clip(at, 1, n - 1)
    a, b = room[rows, i - 1], room[rows, i]
    part = shares[i - 1] + (shares[i] - shares[i - 1]) * a / np.maximum(a - b, 1e-9)
    return np.where(at == 0, 0.0, np.where(at == n, 1.0, part))
