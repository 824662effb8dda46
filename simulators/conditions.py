"""`Conditions`: what a batch of plants meets that nobody asked for. Disturbances, parameters, faults; seeded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simulators.contract import Simulator

Array = NDArray[np.float64]


class Conditions(Protocol):
    """True disturbances `d` (batch x n_d) and parameters `p` (batch x n_p) over time, and what is wrong with the
    instruments.

    `advance` moves to the end of the interval just lived: what changes then is what the next measurement sees.
    """

    d: Array
    p: Array

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None: ...
    def states(self, moves: Array) -> Array:
        """Start states (batch x n_x) with these moves (batch x n_u) in force."""
        ...

    def advance(self, dt_s: float) -> None: ...
    def actuated(self, asked: Array, dt_s: float) -> Array:
        """The moves (batch x n_u) that the actuators make of those asked for, for the next `dt_s`."""
        ...

    def readings(self, sensed: dict[str, Array]) -> dict[str, Array]:
        """What the sensors show of what they sensed: tag -> (batch,), NaN where one shows nothing."""
        ...

    def ahead(self, horizon_s: float) -> list[tuple[float, Array]]:
        """What one looks ahead with: disturbances (batch x n_d) and how long they hold, one after another."""
        ...

    def facts(self) -> dict[str, Any]:
        """Which conditions these are, as plain data for a run's record."""
        ...


class Steady:
    """Nothing changes: d and p stay at the simulator's usual values, every instrument works."""

    d: Array
    p: Array

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None:
        self._simulator = simulator
        self.d = np.tile(np.array(simulator.d0, float), (batch, 1))
        self.p = np.tile(np.array(simulator.p0, float), (batch, 1))

    def states(self, moves: Array) -> Array:
        return self._simulator.initial(moves, self.d, self.p)

    def advance(self, dt_s: float) -> None:
        return

    def actuated(self, asked: Array, dt_s: float) -> Array:
        return asked

    def readings(self, sensed: dict[str, Array]) -> dict[str, Array]:
        return sensed

    def ahead(self, horizon_s: float) -> list[tuple[float, Array]]:
        return [(horizon_s, self.d)]

    def facts(self) -> dict[str, Any]:
        return {"name": type(self).__name__.lower()}


@dataclass
class Schedule(Steady):
    """Exact disturbances and parameters by time: `times_s` (n,), `d` levels (n x batch x n_d) and parameters (batch x n_p),
    each held until the next time. Used by the evaluator, where every controller must meet the same run."""

    times_s: Array = field(default_factory=lambda: np.zeros(1))
    levels: Array | None = None
    parameters: Array | None = None

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None:
        super().start(simulator, batch, rng)
        self._now = 0.0
        if self.parameters is not None:
            self.p = np.array(self.parameters, float)
        self._apply()

    def advance(self, dt_s: float) -> None:
        self._now += dt_s
        self._apply()

    def _apply(self) -> None:
        if self.levels is not None:
            index = int(np.searchsorted(self.times_s, self._now + 1e-6, side="right")) - 1
            self.d = np.array(self.levels[max(index, 0)], float)
