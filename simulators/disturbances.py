"""What happens to a plant that nobody asked for: feed steps, fouling, catalyst decay. Seeded, batched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulators.contract import Simulator

Array = NDArray[np.float64]


class Disturbance(Protocol):
    """Gives the true disturbances `d` (batch x n_d) and parameters `p` (batch x n_p) of a batch of plants over time.

    `advance` moves to the end of the interval just lived: what changes then is what the next measurement sees."""

    d: Array
    p: Array

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None: ...
    def advance(self, dt_s: float) -> None: ...


class Steady:
    """Nothing changes; d and p stay at the simulator's usual values."""

    d: Array
    p: Array

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None:
        self.d = np.tile(np.array(simulator.d0, float), (batch, 1))
        self.p = np.tile(np.array(simulator.p0, float), (batch, 1))

    def advance(self, dt_s: float) -> None:
        return


@dataclass
class RandomSteps(Steady):
    """Named disturbances jump to new random levels after random holds; named parameters differ from run to run and drift.

    `levels` maps a disturbance to (low, high); each plant holds a level for an exponential time of mean `hold_s`, then
    draws another with probability 1 - `rest`, or returns to the usual value with probability `rest`. `parameters` maps a
    parameter to (low, high), drawn once a plant unless the plant is among the share `clean` that keeps the usual value;
    `drift_per_h` maps a parameter to its loss as a factor an hour.
    """

    levels: dict[str, tuple[float, float]] = field(default_factory=dict)
    hold_s: float = 1200.0
    rest: float = 0.5
    parameters: dict[str, tuple[float, float]] = field(default_factory=dict)
    clean: float = 0.3
    drift_per_h: dict[str, float] = field(default_factory=dict)

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None:
        super().start(simulator, batch, rng)
        self._rng, self._names = rng, simulator.names
        self._usual = np.array(simulator.d0, float)
        self._next = {name: rng.exponential(self.hold_s, batch) for name in self.levels}
        dirty = rng.random(batch) >= self.clean
        for name, (low, high) in self.parameters.items():
            drawn = rng.uniform(low, high, batch)
            self.p[:, simulator.names.p.index(name)] *= np.where(dirty, drawn, 1.0)

    def advance(self, dt_s: float) -> None:
        for name, (low, high) in self.levels.items():
            due = self._next[name]
            due -= dt_s
            now = due <= 0
            if now.any():
                i = self._names.d.index(name)
                back = self._rng.random(now.sum()) < self.rest
                self.d[now, i] = np.where(back, self._usual[i], self._rng.uniform(low, high, now.sum()))
                due[now] = self._rng.exponential(self.hold_s, now.sum())
        for name, rate in self.drift_per_h.items():
            self.p[:, self._names.p.index(name)] *= (1.0 - rate) ** (dt_s / 3600.0)


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
