"""The last check before an insulin pump: deterministic, without any model, behind whatever decides.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller, Decision, Observation, Status, Targets
from controllers.planning.filtered import Filter
from plant.spec import PlantSpec
from simulators.glucose.patients import Therapy

Array = NDArray[np.float64]

_PEAK_MIN, _DURATION_MIN = 75.0, 300.0
_STALE_S = 720.0
_SLOPE_SAMPLES = 4
_BLAMED, _NEARLY, _LEAST_BLAME = 48, 0.7, 0.2
_NEAR, _DAY_S = 80.0, 86_400.0


def on_board(minutes: Array) -> Array:
    """Share of a dose still to act after `minutes`: the exponential curve of oref0 with its peak at 75 min and 5 h of duration
    (openaps/oref0, lib/iob/calculate.js)."""
    tp, td = _PEAK_MIN, _DURATION_MIN
    tau = tp * (1 - tp / td) / (1 - 2 * tp / td)
    a = 2 * tau / td
    s = 1 / (1 - a + (1 + a) * np.exp(-td / tau))
    t = np.minimum(minutes, td)
    left = 1 - s * (1 - a) * ((t**2 / (tau * td * (1 - a)) - t / tau - 1) * np.exp(-t / tau) + 1)
    return np.where(minutes >= td, 0.0, left)


@dataclass(frozen=True)
class Limits:
    """Suspend below `suspend_mg_dL`, now or in `ahead_min` by the trend. Insulin on board above the basal's may lower glucose by
    `strength` times the clinic's correction factor and must leave it above `leave_mg_dL` (what a rise of the last 15 min adds in
    `rise_min` counted in), and never be more than `most_daily` of the daily dose. `most_basal`: of the basal rate, at any time.

    `strength` is where a patient begins. A sample with the CGM below 70 multiplies it by exp(`rise`) (below 54 by four times
    that), less where the doses before were well below what was allowed, and each sample by exp(-`rise` `budget`), with `calm` as much again after a day not below 80, within `weakest`..`strongest`. `rise` 0: it stays."""

    suspend_mg_dL: float | Array = 85.0
    ahead_min: float | Array = 30.0
    strength: float | Array = 1.4
    leave_mg_dL: float | Array = 100.0
    rise_min: float | Array = 30.0
    weakest: float | Array = 0.3
    strongest: float | Array = 3.0
    rise: float | Array = 0.08
    budget: float | Array = 0.01
    calm: float | Array = 1.0
    most_daily: float | Array = 0.25
    most_basal: float | Array = 60.0
    pump_U_per_h: float = 90.0
    step_U: float = 0.05


class LastCheck(Filter):
    """`inner`, its rate cut to the limits. A CGM older than 12 min: the programmed basal at most. It only ever takes away.

    Where the pump suspends by itself (an interlock of the plant on the CGM), nothing is asked for until it resumes: it would
    refuse the dose, and a loop whose moves are refused gives up.
    """

    def __init__(self, spec: PlantSpec, inner: Controller, therapy: Therapy, limits: Limits | None = None) -> None:
        self.spec, self.inner, self._therapy, self.limits = spec, inner, therapy, limits or Limits()
        self.horizon, self.batch = inner.horizon, len(therapy.basal_U_per_h)
        self._cgm = [t.name for t in spec.measured].index("CGM")
        self._minutes = spec.sample_time_s / 60.0
        own = [i for i in spec.regulatory.interlocks if i.tag == "CGM" and i.trip < i.reset]
        self._trip, self._reset = (max((getattr(i, at) for i in own), default=-np.inf) for at in ("trip", "reset"))
        samples = int(_DURATION_MIN / self._minutes)
        self._left = on_board(self._minutes * (np.arange(samples, dtype=float) + 0.5))[::-1]
        self.reset()

    def reset(self) -> None:
        super().reset()
        n = self.batch
        self._above = np.zeros((n, len(self._left)))  # U a sample above the basal's, newest last
        self._seen = np.full((n, _SLOPE_SAMPLES), np.nan)
        self._age_s = np.full(n, np.inf)
        self._calm_s = np.zeros(n)
        self._full = np.zeros((n, _BLAMED))  # whether a rate was near the most allowed, newest last
        self._allowed = np.full(n, np.inf)
        self._suspended = np.zeros(n, bool)
        self.strength = np.broadcast_to(np.asarray(self.limits.strength, float), n).copy()

    def _nearest(self, observation: Observation, targets: Targets, answer: Decision | None, began: float) -> Decision:
        most = self._most(observation.measured[:, self._cgm], observation.applied[:, 0])
        if answer is None:
            nothing = Decision.of_moves(self.spec, np.zeros((self.batch, 1)), 0.0)
            return dataclasses.replace(nothing, status=(Status.INFEASIBLE,) * self.batch)
        step = self.limits.step_U * 60.0 / self._minutes
        asked = np.nan_to_num(answer.moves[:, 0], nan=0.0, posinf=0.0)
        rate = np.where(asked <= most, asked, np.floor(np.minimum(asked, most) / step + 1e-6) * step)
        moves = np.maximum(rate, 0.0)[:, None]
        plan = np.concatenate([moves[:, None], answer.plan[:, 1:]], 1)
        return dataclasses.replace(answer, moves=moves, plan=plan)

    def _most(self, cgm: Array, applied: Array) -> Array:
        """The highest rate (batch,) that may run until the next sample, U/h."""
        c, basal, hours = self.limits, self._therapy.basal_U_per_h, self._minutes / 60.0
        self._above = np.roll(self._above, -1, axis=1)
        self._above[:, -1] = np.where(np.isfinite(applied), applied - basal, 0.0) * hours
        self._full = np.roll(self._full, -1, axis=1)
        self._full[:, -1] = np.nan_to_num(applied) >= _NEARLY * self._allowed
        fresh = np.isfinite(cgm)
        self._age_s = np.where(fresh, 0.0, self._age_s + self.spec.sample_time_s)
        now = np.where(fresh, cgm, self._seen[:, -1])
        low = 1.0 * (cgm < 70.0) + 3.0 * (cgm < 54.0)
        self._calm_s = np.where(now < _NEAR, 0.0, self._calm_s + self.spec.sample_time_s)
        budget = c.budget * np.where(self._calm_s > _DAY_S, 1.0 + c.calm, 1.0)
        self.strength = np.clip(self.strength * np.exp(c.rise * (low * self._blame() - budget)), c.weakest, c.strongest)
        self._seen = np.roll(self._seen, -1, axis=1)
        self._seen[:, -1] = now
        past = np.where(np.isfinite(self._seen), self._seen, now[:, None])
        weight = np.arange(_SLOPE_SAMPLES) - (_SLOPE_SAMPLES - 1) / 2
        slope = past @ weight / (weight @ weight) / self._minutes
        board = np.maximum(self._above @ self._left, 0.0)
        room = now + c.rise_min * np.maximum(slope, 0.0) - c.leave_mg_dL
        may = np.clip(
            room / (self.strength * self._therapy.correction_mg_dL_per_U), 0.0, c.most_daily * self._therapy.daily_U
        )
        rate = np.where(room > 0, basal, 0.0) + np.maximum(may - board, 0.0) / hours
        rate = np.where(board > may, np.where(board > may + basal * 0.5, 0.0, basal), rate)
        rate = np.minimum(np.minimum(rate, c.most_basal * basal), c.pump_U_per_h)
        low = np.minimum(now, now + c.ahead_min * slope) < c.suspend_mg_dL
        rate = np.where(low, 0.0, rate)
        self._suspended = (now <= self._trip) | (self._suspended & ~(now >= self._reset))
        self._allowed = np.where(self._suspended, 0.0, np.where(self._age_s <= _STALE_S, rate, basal))
        return self._allowed

    def _blame(self) -> Array:
        """The share (batch,) of the insulin above the basal in the last 4 h that was about as much as this check allowed, at least
        a fifth: a low that smaller doses led to says little of what the check should allow."""
        dose = np.maximum(self._above[:, -_BLAMED:], 0.0)
        share = (dose * self._full).sum(1) / np.maximum(dose.sum(1), 1e-9)
        return np.clip(share, _LEAST_BLAME, 1.0)
