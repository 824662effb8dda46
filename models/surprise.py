"""Surprise: what a plant did that its normal behaviour does not explain, and states it never was in.

Two scores, kept apart. *Residual*: what was measured less what the last samples predicted ("did not do what was asked").
*Density*: how far the state lies from where normal runs were ("never seen"). Both have thresholds by split conformal on
held-out normal runs, and both name the tags they come from.

Rows are (n x tags), one a sample, NaN where nothing was measured. A tag that is sampled more slowly than the others is
NaN in between, not held: a held value predicts itself, and its innovations would be a mixture of nothing and everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.signal import lfilter
from scipy.stats import beta, binom, chi2

from models.calibration import conformal_quantile
from models.config import Count, NonNegative
from models.whitening import ErrorWhitening, Whitening, inverse_root, shrunk
from plant.errors import ModelError

Array = NDArray[np.float64]
Share = Annotated[float, Field(gt=0, le=1)]

_TINY = 1e-9
_CONFIDENCE = 0.9
_MEMORY = 60  # samples: about as long as the slowest average remembers
_BLOCKS = 6  # at least, however short they then are
_PEAKS = 20  # blocks that a tail is told from


class SurpriseConfig(BaseModel):
    """`order` lags predict the next sample, `ridge` and `shrinkage` (towards the diagonal) keep that well-posed.

    Statistics on whitened innovations, each exponentially weighted with the share given to the newest sample: `means`
    (Hotelling's T2 of the average, 1.0 is the sample itself) and `variances` (growth of the mean square). `mean_shrinkage`
    draws the covariance of each average towards that of white innovations. The defaults were chosen on faults injected
    into normal runs of a chemical plant, not on recorded faults. `folds`: statistics are scaled by innovations of runs
    that the predictor was not fitted on, in so many parts; `settle`: samples at a run's start that no scale or threshold
    is taken from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Count = 3
    ridge: NonNegative = 0.5
    shrinkage: Share = 0.001
    means: tuple[Share, ...] = (1.0, 0.3, 0.08)
    variances: tuple[Share, ...] = (0.1, 0.03, 0.015)
    mean_shrinkage: Share = 0.3
    folds: Annotated[int, Field(ge=2)] = 7
    settle: Count = 20


@dataclass(frozen=True)
class Predictor:
    """Ridge regression of each sample on the whitened samples before it, and the whitening of what it leaves.

    Missing values hold the last one seen as inputs and are left out as targets. Tags that are measured at the same
    instants share a regression; the innovations measured together are whitened by their own part of the covariance.
    """

    config: SurpriseConfig
    inputs: Whitening
    weights: Array
    errors: ErrorWhitening

    @staticmethod
    def fit(runs: Sequence[Array], config: SurpriseConfig) -> Predictor:
        """From normal `runs` (n x tags each). Raises `ModelError` when there are fewer samples than regressors."""
        p = config.order
        inputs = Whitening.fit(np.concatenate(runs))
        tags = runs[0].shape[1]
        if sum(max(len(r) - p, 0) for r in runs) < p * tags:
            raise ModelError(
                f"{sum(map(len, runs))} normal samples for {p} x {tags} regressors",
                "surprise",
                "Record more normal operation, or lower `order`.",
            )
        long = [r for r in runs if len(r) > p]
        features = np.concatenate([_lags(inputs(_held(r)), p)[p:] for r in long])
        targets = np.concatenate([((r - inputs.mean) / inputs.std)[p:] for r in long])
        seen = np.isfinite(targets)
        weights = np.zeros((features.shape[1], tags))
        patterns, which = np.unique(seen.T, axis=0, return_inverse=True)
        for i, rows in enumerate(patterns):
            group = which.ravel() == i
            if not rows.any():
                continue
            x = features[rows]
            gram = x.T @ x + (config.ridge + _TINY) * np.eye(x.shape[1])
            weights[:, group] = np.linalg.solve(gram, x.T @ targets[rows][:, group])
        return Predictor(config, inputs, weights, ErrorWhitening.fit(targets - features @ weights, config.shrinkage))

    def innovations(self, run: Array) -> Array:
        """`run` (n x tags) -> whitened innovations (n x tags); 0 where nothing was measured and before `order` samples."""
        features = _lags(self.inputs(_held(run)), self.config.order)
        error = (run - self.inputs.mean) / self.inputs.std - features @ self.weights
        error[: self.config.order] = 0.0
        return self.errors(error)


@dataclass(frozen=True)
class Statistics:
    """What is made of whitened innovations: standardised logarithms of the statistics of `SurpriseConfig`. The score is
    their largest, so a jump shows at once in the fast ones and a slow growth later in the slow ones.

    Arrays: `mean_square` (n,), `mean_roots` (means x n x n), `variance_std` (variances x n), `centre` and `spread`
    (components,).
    """

    config: SurpriseConfig
    mean_square: Array
    mean_roots: Array
    variance_std: Array
    centre: Array
    spread: Array

    @staticmethod
    def fit(innovations: Sequence[Array], config: SurpriseConfig, skip: int) -> Statistics:
        """From the innovations of normal runs (samples x n each) the predictor was not fitted on. The first `skip` samples
        have none. Raises `ModelError` when no run is longer than `settle`."""
        warm = [u for u in innovations if len(u) > config.settle]
        if not warm:
            raise ModelError(
                f"no normal run is longer than {config.settle} samples",
                "surprise",
                "Record longer runs, or lower settle.",
            )
        square = np.concatenate([u[skip:] for u in warm]) ** 2
        mean_square = np.maximum(square.mean(0), _TINY)
        roots, stds = [], []
        for share in config.means:
            average = np.concatenate([_ewma(u, share)[skip:] for u in warm])
            white = share / (2 - share) * np.diag(mean_square)
            # An average over many samples has few independent ones behind it: its covariance leans on theory more.
            shrinkage = config.mean_shrinkage if share < 0.3 else config.mean_shrinkage / 3
            roots.append(inverse_root(shrunk(average.T @ average / len(average), shrinkage, white)))
        for share in config.variances:
            growth = np.concatenate([_ewma(u * u - mean_square, share)[skip:] for u in warm])
            stds.append(np.maximum(growth.std(0), _TINY))
        n = len(mean_square)
        some = (np.reshape(roots, (-1, n, n)), np.reshape(stds, (-1, n)))
        bare = Statistics(config, mean_square, *some, np.zeros(1), np.ones(1))
        log = np.concatenate([bare.components(u)[config.settle :] for u in warm])
        return Statistics(config, mean_square, *some, log.mean(0), np.maximum(log.std(0), _TINY))

    def components(self, innovations: Array) -> Array:
        """Whitened `innovations` of a run (samples x n) -> standardised statistics (samples x components), means first."""
        u = innovations
        means = [_ewma(u, share) for share in self.config.means]
        return self.of(means, [_ewma(u * u - self.mean_square, share) for share in self.config.variances])

    def of(self, means: Sequence[Array], growths: Sequence[Array]) -> Array:
        """Averages of the innovations, and of their squares less `mean_square`, one (rows x n) for each share of the
        configuration -> standardised statistics (rows x components)."""
        found = [(m @ root) ** 2 for m, root in zip(means, self.mean_roots, strict=True)]
        found += [np.maximum(g / std, 0.0) ** 2 for g, std in zip(growths, self.variance_std, strict=True)]
        floor = np.array([_TINY] * len(means) + [1.0] * len(growths))  # no growth anywhere is nothing to be proud of
        return (np.log(np.stack([f.sum(1) for f in found], 1) + floor) - self.centre) / self.spread

    def attribution(self, innovations: Array, directions: Array) -> Array:
        """Share of the blame (samples x tags) of each of `directions` (tags x n); see `Surprise.attribution`."""
        u = innovations
        best = self.components(u).argmax(1)
        along = u @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
        parts = [_ewma(along, share) ** 2 for share in self.config.means]
        usual = np.einsum("jt,t,jt->j", directions, self.mean_square, directions) / (directions**2).sum(1)
        parts += [np.maximum(_ewma(along**2 - usual, share), 0.0) ** 2 for share in self.config.variances]
        part = np.stack(parts)[best, np.arange(len(u))]
        return part / np.maximum(part.sum(1, keepdims=True), _TINY)


@dataclass(frozen=True)
class Surprise:
    """Scores of a run, and the thresholds they are read against once calibrated."""

    config: SurpriseConfig
    predictor: Predictor
    statistics: Statistics
    residual_threshold: float = float("inf")
    density_threshold: float = float("inf")

    @staticmethod
    def fit(runs: Sequence[Array], config: SurpriseConfig | None = None) -> Surprise:
        """From normal `runs` (n x tags each), at least two. Statistics are scaled by runs that the predictor was not fitted
        on: its own training residuals are too small. Raises `ModelError` with fewer runs or too few samples."""
        config = config or SurpriseConfig()
        if len(runs) < 2:
            raise ModelError(
                f"{len(runs)} normal run", "surprise", "Two at least are needed: cut a long one into stretches."
            )
        order = sorted(range(len(runs)), key=lambda i: -len(runs[i]))
        count = min(config.folds, len(runs))
        innovations: list[Array] = []
        for k in range(count):
            kept = [runs[i] for i in sorted(set(order) - set(order[k::count]))]
            part = Predictor.fit(kept, config)
            innovations += [part.innovations(runs[i]) for i in order[k::count]]
        statistics = Statistics.fit(innovations, config, config.order)
        return Surprise(config, Predictor.fit(runs, config), statistics)

    def residual(self, run: Array) -> Array:
        """`run` (n x tags) -> residual score (n,), in deviations of the largest component."""
        return self.statistics.components(self.predictor.innovations(run)).max(1)

    def density(self, run: Array) -> Array:
        """`run` (n x tags) -> squared Mahalanobis distance of each sample, missing values held, from the normal ones, over
        the number of tags (n,)."""
        return (self.predictor.inputs(_held(run)) ** 2).mean(1)

    def attribution(self, run: Array) -> Array:
        """`run` (n x tags) -> each tag's share of the blame (n x tags). Rows sum to 1, or are 0 where no
        tag alone explains anything.

        Reconstruction-based contributions (Alcala & Qin 2009): how much of the innovations an error in that tag alone
        would explain, at the memory of the component that is largest now. The one tag at fault has the largest share when the
        innovations lie in its direction; shares of its neighbours are not zero.
        """
        return self.statistics.attribution(self.predictor.innovations(run), self.predictor.errors.directions)

    def calibrated(self, runs: Sequence[Array], rate: float) -> Surprise:
        """The same scores with thresholds that a share `rate` of the samples of held-out normal `runs` passes. Raises
        `ModelError` when they hold fewer than 1 / rate samples."""
        settle = self.config.settle
        scores = [np.concatenate([f(r)[settle:] for r in runs]) for f in (self.residual, self.density)]
        residual, density = (conformal_threshold(s, rate) for s in scores)
        return Surprise(self.config, self.predictor, self.statistics, residual, density)


def conformal_threshold(scores: Array, rate: float) -> float:
    """The split-conformal threshold that a new normal score passes with probability `rate` at most. Raises `ModelError`
    when so few `scores` (n,) cannot promise it."""
    if (len(scores) + 1) * rate < 1:
        raise ModelError(
            f"{len(scores)} normal scores cannot promise a false-alarm rate of {rate:g}",
            "calibration",
            f"Hold out {int(np.ceil(1 / rate))} normal samples at least.",
        )
    return float(conformal_quantile(torch.from_numpy(np.ascontiguousarray(scores)), 1 - rate))


def upper_limit(parts: Sequence[Array], rate: float, confidence: float = _CONFIDENCE) -> float:
    """A limit that a new normal score passes with probability `rate` at most, said with `confidence` from however few.

    `parts` (n,): squared scores of stretches of held-out normal time, a stretch in one piece. Scores near in time are one
    piece of evidence: the largest of each block of `_MEMORY` samples counts. Where enough blocks would pass the limit, it is one
    of these largest scores, by the binomial distribution. From fewer, the highest are taken for exponentially distributed above the
    next, as squares of normal errors are (peaks over a threshold: Davison & Smith, JRSS B 52, 1990); of their scale and their share
    the upper ends of the confidence intervals count. Never below the split-conformal threshold at what so many scores can
    promise, which it comes down to with more of them. Raises `ModelError` without a score."""
    scores = np.concatenate([p for p in parts if len(p)]) if any(map(len, parts)) else np.empty(0)
    if not len(scores):
        raise ModelError("no normal score", "calibration", "Hold out longer runs.")
    plain = conformal_threshold(scores, max(rate, 1.0 / len(scores)))
    size = max(1, min(_MEMORY, len(scores) // _BLOCKS))
    blocks = [b for p in parts if len(p) for b in np.array_split(p, max(1, round(len(p) / size)))]
    top = np.sort([b.max() for b in blocks])[::-1]
    count = min(_PEAKS, len(top) // 2)
    if count < 1:
        return plain
    over = float(top[count])
    together = sum(int((b > over).sum()) for b in blocks) / count  # samples of a block that pass at a time
    share = min(1.0, rate * len(scores) / len(top) / max(together, 1.0))  # of blocks that may
    passing = int(binom.isf(confidence, len(top), share))  # at least as many do, with that confidence
    if passing >= 1:
        return max(plain, float(top[passing - 1]))
    scale = (top[:count] - over).mean() * 2 * count / chi2.ppf(1 - confidence, 2 * count)
    often = beta.ppf(confidence, count + 1, len(top) - count)
    return max(plain, float(over + scale * max(0.0, np.log(often / share))))


def _ewma(values: Array, share: float) -> Array:
    """Exponentially weighted average over samples, from 0: y = share * x + (1 - share) * y."""
    return np.asarray(lfilter([share], [1.0, share - 1.0], values, axis=0))


def _lags(z: Array, order: int) -> Array:
    """The `order` samples before each, newest first (n x order * tags); 0 before the run."""
    padded = np.concatenate([np.zeros((order, z.shape[1])), z])
    return np.concatenate([padded[order - k : order - k + len(z)] for k in range(1, order + 1)], axis=1)


def _held(run: Array) -> Array:
    """Missing values replaced by the last one seen; NaN stays before the first."""
    seen = np.isfinite(run)
    if seen.all():
        return run
    last = np.maximum.accumulate(np.where(seen, np.arange(len(run))[:, None], 0), axis=0)
    return np.take_along_axis(run, last, axis=0)
