"""How type-1 diabetes is treated without a model: basal-bolus with announced meals, and PD with insulin feedback without.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Decision, Observation, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.glucose.patients import Cohort, Therapy
from simulators.glucose.pump import Pump

Array = NDArray[np.float64]

_SLOPE_SAMPLES = 4  # a straight line through 15 min of CGM
_STALE_S = 720.0  # a CGM older than 12 min is no CGM: programmed basal
_ABSORPTION_MIN = 55.0  # time constant of each of two skin compartments: Hovorka et al., Physiol. Meas. 25 (2004) 905


class Clinical(ABC):
    """A clinic's settings and a pump for each plant of a batch; a subclass says what basal and bolus to ask for.

    **Arguments:** `therapy`, what the clinic wrote down for each patient (batch,); `suspend_below`, mg/dL: no basal
    while the glucose expected in `ahead_min` by the trend of the last 15 min is below it (None: never). A bolus is given
    all the same, as pumps that suspend on a predicted low do.

    Without a CGM for 12 min the programmed basal runs. Every decision is `FEASIBLE`; it predicts nothing. `ControlError`
    when the spec has no tags `CGM`, `CHO` and `INS`.
    """

    horizon = 1

    def __init__(
        self, spec: PlantSpec, therapy: Therapy, suspend_below: float | None = None, ahead_min: float = 30.0
    ) -> None:
        self._spec, self._therapy = spec, therapy
        self._suspend_below, self._ahead_min = suspend_below, ahead_min
        tags = ([t.name for t in spec.measured], [t.name for t in spec.dvs], [t.name for t in spec.mvs])
        targets = [t.tag for t in spec.targets]
        if "CGM" not in tags[0] or "CHO" not in tags[1] or tags[2] != ["INS"] or "CGM" not in targets:
            raise ControlError(
                "not a plant for insulin", f"clinical controller of {spec.name}",
                "It needs a CV CGM with a target, a DV CHO and one MV, INS.",
            )  # fmt: skip
        self._cgm, self._cho, self._target = tags[0].index("CGM"), tags[1].index("CHO"), targets.index("CGM")
        self._move = next(t.move for t in spec.mvs if t.move)
        self._dt_min = spec.sample_time_s / 60.0
        self.reset()

    def reset(self) -> None:
        self._seen: Array | None = None
        self._pump = Pump()
        self._pump.start(len(self._therapy.basal_U_per_h))
        self._age_s = np.full(len(self._therapy.basal_U_per_h), np.inf)

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        glucose, slope = self._trend(observation.measured[:, self._cgm])
        known = self._age_s <= _STALE_S
        announced = np.nan_to_num(observation.dvs[:, self._cho])
        target = targets.values[:, 0, self._target]
        basal, bolus = self._ask(glucose, slope, known, announced, target, observation.applied[:, 0])
        low = known & (glucose + self._ahead_min * slope < (self._suspend_below or -np.inf))
        rate = self._pump.deliver(np.where(low, 0.0, basal), bolus, self._spec.sample_time_s)[:, None]
        lowest = np.maximum(self._move.limits[0], targets.move_low)
        highest = np.minimum(self._move.limits[1], targets.move_high)
        return Decision.of_moves(self._spec, np.clip(rate, lowest, highest), time.perf_counter() - began)

    @abstractmethod
    def _ask(
        self, glucose: Array, slope: Array, known: NDArray[np.bool_], announced: Array, target: Array, applied: Array
    ) -> tuple[Array, Array]:
        """Basal U/h and a new bolus U (batch,) each, from glucose mg/dL and its slope a minute (the last known ones, where
        not `known`), grams announced since the last sample and the rate applied since then, U/h."""

    def _trend(self, cgm: Array) -> tuple[Array, Array]:
        """The last known glucose (batch,) and the slope of a straight line through the last 15 min, mg/dL a minute."""
        if self._seen is None:
            self._seen = np.tile(np.where(np.isfinite(cgm), cgm, 0.0), (_SLOPE_SAMPLES, 1))
        fresh = np.isfinite(cgm)
        never = ~np.isfinite(self._age_s)
        self._age_s = np.where(fresh, 0.0, self._age_s + self._spec.sample_time_s)
        self._seen = np.where(never & fresh, cgm, self._seen)  # the first reading has no slope
        self._seen = np.vstack([self._seen[1:], np.where(fresh, cgm, self._seen[-1])])
        weight = np.arange(_SLOPE_SAMPLES) - (_SLOPE_SAMPLES - 1) / 2
        return self._seen[-1], weight @ self._seen / (weight @ weight) / self._dt_min


class BasalBolus(Clinical):
    """The programmed basal, and for each announced meal one bolus: grams over the carbohydrate ratio, and above
    `correct_above` mg/dL the distance to the target over the correction factor. A meal nobody announces gets nothing."""

    correct_above = 150.0

    def _ask(
        self, glucose: Array, slope: Array, known: NDArray[np.bool_], announced: Array, target: Array, applied: Array
    ) -> tuple[Array, Array]:
        correction = np.where(known & (glucose > self.correct_above), glucose - target, 0.0)
        bolus = announced / self._therapy.ratio_g_per_U + correction / self._therapy.correction_mg_dL_per_U
        return self._therapy.basal_U_per_h, np.where(announced > 0.0, bolus, 0.0)


@dataclass(frozen=True)
class PdGains:
    """rate = basal + ((G + lead_min dG/dt - target) / correction factor - feedback * insulin above basal) / within_h, at
    most `most` times the basal. Numbers, or (batch,) each."""

    lead_min: float | Array
    feedback: float | Array
    within_h: float | Array
    most: float | Array = 12.0


class PdInsulinFeedback(Clinical):
    """No announcements: proportional and derivative action on the CGM, less what the insulin still under the skin will do
    (the structure compared with PID in PubMed Central PMC3570882), scaled by each patient's correction factor and basal."""

    def __init__(
        self, spec: PlantSpec, therapy: Therapy, gains: PdGains,
        suspend_below: float | None = 80.0, ahead_min: float = 30.0,
    ) -> None:  # fmt: skip
        self._gains = gains
        super().__init__(spec, therapy, suspend_below, ahead_min)

    def reset(self) -> None:
        super().reset()
        self._skin = np.zeros((2, len(self._therapy.basal_U_per_h)))  # U above what the basal keeps there

    def _ask(
        self, glucose: Array, slope: Array, known: NDArray[np.bool_], announced: Array, target: Array, applied: Array
    ) -> tuple[Array, Array]:
        basal, g = self._therapy.basal_U_per_h, self._gains
        self._absorb(np.nan_to_num(applied - basal) / 60.0)
        wanted = (glucose + g.lead_min * slope - target) / self._therapy.correction_mg_dL_per_U
        rate = basal + (wanted - g.feedback * self._skin.sum(0)) / g.within_h
        return np.where(known, np.clip(rate, 0.0, g.most * basal), basal), np.zeros_like(basal)

    def _absorb(self, extra_U_per_min: Array) -> None:
        """One sample of two skin compartments in series, exactly, for a constant rate."""
        keep, t = np.exp(-self._dt_min / _ABSORPTION_MIN), _ABSORPTION_MIN
        rest = extra_U_per_min * t
        first, second = self._skin - rest
        self._skin = np.stack([first * keep, second * keep + first * keep * self._dt_min / t]) + rest


# Less timid than alone: a learned guardrail watches. Chosen on training patients.
BEHIND_GUARDRAIL = PdGains(lead_min=60.0, feedback=0.5, within_h=0.1, most=60.0)

# Least mean glycaemia risk index of 48 sets on 40 training patients a cohort, three days of S3, target 110 mg/dL:
# `tune` in benchmarks/validation/glucose.py, whose table stands in the results.
TUNED = {
    Cohort.ADULT: PdGains(lead_min=30.0, feedback=0.5, within_h=0.25),
    Cohort.ADOLESCENT: PdGains(lead_min=60.0, feedback=1.0, within_h=0.25),
    Cohort.CHILD: PdGains(lead_min=30.0, feedback=1.25, within_h=0.25),
}
