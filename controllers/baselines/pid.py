"""A PID controller as a `Controller`: a peer in benchmarks, and a controller that needs no model."""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from controllers.contracts import Decision, Observation, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec

Array = NDArray[np.float64]


class PidLoop(BaseModel):
    """One loop, from the error of the CV `pv` to the MV `mv`: u = bias + gain * (e + integral(e) / integral_s - derivative_s * dpv/dt), e = target - pv. Signs go with the gain, times are plant seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pv: str
    mv: str
    gain: float
    integral_s: Annotated[float, Field(gt=0)]
    derivative_s: Annotated[float, Field(ge=0)] = 0.0


class PidController:
    """Independent PID loops for a batch of plants of `spec`; MVs without a loop stay where they are.

    Each loop starts from the move in force, and follows it when it is not the one asked for (clamped, in LOCAL, moved by
    hand), so that it neither bumps nor winds up. A loop whose CV is missing holds. It predicts nothing: predictions and
    margins are NaN, and every decision is `FEASIBLE`, or `INFEASIBLE` where a move in force is not known.

    Raises `ControlError` when a loop names a CV without a target, no MV, or an MV twice.
    """

    horizon = 1

    def __init__(self, spec: PlantSpec, loops: tuple[PidLoop, ...]) -> None:
        self._spec = spec
        mvs, measured, targets = (
            [t.name for t in spec.mvs],
            [t.name for t in spec.measured],
            [t.tag for t in spec.targets],
        )
        for loop in loops:
            if loop.pv not in targets or loop.mv not in mvs or [p.mv for p in loops].count(loop.mv) > 1:
                raise ControlError(
                    f"a loop from {loop.pv} to {loop.mv}",
                    f"PID of {spec.name}",
                    f"Each MV ({', '.join(mvs)}) may have one loop, from a CV with a target ({', '.join(targets)}).",
                )
        self._mv = [mvs.index(p.mv) for p in loops]
        self._pv = [measured.index(p.pv) for p in loops]
        self._target = [targets.index(p.pv) for p in loops]
        self._gain = np.array([p.gain for p in loops])
        self._integral_s = np.array([p.integral_s for p in loops])
        self._derivative_s = np.array([p.derivative_s for p in loops])
        self._limits = np.array([t.move.limits for t in spec.mvs if t.move])
        self._rate = np.array([t.move.rate_per_s for t in spec.mvs if t.move]) * spec.sample_time_s
        self.reset()

    def reset(self) -> None:
        self._last_pv: Array | None = None
        self._asked: Array | None = None
        self._integral: Array | None = None

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        applied, pv = observation.applied, observation.measured[:, self._pv]
        error = np.nan_to_num(np.asarray(targets.values)[:, 0][:, self._target] - pv)
        last = pv if self._last_pv is None else self._last_pv
        slope = np.nan_to_num((pv - last) / self._spec.sample_time_s)
        proportional = self._gain * (error - self._derivative_s * slope)
        held = applied[:, self._mv]

        step = self._gain * error * self._spec.sample_time_s / self._integral_s
        if self._integral is None or self._asked is None:
            self._integral = held - proportional
        else:
            # Back-calculation: what the plant did not take of the last move is taken out of the integral.
            self._integral = self._integral + np.nan_to_num(held - self._asked) + step
        self._integral = np.where(np.isfinite(self._integral), self._integral, held - proportional)

        moves = applied.copy()
        known = np.isfinite(pv)
        moves[:, self._mv] = np.where(known, self._integral + proportional, held)
        low = np.maximum(self._limits[:, 0], targets.move_low)
        high = np.minimum(self._limits[:, 1], targets.move_high)
        raw = moves[:, self._mv]
        moves = np.clip(np.clip(moves, low, high), applied - self._rate, applied + self._rate)
        self._integral = self._integral + np.where(known, moves[:, self._mv] - raw, 0.0)
        self._asked, self._last_pv = moves[:, self._mv], np.where(known, pv, last)
        return Decision.of_moves(self._spec, moves, time.perf_counter() - began)
