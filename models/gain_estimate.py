"""From runs to `Gains`: fits of every reading, the operating points they are made at, and the shapes of what follows a move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2

from models.gain_fit import Fit, Signals, fit
from models.gain_model import model_gains
from models.gain_moves import Moves, moves_of
from models.gains import LEVEL, Array, Gains, Point
from models.rivals.contract import Forecaster
from models.windows import Run
from plant.spec import PlantSpec

_HOUR = 3600.0
_UNIT_ROOT = 2.86  # Dickey & Fuller's 5 % point with a constant: less, and the reading may integrate
_TELLS = 3.0  # deviations of a correlation that is one
_AGO = 6  # samples back in which another reading's error may tell of this one's
_PUSHES = 6.0  # deviations of a slope that is one
_SPARE = 6  # rows a regressor that a local fit needs
_STAYS = 30  # samples over which rows are averaged to tell operating points apart
_SHOWN = 60  # values of a step response that are kept


def gains_of(spec: PlantSpec, runs: Sequence[Run], model: Forecaster | None = None) -> Gains:
    """Gains of every reading to every MV from `runs`, without incidents, and those of the deployed `model` beside them. Runs that
    follow each other are taken as one. Of an MV that did not move enough, or only with another, nothing is known."""
    runs = _joined(spec, [r for r in runs if r.kind != "incident"] or list(runs))
    moves = moves_of(spec, runs)
    scale = _scale(spec, runs)
    signals = Signals.of([_without(r, moves) for r in runs], *scale)
    periods = [_period(signals.y[:, i]) for i in range(len(spec.measured))]
    n_y, n_u = len(spec.measured), len(spec.mvs)
    fits = _fits(signals, periods)
    points, which, bent = _points(spec, runs, signals, fits)
    local = [
        _fits(signals, periods, fits, _staying(which, p), bent) if bent.any() else fits for p in range(len(points))
    ]
    unit = scale[1][:n_y, None] / scale[1][n_y + len(spec.dvs) :]
    shape = (len(points), n_y, n_u)
    gain, low, high = np.full(shape, np.nan), np.full(shape, -np.inf), np.full(shape, np.inf)
    integrating = np.array([f is not None and f.integrated for f in fits], bool)
    per = np.where(integrating, _HOUR / spec.sample_time_s, 1.0)[:, None] * unit
    for p, some in enumerate(local):
        for i, f in enumerate(some):
            if f is not None:
                gain[p, i], low[p, i], high[p, i] = f.gain * per[i], f.low * per[i], f.high * per[i]
    blind = np.array(moves.blind)
    gain[..., blind], low[..., blind], high[..., blind] = np.nan, -np.inf, np.inf
    dead, settling, response, length = _shapes(fits, unit, spec.sample_time_s, blind)
    own = np.full(shape, np.nan)
    if model is not None:
        own = model_gains(
            model, runs, points, integrating, float(np.nanmax(settling[np.isfinite(settling)], initial=0.0))
        )
    asked = {*(t.tag for t in spec.targets), *(z.tag for z in spec.zones), *(g.tag for g in spec.guardrails)}
    return Gains(
        tuple(t.name for t in spec.mvs), tuple(t.name for t in spec.measured), points, gain, low, high, own, integrating, dead,
        settling, response, length, np.array([t.span for t in spec.measured]),
        np.array([t.move.span for t in spec.mvs if t.move]), np.array([t.name in asked for t in spec.measured], bool),
        (*moves.unknown, *_unfitted(spec, fits)), moves.together, moves.pairs,
    )  # fmt: skip


def _joined(spec: PlantSpec, runs: Sequence[Run]) -> list[Run]:
    """Runs in the order of time, those that follow each other without a gap as one."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda r: r.start_s):
        last = groups[-1] if groups else []
        end = last[0].start_s + sum(map(len, last)) * spec.sample_time_s if last else math.nan
        if last and last[0].kind == run.kind and abs(run.start_s - end) < 0.5 * spec.sample_time_s:
            last.append(run)
        else:
            groups.append([run])
    parts = ("measured", "dvs", "applied", "labels")
    return [
        replace(g[0], **{p: np.concatenate([getattr(r, p) for r in g]) for p in parts}, hidden=None)
        if len(g) > 1
        else g[0]
        for g in groups
    ]


def _scale(spec: PlantSpec, runs: Sequence[Run]) -> tuple[Array, Array]:
    """Means and deviations of [measured, dvs, applied]; a tag without a reading or a change has its range's hundredth."""
    rows = np.concatenate([np.concatenate([r.measured, r.dvs, r.applied], 1) for r in runs])
    rows = np.where(np.isfinite(rows), rows, np.nan)
    count = np.isfinite(rows).sum(0)
    mean = np.nansum(rows, 0) / np.maximum(count, 1)
    std = np.sqrt(np.nansum((rows - mean) ** 2, 0) / np.maximum(count, 1))
    floor = np.array([t.span for t in (*spec.measured, *spec.dvs, *spec.mvs)]) / 1e4
    return mean, np.maximum(std, floor)


def _period(y: Array) -> int:
    """The usual distance of two readings in `y` (n), samples."""
    at = np.flatnonzero(np.isfinite(y))
    return max(1, round(float(np.median(np.diff(at))))) if len(at) > 1 else 1


def _without(run: Run, moves: Moves) -> Run:
    """The run with moves of MVs that teach nothing standing still: others stand for them, or nothing does."""
    applied = run.applied.copy()
    applied[:, moves.left_out] = 0.0
    return Run(run.kind, run.start_s, run.measured, run.dvs, applied, run.labels)


def _fits(
    s: Signals, periods: Sequence[int], known: Sequence[Fit | None] | None = None, use: NDArray[np.bool_] | None = None,
    which: NDArray[np.bool_] | None = None,
) -> list[Fit | None]:  # fmt: skip
    """A fit a reading: first alone, then beside what was new in the others. With `known` fits of all rows, their reach and
    their errors are taken over; those of readings but `which` stay."""
    first = known if known is not None else [_alone(s, i, p) for i, p in enumerate(periods)]
    news = np.zeros_like(s.y)
    for i, f in enumerate(first):
        if f is not None and (size := float(f.error.std())) > 0:
            news[f.where, i] = f.error / size
    out: list[Fit | None] = []
    for i, (p, f) in enumerate(zip(periods, first, strict=True)):
        if f is None or not (which is None or which[i]):
            out.append(f)
            continue
        others = news[:, _telling(news, i, f)]
        out.append(fit(s, i, p, LEVEL, f.reach, others, f.integrated, use) or (None if use is not None else f))
    return out


def _telling(news: Array, i: int, f: Fit) -> list[int]:
    """Which other readings' errors (n x n_measured) of the last few samples go before the errors of reading `i`."""
    error, found = f.error / max(float(f.error.std()), 1e-300), []
    least = _TELLS / len(error) ** 0.5
    for k in range(news.shape[1]):
        before = (news[np.maximum(f.where - lag, 0), k] for lag in range(1, _AGO + 1))
        if k != i and any(abs(float(error @ b)) > least * len(error) ** 0.5 * float(b @ b) ** 0.5 for b in before):
            found.append(k)
    return found


def _alone(s: Signals, i: int, period: int) -> Fit | None:
    """The fit of a reading, integrated where it has no rest of its own and moves push it."""
    found = fit(s, i, period, LEVEL)
    if found is None or found.root > _UNIT_ROOT:
        return found
    sums = fit(s, i, period, LEVEL, integrated=True)
    return sums if sums is not None and np.nanmax(np.abs(sums.effect), initial=0.0) > _PUSHES else found


def _unfitted(spec: PlantSpec, fits: Sequence[Fit | None]) -> list[str]:
    names = [t.name for t, f in zip(spec.measured, fits, strict=True) if f is None]
    return [f"{n} has too few readings in a row: nobody can know what moves it" for n in names]


def _points(
    spec: PlantSpec, runs: Sequence[Run], s: Signals, fits: Sequence[Fit | None]
) -> tuple[tuple[Point, ...], NDArray[np.int64], NDArray[np.bool_]]:  # fmt: skip
    """Usual operating points, which one each row is at, and which readings' gains differ between them: as many points as make
    the fits' errors smaller by more than what the further regressors cost (Schwarz's criterion); one where the data are few or
    the plant is linear."""
    n = len(s.y)
    one = np.zeros(n, np.int64)
    rows = np.concatenate([np.concatenate([r.measured, r.dvs, r.applied], 1) for r in runs])
    straight = [0.0 if f is None else _criterion(s, i, f, one, 1) for i, f in enumerate(fits)]
    best, kept, bent = 0.0, one, np.zeros(len(fits), bool)
    smooth = _smooth(np.concatenate([np.nan_to_num(s.y), s.x], 1), s.first)
    n_y = s.y.shape[1]
    for part, count in [(smooth, 2), (smooth, 3), *((smooth[:, j : j + 1], 2) for j in range(n_y, smooth.shape[1]))]:
        try:
            which = kmeans2(part, _slices(part, count), minit="matrix", missing="raise")[1].astype(np.int64)
        except ClusterError:
            continue
        gained = np.zeros(len(fits))
        for i, f in enumerate(fits):
            if f is not None and math.isfinite(straight[i]):
                gained[i] = max(0.0, straight[i] - _criterion(s, i, f, which, count))
        if gained.sum() > best:
            best, kept, bent = gained.sum(), which, gained > 0
    means = []
    for c in range(int(kept.max()) + 1):
        mine = np.where(np.isfinite(rows[kept == c]), rows[kept == c], np.nan)
        means.append(np.nansum(mine, 0) / np.maximum(np.isfinite(mine).sum(0), 1))
    order = sorted(range(len(means)), key=lambda c: -float((kept == c).mean()))
    tags = (*spec.measured, *spec.dvs, *spec.mvs)
    spans = np.array([t.move.span if t.move else t.span for t in tags])
    told = int(np.argmax(np.ptp(np.array(means), axis=0) / spans))  # the tag by which they differ most
    n_d = len(spec.dvs)
    points = tuple(
        Point(
            f"{tags[told].name} about {means[c][told]:.3g} {tags[told].unit}".rstrip() if len(means) > 1 else "usual",
            float((kept == c).mean()), means[c][:n_y], means[c][n_y : n_y + n_d], means[c][n_y + n_d :],
        )
        for c in order
    )  # fmt: skip
    return points, np.argsort(order)[kept], bent


def _slices(x: Array, count: int) -> Array:
    """Where clusters begin: means of as many slices of `x` (n x channels) along the direction in which it varies most."""
    along = np.argsort(x @ np.linalg.eigh(np.atleast_2d(np.cov(x.T)))[1][:, -1], kind="stable")
    return np.stack([x[part].mean(0) for part in np.array_split(along, count)])


def _criterion(s: Signals, i: int, f: Fit, which: NDArray[np.int64], count: int) -> float:
    """Schwarz's criterion of reading `i` with a fit at each of `count` points; infinite where one has too few rows."""
    found = [fit(s, i, f.every, LEVEL, f.reach, None, f.integrated, _staying(which, c), start=0) for c in range(count)]
    if any(c is None or len(c.error) < _SPARE * c.size for c in found):
        return math.inf
    n = sum(len(c.error) for c in found if c)
    left = sum(float(c.error @ c.error) for c in found if c)
    return n * math.log(max(left, 1e-300) / n) + math.log(n) * sum(c.size for c in found if c)


def _staying(which: NDArray[np.int64], point: int) -> NDArray[np.bool_]:
    """Rows that have been at `point` for a while and stay: on the way from one to another a plant is at neither."""
    away = np.concatenate([[0], np.cumsum(which != point)])
    at = np.arange(len(which))
    return away[np.minimum(at + _STAYS, len(at))] == away[np.maximum(at - _STAYS + 1, 0)]


def _smooth(x: Array, first: NDArray[np.int64]) -> Array:
    """Means over up to `_STAYS` samples back, none from before a run's start."""
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, 0)])
    at = np.arange(len(x))
    begin = np.maximum(at - _STAYS + 1, first)
    return (total[at + 1] - total[begin]) / (at + 1 - begin)[:, None]


def _shapes(
    fits: Sequence[Fit | None], unit: Array, sample_s: float, blind: NDArray[np.bool_]
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Dead time and settling time (n_cv x n_mv, s), step responses (n_cv x n_mv x `_SHOWN`, tag units) and their length (s)."""
    n_y, n_u = unit.shape
    dead, settling = np.full((n_y, n_u), np.nan), np.full((n_y, n_u), np.nan)
    response, length = np.zeros((n_y, n_u, _SHOWN)), np.zeros(n_y)
    for i, f in enumerate(fits):
        if f is None:
            continue
        every = f.every * sample_s
        ends = []
        for j in range(n_u):
            dead[i, j], settling[i, j] = _times(f.response[:, j], float(f.gain[j]), f.integrated)
            if not np.isfinite(settling[i, j]) and not f.integrated:  # slower than what was looked at
                dead[i, j], settling[i, j] = 0.0, 3 * f.slowest
            ends.append(settling[i, j] if np.isfinite(settling[i, j]) else 0.0)
        steps = len(f.response)
        end = int(np.clip(1.5 * max(ends, default=0.0), 20, steps - 1)) if not f.integrated else min(60, steps - 1)
        at = np.linspace(0, end, _SHOWN)
        for j in range(n_u):
            response[i, j] = np.interp(at, np.arange(steps), f.response[:, j]) * unit[i, j]
        dead[i] *= every
        settling[i] *= every
        length[i] = end * every
    dead[:, blind], settling[:, blind], response[:, blind] = np.nan, np.nan, 0.0
    return dead, settling, response, length


def _times(response: Array, final: float, integrated: bool) -> tuple[float, float]:
    """Dead time and settling time to within a twentieth, in steps, of the first-order lag that passes 28 and 63 % when the
    response does (Smith 1972); of what integrates the dead time is where its last straight part began."""
    if not np.isfinite(final) or final == 0.0 or not np.isfinite(response).all():
        return math.nan, math.nan
    if integrated:
        late = len(response) - 1 - response[-1] / final
        return max(0.0, float(late)), math.inf
    share = response / final
    at = [float(np.argmax(share >= level)) if (share >= level).any() else math.nan for level in (0.283, 0.632)]
    lag = 1.5 * (at[1] - at[0])
    dead = max(0.0, at[1] - lag)
    return dead, dead + 3 * lag
