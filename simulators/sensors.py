"""What stands between a true output and a reading: noise, dead time. Seeded, batched."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Sensor(Protocol):
    """One sensor for a batch of plants. `see` is called whenever the plant has moved, `read` for a reading of now."""

    def start(self, batch: int, rng: np.random.Generator) -> None: ...
    def see(self, time_s: float, true: Array) -> None: ...
    def read(self) -> Array: ...


class GaussianSensor:
    """White noise of standard deviation `sigma` on what was true `dead_time_s` ago; new noise at each reading."""

    def __init__(self, sigma: float, dead_time_s: float = 0.0) -> None:
        self._sigma, self._dead_s = sigma, dead_time_s

    def start(self, batch: int, rng: np.random.Generator) -> None:
        self._batch, self._rng = batch, rng
        self._seen: deque[tuple[float, Array]] = deque()

    def see(self, time_s: float, true: Array) -> None:
        self._seen.append((time_s, true))
        while len(self._seen) > 1 and self._seen[1][0] <= time_s - self._dead_s + 1e-6:
            self._seen.popleft()

    def read(self) -> Array:
        return self._seen[0][1] + self._sigma * self._rng.standard_normal(self._batch)
