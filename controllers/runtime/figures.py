"""What the loop's clockwork is worth: cycles, missed deadlines, jitter and solve times."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

_KEPT = 1000  # cycles behind every percentile


@dataclass
class Figures:
    """Counts since the start, and the latest cycles' times (wall, s). `overruns`: samples skipped because a cycle took
    longer than one."""

    cycles: int = 0
    missed_deadlines: int = 0
    overruns: int = 0
    jitter_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    solve_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def percentiles_ms(self, times: deque[float]) -> tuple[float, float]:
        """p50 and p99 in ms; NaN without data."""
        if not times:
            return float("nan"), float("nan")
        p50, p99 = np.percentile(np.array(times), [50, 99]) * 1e3
        return float(p50), float(p99)
