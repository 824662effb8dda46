"""What moves were: where an MV stood between two samples of a run, and its time mean, which is the move that a model knows.

Between two samples of an MV the first holds. Of one whose target is recorded (`move.recorded`) the position is unknown: it is
taken to go to the target at its rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.windows import Run, least_spread
from plant.spec import Move, PlantSpec

Array = NDArray[np.float64]
Column = tuple[NDArray[np.int64], Array]  # times in microseconds, values
_SAME = 0.1  # of the changes of an MV: what the others leave unexplained (1 % of the square)
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


def unmoved(spec: PlantSpec, spread: Array) -> dict[str, str]:
    """MVs that hardly moved where their standard deviation is `spread` (n_mv,), each with a sentence: what they do is unknown."""
    least = least_spread(spec.mvs)
    return {
        mv.name: f"it stood at one value in the data the model learned from, so what {mv.name} does is unknown"
        for mv, std, floor in zip(spec.mvs, spread.tolist(), least.tolist(), strict=True)
        if std <= floor * (1 + 1e-6)
    }


def spread_of(runs: Sequence[Run], mvs: int) -> Array:
    """The standard deviation (n_mv,) of each move over all of `runs`; 0 where none is known."""
    count, total, squares = np.zeros(mvs), np.zeros(mvs), np.zeros(mvs)
    usual = next(
        (np.nan_to_num(np.nanmedian(r.applied, 0)) for r in runs if np.isfinite(r.applied).any(0).all()), total
    )
    for run in runs:
        away = run.applied - usual
        count += np.isfinite(away).sum(0)
        total += np.nansum(away, 0)
        squares += np.nansum(away**2, 0)
    count = np.maximum(count, 1)
    return np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))


def together(spec: PlantSpec, runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """MVs that only ever moved together: of each group the changes of any follow from those of the others to 1 %."""
    names = [t.name for t in spec.mvs]
    changes = np.concatenate([np.diff(r.applied, axis=0) for r in runs])
    changes = changes[np.isfinite(changes).all(1)] / least_spread(spec.mvs)
    if not len(changes):
        return []
    size = changes.std(0)
    moved = np.flatnonzero(size > 1e-3)
    found: list[tuple[str, ...]] = []
    for i in moved:
        others = moved[moved != i]
        fit, *_ = np.linalg.lstsq(changes[:, others], changes[:, i], rcond=None)
        left = (changes[:, i] - changes[:, others] @ fit).std() if len(others) else size[i]
        if left <= _SAME * size[i]:
            with_it = [int(j) for j, f in zip(others, fit, strict=True) if abs(f) * size[j] > _SAME * size[i]]
            group = tuple(names[j] for j in sorted([int(i), *with_it]))
            if group not in found:
                found.append(group)
    return found


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
