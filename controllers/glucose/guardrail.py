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

from controllers.contracts import Controller, Decision, Observation, Targets
from controllers.glucose.history import History, hour_of
from models.glucose_forecast import STRIDE, GlucoseForecast, scaled_rate
from plant.spec import PlantSpec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GuardrailConfig:
    """`floor_mg_dL`: what the low quantile has to stay above at the beginning; it is then adapted to each patient in
    `floor_low`..`floor_high`: a sample with the CGM below 70 raises it by `rise` mg/dL (below 54 by four times that), and each
    sample lowers it by `rise * budget`. `from_step`..`to_step`: steps of 15 min that count. Numbers, or (batch,) each."""

    floor_mg_dL: float | Array = 85.0
    floor_low: float | Array = 65.0
    floor_high: float | Array = 130.0
    rise: float | Array = 0.3
    budget: float | Array = 0.02
    from_step: int = 2
    to_step: int = 10
    quantile: int = 0
    candidates: int = 9
    step_U: float = 0.05


class GlucoseGuardrail:
    """The largest part of the dose `inner` asks for after which, if the pump stopped, the forecast's low quantile of glucose
    stays above the patient's floor. It only ever takes away."""

    def __init__(
        self, spec: PlantSpec, forecast: GlucoseForecast, inner: Controller, basal: Array, weight: Array,
        config: GuardrailConfig | None = None, clock: bool = True,
    ) -> None:  # fmt: skip
        self._spec, self._forecast, self.inner, self._clock = spec, forecast, inner, clock
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
        rate = asked * self._share(asked, hour_of(observation.time_s) if self._clock else None)
        step = self.config.step_U * 3600.0 / self._spec.sample_time_s
        rate = np.floor(rate / step + 1e-6) * step
        self._adapt(cgm)
        moves = np.minimum(rate, asked)[:, None]
        return dataclasses.replace(
            answer, moves=moves, plan=np.concatenate([moves[:, None], answer.plan[:, 1:]], 1),
            solve_time_s=time.perf_counter() - began,
        )  # fmt: skip

    def _share(self, asked: Array, hour: float | None) -> Array:
        """The largest share (batch,) of `asked` that keeps the floor; 0 where not even no insulin does."""
        c, n = self.config, self.config.candidates
        shares = np.linspace(0.0, 1.0, n)
        with torch.inference_mode():
            z = self.history.encode(self._forecast, hour)
            first = scaled_rate(asked[:, None] * shares / STRIDE, self._basal[:, None])
            rates = np.repeat(first.reshape(-1, 1), c.to_step, 1)
            rates[:, 1:] = scaled_rate(np.zeros(1), np.ones(1))[0]
            each = torch.repeat_interleave(torch.arange(len(asked)), n)
            seen = self._forecast.forecast(
                z[each], torch.as_tensor(rates, dtype=torch.float32), self.history.known[each]
            )
            low = seen[:, c.from_step - 1 :, 1 + c.quantile].amin(1).view(-1, n).double().numpy()
        room = low - self.floor[:, None]
        fails = room < 0
        first_fail = np.where(fails.any(1), fails.argmax(1), n)
        rows, i = np.arange(len(asked)), np.clip(first_fail, 1, n - 1)
        a, b = room[rows, i - 1], room[rows, i]
        part = shares[i - 1] + (shares[i] - shares[i - 1]) * a / np.maximum(a - b, 1e-9)
        return np.where(first_fail == 0, 0.0, np.where(first_fail == n, 1.0, part))

    def _adapt(self, cgm: Array) -> None:
        c = self.config
        low = (cgm < 70.0) + 3.0 * (cgm < 54.0)
        self.floor = np.clip(self.floor + c.rise * (low - c.budget), c.floor_low, c.floor_high)
