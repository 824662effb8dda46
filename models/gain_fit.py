"""Static gains of one measurement by least squares, with intervals from leaving blocks of time out.

The reading is regressed on means of its own past, of the moves and of the measured disturbances over lags that grow
geometrically, and on what was new in the other readings (their one-step errors), so that moves which answer the readings
(closed loops) bias nothing: y = a y_past + b u_past + c d_past + h e_others + e, gain = sum(b) / (1 - sum(a)). The interval of
that ratio is Fieller's (Fieller, J. R. Statist. Soc. B 16, 1954): it grows without bound where 1 - sum(a) cannot be told from
zero, which is what slow loops underneath and integrating readings are. There the changes of all signals are regressed alike: what a
move does within the longest lag is less than what it does in the end, so it bounds the gain to one side and gives its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from models.windows import Run

Array = NDArray[np.float64]

# Candidates for the longest lag, samples. The next longer one than the criterion wants is taken: what one step ahead hardly feels,
# the sum over all lags does, and a reach too short biases it.
_REACH = (8, 16, 32, 64, 128, 256)
_GROWTH = 2.0  # of one bin of lags over the one before
_OTHERS = ((1, 2), (2, 5), (5, 13))  # lags of the other readings' one-step errors
_SMALL = 1e-9  # of the mean square of a regressor: what keeps the normal equations regular


@dataclass(frozen=True)
class Fit:
    """One reading's gains (n_mv), of scaled signals: `gain` a unit of move, or the slope a sample where it is `integrated`, with
    the interval [`low`, `high`]; `response` (steps x n_mv) after a unit step, one value every `every` samples; `error` (rows) is
    what one step ahead was missed, at `where` (rows of all runs). `root`: 1 - sum(a) in its deviations, `effect` (n_mv): sum(b)
    in theirs; `size`: how many regressors; `reach`: the longest lag, samples;
    `slowest`: the slowest time constant, readings."""

    gain: Array
    low: Array
    high: Array
    integrated: bool
    response: Array
    every: int
    where: NDArray[np.int64]
    error: Array
    score: float
    root: float
    effect: Array
    size: int
    reach: int
    slowest: float


@dataclass(frozen=True)
class Signals:
    """All runs one behind the other, scaled: `y` (n x n_measured, NaN where there is no reading), `x` (n x n_mv + n_dv, held
    where missing), `first` (n): where the run of each row began; `known` (n): moves and disturbances are known."""

    y: Array
    x: Array
    first: NDArray[np.int64]
    known: NDArray[np.bool_]
    n_mv: int

    @staticmethod
    def of(runs: Sequence[Run], mean: Array, std: Array) -> Signals:
        """`mean`, `std` of [measured, dvs, applied]."""
        n_y, n_d = runs[0].measured.shape[1], runs[0].dvs.shape[1]
        ys, xs, first, known, at = [], [], [], [], 0
        for run in runs:
            rows = (np.concatenate([run.measured, run.dvs, run.applied], 1) - mean) / std
            rows[~np.isfinite(rows)] = np.nan
            x = _held(np.concatenate([rows[:, n_y + n_d :], rows[:, n_y : n_y + n_d]], 1))
            known.append(np.isfinite(x).all(1))
            ys.append(rows[:, :n_y])
            xs.append(np.nan_to_num(x))
            first.append(np.full(len(rows), at))
            at += len(rows)
        return Signals(
            np.concatenate(ys), np.concatenate(xs), np.concatenate(first), np.concatenate(known),
            runs[0].applied.shape[1],
        )  # fmt: skip


def _held(x: Array) -> Array:
    """`x` (n x channels) with the last value before each gap; what comes before the first one stays NaN."""
    at = np.where(np.isfinite(x), np.arange(len(x))[:, None], -1)
    at = np.maximum.accumulate(at, axis=0)
    return np.where(at >= 0, np.take_along_axis(x, np.maximum(at, 0), 0), np.nan)


def bins(first: int, reach: int) -> list[tuple[int, int]]:
    """Lags [low, high) from `first` to `reach`, ever wider."""
    out, low, width = [], first, 1.0
    while low < reach:
        high = min(low + max(round(width), 1), reach)
        out.append((low, high))
        low, width = high, width * _GROWTH
    return out


def _means(x: Array, at: NDArray[np.int64], lags: list[tuple[int, int]]) -> Array:
    """Means of `x` (n x channels) over lags before rows `at` -> (rows x channels * bins), the bins of a channel together."""
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, 0)])
    parts = [(total[at - low + 1] - total[at - high + 1]) / (high - low) for low, high in lags]
    return np.stack(parts, -1).reshape(len(at), x.shape[1] * len(lags))


@dataclass(frozen=True)
class _Design:
    """Regressors of one reading: `own` past columns first, then `n_bin` columns a channel of `x`, the others, and a one."""

    rows: NDArray[np.int64]
    matrix: Array
    target: Array
    own: list[tuple[int, int]]
    lags: list[tuple[int, int]]


def _design(
    s: Signals, i: int, reach: int, period: int, start: int, others: Array | None, integrated: bool,
    use: NDArray[np.bool_], changes: bool,
) -> _Design:  # fmt: skip
    readings = np.flatnonzero(np.isfinite(s.y[:, i]))
    values = s.y[readings, i]
    own = bins(1, max(2, -(-reach // period) + 1))
    longest = own[-1][1] - 1 + integrated
    lags = bins(0, reach)
    place = np.arange(len(readings))
    back = place - longest
    good = (back >= 0) & (readings - s.first[readings] >= max(reach, start))
    good &= s.first[readings[np.maximum(back, 0)]] == s.first[readings]
    # A stretch without readings is no past of evenly spaced ones.
    good &= readings - readings[np.maximum(back, 0)] <= 1.5 * longest * period
    unknown = np.concatenate([[0], np.cumsum(~s.known)])
    good &= unknown[readings + 1] - unknown[np.maximum(readings - reach, 0)] == 0
    good &= use[readings]
    place = place[good]
    at = readings[good]
    series = values
    if integrated:
        series = np.concatenate([[0.0], np.diff(values)]) / period
    x = s.x
    if changes:
        series = np.concatenate([[0.0], np.diff(values)])
        x = x - x[np.maximum(np.arange(len(x)) - period, s.first)]
    past = _means(series[:, None], place, own)
    parts = [past, _means(x, at, lags)]
    if others is not None and others.shape[1]:
        parts.append(_means(others, at, list(_OTHERS)))
    parts.append(np.ones((len(at), 1)))
    return _Design(at, np.concatenate(parts, 1), series[place], own, lags)


def _solve(gram: Array, cross: Array) -> Array:
    """Least squares from normal equations (..., k x k), (..., k)."""
    ridge = _SMALL * np.maximum(np.einsum("...ii->...i", gram), 1e-12)
    return np.linalg.solve(gram + ridge[..., None] * np.eye(gram.shape[-1]), cross[..., None])[..., 0]


def _blocks(rows: NDArray[np.int64], first: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Which of `count` blocks of time, alike in rows, each row is in."""
    return np.minimum(np.arange(len(rows)) * count // max(len(rows), 1), count - 1)


def fit(
    s: Signals, i: int, period: int, level: float, reach: int | None = None, others: Array | None = None,
    integrated: bool = False, use: NDArray[np.bool_] | None = None, blocks: int = 12, start: int | None = None,
    changes: bool = False,
) -> Fit | None:  # fmt: skip
    """The gains of reading `i`, new every `period` samples; None where there are too few rows. `reach` None: chosen by Akaike's
    criterion. `changes`: of the signals are fitted, not the signals. `others` (n x any): one-step errors of other readings.
    `use` (n): rows to learn from. `start`: rows of a run before which none is used, for scores to compare."""
    use = np.ones(len(s.y), bool) if use is None else use
    if reach is None:
        longest = np.bincount(s.first, minlength=1).max()
        tried = [r for r in _REACH if r <= longest // 4] or [_REACH[0]]
        found = [
            f for r in tried if (f := fit(s, i, period, level, r, others, integrated, use, blocks, tried[-1], changes))
        ]
        # Scores compare only on the same rows; all begin where the longest does.
        if not found:
            return None
        best = min(range(len(found)), key=lambda k: found[k].score)
        return fit(
            s, i, period, level, tried[min(best + 1, len(tried) - 1)], others, integrated, use, blocks, None, changes
        )
    design = _design(s, i, reach, period, start or 0, others, integrated, use, changes)
    x, y = design.matrix, design.target
    n, k = x.shape
    if n < 2 * k + 10:
        return None
    gram, cross = x.T @ x, x.T @ y
    theta = _solve(gram, cross)
    error = y - x @ theta
    score = float(np.log(max(float(error @ error) / n, 1e-300)) + 2 * k / n)
    n_own, n_bin = len(design.own), len(design.lags)
    moves = np.zeros((s.n_mv, k))
    for j in range(s.n_mv):
        moves[j, n_own + j * n_bin : n_own + (j + 1) * n_bin] = 1.0
    a = 1.0 - theta[:n_own].sum()
    b = moves @ theta
    empty = np.full(s.n_mv, np.nan)
    if start is not None:
        return Fit(
            b / a,
            empty,
            empty,
            integrated,
            empty[None],
            period,
            design.rows,
            error,
            score,
            np.nan,
            empty,
            k,
            reach,
            np.nan,
        )
    count = int(np.clip(n // (2 * k), 8, blocks))
    block = _blocks(design.rows, s.first, count)
    parts = [(x[block == c].T @ x[block == c], x[block == c].T @ y[block == c]) for c in range(count)]
    grams = gram - np.stack([p[0] for p in parts])
    crosses = cross - np.stack([p[1] for p in parts])
    thetas = _solve(grams, crosses)
    a_s = 1.0 - thetas[:, :n_own].sum(1)
    b_s = thetas @ moves.T
    spread = (count - 1) / count
    v_aa = spread * float(((a_s - a_s.mean()) ** 2).sum())
    v_bb = spread * ((b_s - b_s.mean(0)) ** 2).sum(0)
    v_ab = spread * ((a_s - a_s.mean())[:, None] * (b_s - b_s.mean(0))).sum(0)
    q = float(student.ppf(0.5 + level / 2, count - 1))
    low, high = fieller(b, a, v_bb, v_ab, v_aa, q)
    back = max(
        a, q * v_aa**0.5 / 2
    )  # a reading whose way back is too slow to be seen has one, somewhere inside its interval
    gain = b / back
    closed = a > q * v_aa**0.5
    shorter = fit(s, i, period, level, reach // 2, others, integrated, use, blocks, 0) if reach > _REACH[0] else None
    if shorter is not None and closed:
        low, high = wider(gain, low, high, shorter.gain - gain)
    if not (changes or integrated or closed):
        begun = fit(s, i, period, level, None, others, integrated, use, blocks, changes=True)
        if begun is not None and a > -q * v_aa**0.5:
            low, high = np.where(begun.low > 0, begun.low, low), np.where(begun.high < 0, begun.high, high)
            gain = np.clip(gain, low, high)
    ages = np.array([(first + last - 1) / 2 for first, last in design.own])
    return Fit(
        gain, low, high, integrated, _response(theta, design, s.n_mv, period, integrated), period, design.rows, error, score,
        a / max(v_aa, 1e-300) ** 0.5, b / np.maximum(v_bb, 1e-300) ** 0.5, k, reach,
        max(float(theta[:n_own] @ ages), 1.0) / back,
    )  # fmt: skip


def fieller(b: Array, a: float, v_bb: Array, v_ab: Array, v_aa: float, q: float) -> tuple[Array, Array]:
    """The set of ratios g = b / a with (b - g a)^2 <= q^2 var(b - g a), as intervals, infinite where it is not one. Where a cannot
    be told from zero but b can, a > 0 leaves one of the set's two branches: the sign is known, the size to one side."""
    c2, c1, c0 = a * a - q * q * v_aa, a * b - q * q * v_ab, b * b - q * q * v_bb
    inside = c1 * c1 - c2 * c0
    root = np.maximum(inside, 0.0) ** 0.5
    if c2 > 0:
        if a < 0:  # a plant that does not come to rest by itself has no static gain
            return np.full_like(b, -np.inf), np.full_like(b, np.inf)
        return (c1 - root) / c2, (c1 + root) / c2
    told = (inside > 0) & (c0 > 0)
    ends = np.stack([(c1 - root) / min(c2, -1e-300), (c1 + root) / min(c2, -1e-300)])
    low, high = np.where(told & (b > 0), ends.max(0), -np.inf), np.where(told & (b < 0), ends.min(0), np.inf)
    return np.where(low > 0, low, -np.inf), np.where(high < 0, high, np.inf)


def wider(gain: Array, low: Array, high: Array, apart: Array) -> tuple[Array, Array]:
    """Intervals that know of another model of the same data, whose gains are `apart`."""
    return gain - np.hypot(gain - low, apart / 2), gain + np.hypot(high - gain, apart / 2)


def _response(theta: Array, design: _Design, n_mv: int, period: int, integrated: bool, steps: int = 240) -> Array:
    """What follows a unit step of each move (steps x n_mv), one value a reading, the first before the step."""
    n_own, n_bin = len(design.own), len(design.lags)
    out = np.zeros((steps, n_mv))
    series = np.zeros((steps + design.own[-1][1] + 1, n_mv))
    off = design.own[-1][1]
    b = theta[n_own : n_own + n_mv * n_bin].reshape(n_mv, n_bin)
    for m in range(1, steps):
        t = m * period  # the move is in force from sample 1 on: lags 0 to t - 1 have it
        share = np.array([np.clip(t - low, 0, high - low) / (high - low) for low, high in design.lags])
        past = np.array([series[off + m - high + 1 : off + m - low + 1].mean(0) for low, high in design.own])
        series[off + m] = theta[:n_own] @ past + b @ share
        out[m] = out[m - 1] + series[off + m] * period if integrated else series[off + m]
    return out
