"""What the operator asks of the CVs: targets now, and scheduled changes that a planner may see ahead."""

from __future__ import annotations

import math
from bisect import insort

import numpy as np
from numpy.typing import NDArray

from plant.spec import PlantSpec

Array = NDArray[np.float64]


class TargetBoard:
    """One value a target of the spec, changed by hand or by schedule.

    **Arguments:**

    - `preview`: scheduled changes are shown to the planner before they are due.
    """

    def __init__(self, spec: PlantSpec, preview: bool = True) -> None:
        self._spec, self._preview = spec, preview
        self._limits = {t.tag: t.limits for t in spec.targets}
        self._values = {t.tag: t.value for t in spec.targets}
        self._schedule: list[tuple[float, str, float]] = []

    @property
    def values(self) -> dict[str, float]:
        """The targets in force: tag -> value."""
        return dict(self._values)

    @property
    def scheduled(self) -> tuple[tuple[float, str, float], ...]:
        """Changes to come: (plant time, tag, value)."""
        return tuple(self._schedule)

    def set(self, tag: str, value: float) -> str:
        """A target by hand; changes of it still scheduled stay. Returns '' or why not."""
        if refusal := self._refusal(tag, value):
            return refusal
        self._values[tag] = value
        return ""

    def schedule(self, tag: str, value: float, at_s: float) -> str:
        """A target from plant time `at_s` on. Returns '' or why not."""
        if refusal := self._refusal(tag, value):
            return refusal
        insort(self._schedule, (at_s, tag, value))
        return ""

    def ahead(self, now_s: float, horizon: int) -> Array:
        """Targets at the next `horizon` samples (1 x horizon x n_target). Scheduled changes that are due come into force."""
        while self._schedule and self._schedule[0][0] <= now_s:
            _, tag, value = self._schedule.pop(0)
            self._values[tag] = value
        columns = list(self._values)
        out = np.tile(np.array([self._values[tag] for tag in columns], dtype=np.float64), (1, horizon, 1))
        times = now_s + self._spec.sample_time_s * np.arange(1, horizon + 1)
        for at_s, tag, value in self._schedule if self._preview else ():
            out[0, times >= at_s, columns.index(tag)] = value
        return out

    def _refusal(self, tag: str, value: float) -> str:
        if tag not in self._limits:
            return f"{tag} has no target; targets: {', '.join(self._limits) or 'none'}"
        low, high = self._limits[tag]
        if not (math.isfinite(value) and low <= value <= high):
            return f"target {value:g} of {tag} is outside [{low:g}, {high:g}] {self._spec.tag(tag).unit}"
        return ""
