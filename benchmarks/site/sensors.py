"""An analyser as products have one: a sample every few minutes, its result late, and held until the next."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_AN_INSTANT = 1e-6


class Analyser:
    """Takes a sample every `period_s`, and shows what it was `dead_time_s` later, with white noise of standard deviation `sigma`;
    the result stands until the next. What is older than the first result is the first sample."""

    def __init__(self, sigma: float, period_s: float, dead_time_s: float) -> None:
        self._sigma, self._period_s, self._dead_s = sigma, period_s, dead_time_s

    def start(self, batch: int, rng: np.random.Generator) -> None:
        self._batch, self._rng = batch, rng
        self._waiting: deque[tuple[float, Array]] = deque()
        self._taken, self._shown = -1, None

    def see(self, time_s: float, true: Array) -> None:
        due = int((time_s + _AN_INSTANT) // self._period_s)
        if due > self._taken:
            self._taken = due
            self._waiting.append((time_s + self._dead_s, true + self._sigma * self._rng.standard_normal(self._batch)))
        if self._shown is None:
            self._shown = self._waiting[0][1]
        while self._waiting and self._waiting[0][0] <= time_s + _AN_INSTANT:
            self._shown = self._waiting.popleft()[1]

    def read(self) -> Array:
        assert self._shown is not None
        return self._shown
