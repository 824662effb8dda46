"""What moves were: where an MV stood between two samples of a run, and its time mean, which is the move that a model knows.

Between two samples of an MV the first holds. Of one whose target is recorded (`move.recorded`) the position is unknown: it is
taken to go to the target at its rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plant.spec import Move

Array = NDArray[np.float64]
Column = tuple[NDArray[np.int64], Array]  # times in microseconds, values
_KNOWN = 0.5  # of an interval: where less of it is known, the move is not


@dataclass(frozen=True)
class Path:
    """Where an MV was: `value` at `ts` (n,), changing by `slope` (n,) a microsecond until the next of them; NaN where unknown.
    `at_end`: where it was at the last sample read."""

    ts: NDArray[np.int64]
    value: Array
    slope: Array
    at_end: float

    def integral(self, at: NDArray[np.int64]) -> Array:
        """Of the value over time, from the first of `ts` to each of `at`, and of the time in which it is known (2 x n,)."""
        known = np.isfinite(self.value)
        value, slope, length = np.where(known, self.value, 0.0), np.where(known, self.slope, 0.0), np.diff(self.ts)
        until = np.append(0.0, np.cumsum((value[:-1] + 0.5 * slope[:-1] * length) * length))
        seen = np.append(0.0, np.cumsum(known[:-1] * length))
        i = np.maximum(np.searchsorted(self.ts, at, side="right") - 1, 0)
        past = np.maximum(at - self.ts[i], 0)
        return np.stack([until[i] + (value[i] + 0.5 * slope[i] * past) * past, seen[i] + known[i] * past])


def path_of(column: Column, move: Move, start: float) -> Path:
    """What an MV did by its samples, each held until the next; one of which a target is recorded goes there at its rate, from
    `start` at the first of them (NaN: it stands at its target there)."""
    ts, value = column
    if move.recorded == "position" or not len(ts):
        return Path(ts, value, np.zeros(len(ts)), np.nan)
    rate, points, stands = move.rate_per_s / 1e6, [], start
    ends = [*ts[1:].tolist(), np.inf]
    for at, target, end in zip(ts.tolist(), value.tolist(), ends, strict=True):
        stands = stands if np.isfinite(stands) and np.isfinite(target) else target
        last, distance = stands, target - stands
        if not abs(distance) > 0:
            points.append((at, stands, 0.0))
            continue
        slope, arrives = math.copysign(rate, distance), at + abs(distance) / rate
        points.append((at, stands, slope))
        if arrives < end:
            points.append((math.ceil(arrives), target, 0.0))
            stands = target
        else:
            stands += slope * (end - at)
    times, values, slopes = zip(*points, strict=True)
    return Path(np.array(times, np.int64), np.array(values), np.array(slopes), last)


def mean_over(path: Path, grid: NDArray[np.int64], step: int, now: Array, begin: int, held: bool) -> Array:
    """The time mean of an MV over the interval of `step` before each instant of a `grid` (n,), NaN where less than half of it is
    known. What is not `held` is not known before the run that began at `begin`; the move before its first instant, which
    matters to nobody, is the one `now` (n,) where it is unknown."""
    edges = np.append(grid[0] - step, grid)
    some = slice(
        max(int(np.searchsorted(path.ts, edges[0], side="right")) - 1, 0), int(np.searchsorted(path.ts, edges[-1]))
    )
    part = replace(path, ts=path.ts[some], value=path.value[some], slope=path.slope[some])
    if not held:
        part = _since(part, begin)
    if not len(part.ts):
        return now
    usual = float(np.nanmean(part.value)) if np.isfinite(part.value).any() else 0.0
    total, known = np.diff(replace(part, value=part.value - usual).integral(edges))
    mean = np.where(known >= _KNOWN * step, usual + total / np.maximum(known, 1.0), np.nan)
    if grid[0] == begin and not np.isfinite(mean[0]):
        mean[0] = now[0]
    return mean


def _since(path: Path, begin: int) -> Path:
    """Without what was before `begin`."""
    late = path.ts >= begin
    return replace(path, ts=path.ts[late], value=path.value[late], slope=path.slope[late])
