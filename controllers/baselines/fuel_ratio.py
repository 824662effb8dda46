"""The classical acceleration schedule of a turbofan: fuel in proportion to burner pressure."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numpy.typing import NDArray

from controllers.baselines.min_max import STEADY_RATIO
from controllers.contracts import Controller, Decision, Observation, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.turbofan.engine import inlet_ratios

Array = NDArray[np.float64]


class FuelRatio:
    """`factor` times the fuel that a healthy engine burns at rest at the burner pressure measured, lbm/s (batch,). The pressure
    is that of the middle of the coming interval, by a straight line through the last two readings. A reading that is missing keeps its last value. `ControlError` when the spec has not the turbofan's tags."""

    def __init__(self, spec: PlantSpec, factor: float) -> None:
        measured = [t.name for t in spec.measured]
        if "PS3" not in measured or [t.name for t in spec.dvs] != ["ALT", "MACH", "DT"] or len(spec.mvs) != 1:
            raise ControlError(
                "not a turbofan", f"fuel ratio of {spec.name}",
                "It needs PS3, the DVs ALT, MACH, DT and one MV, the fuel.",
            )  # fmt: skip
        self._column, self._factor = measured.index("PS3"), factor
        self.reset()

    def reset(self) -> None:
        self._last: Array | None = None

    def fuel(self, observation: Observation) -> Array:
        now = np.column_stack([observation.measured[:, self._column], observation.dvs])
        last = now if self._last is None else self._last
        self._last = now = np.where(np.isfinite(now), now, last)
        ps3, (theta, delta) = 1.5 * now[:, 0] - 0.5 * last[:, 0], inlet_ratios(now[:, 1:])
        return self._factor * np.interp(ps3 / delta, *STEADY_RATIO.T) * np.sqrt(theta) * ps3


class FuelRatioRamp:
    """Open loop: the fuel that a healthy engine burns at the target's fan speed, of which `fuel` (n x 2) gives points (rpm,
    lbm/s), but no more than `factor` times the steady ratio allows; within the spec's limits and rate. It knows of no other
    limit."""

    horizon = 1

    def __init__(self, spec: PlantSpec, factor: float, fuel: Array) -> None:
        self._spec, self._ratio, self._fuel = spec, FuelRatio(spec, factor), fuel
        self._target = [t.tag for t in spec.targets].index("N1")
        self._move = next(t.move for t in spec.mvs if t.move)

    def reset(self) -> None:
        self._ratio.reset()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        step = self._move.reach(self._spec.sample_time_s)
        wanted = np.interp(targets.values[:, 0, self._target], *self._fuel.T)
        asked = np.minimum(wanted, self._ratio.fuel(observation))[:, None]
        moves = np.clip(asked, observation.standing - step, observation.standing + step)
        return Decision.of_moves(
            self._spec, np.clip(moves, targets.move_low, targets.move_high), time.perf_counter() - began
        )


class FuelRatioCap:
    """`controller` under the schedule: whatever it asks for, no more fuel than `factor` times the steady ratio allows. It is
    not told; it sees the move that was made."""

    def __init__(self, controller: Controller, spec: PlantSpec, factor: float) -> None:
        self._controller, self._ratio, self.horizon = controller, FuelRatio(spec, factor), controller.horizon
        self._move = next(t.move for t in spec.mvs if t.move)

    def reset(self) -> None:
        self._controller.reset()
        self._ratio.reset()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        decision = self._controller.decide(observation, targets)
        cap = np.maximum(self._ratio.fuel(observation), self._move.limits[0])[:, None]
        return dataclasses.replace(decision, moves=np.minimum(decision.moves, cap))
