"""Tennessee Eastman: unsupervised detection of 21 faults, ours beside the yardsticks, every threshold on held-out normal runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.report import Report, interval
from models.representation import JepaConfig, train_jepa
from models.surprise import Surprise, SurpriseConfig, conformal_threshold
from models.whitening import Whitening

Array = NDArray[np.float64]
Score = Callable[[Array], Array]
Detector = Callable[[Sequence[Array], int], Score]
"""Normal training runs (n x 52) and a seed -> a score of any run (n,)."""

ONSET, SETTLE = 160, 20  # fault onset of Braatz's files; samples left out at a run's start
SAMPLE_MIN = 3.0
RATES = (0.05, 0.01)
BARS = {0.05: 0.90, 0.01: 0.86}
RATE_SLACK = 1.5
# Analysers: XMEAS 23-36 every 6 min, 37-41 every 15 (Downs & Vogel 1993)
PERIOD = np.repeat([1, 2, 5, 1], [22, 14, 5, 11])


@dataclass(frozen=True)
class Eastman:
    """`normal`: the runs without a fault, by name; `faults` (960 x 52 each), normal until `ONSET`."""

    normal: dict[str, Array]
    faults: dict[int, Array]

    @staticmethod
    def load(folder: Path) -> Eastman:
        faults = {i: _matrix(folder / f"d{i:02d}_te.dat") for i in range(1, 22)}
        normal = {"d00": _matrix(folder / "d00.dat"), "d00_te": _matrix(folder / "d00_te.dat")}
        return Eastman(normal | {f"before {i}": run[:ONSET] for i, run in faults.items()}, faults)

    def groups(self, seed: int, count: int = 7) -> list[list[str]]:
        """Normal runs that are held out together: the two long ones alone, the stretches before the faults in `count`
        groups, copies of one another in the same."""
        groups = [["d00"], ["d00_te"]]
        kinds: list[list[str]] = []
        for i in self.faults:
            same = [k for k in kinds if np.array_equal(self.normal[k[0]], self.normal[f"before {i}"])]
            if same:
                same[0].append(f"before {i}")
            else:
                kinds.append([f"before {i}"])
        order = np.random.default_rng(seed).permutation(len(kinds))
        return groups + [list(itertools.chain(*(kinds[j] for j in order[k::count]))) for k in range(count)]

    def distinct(self, names: Sequence[str]) -> list[Array]:
        """The runs of that name, copies left out."""
        kept: list[Array] = []
        for name in names:
            if not any(np.array_equal(self.normal[name], k) for k in kept):
                kept.append(self.normal[name])
        return kept


@dataclass(frozen=True)
class Detection:
    """`detected` and `delay_min` (rates x faults), `alarms` (rates,): share of normal samples above a threshold that other
    runs set; `long_run` (rates,): the same on d00_te alone."""

    detected: Array
    delay_min: Array
    alarms: Array
    long_run: Array


def detect(data: Eastman, detector: Detector, seed: int) -> Detection:
    """Every run is scored by a detector fitted without its group; its threshold is the pooled quantile of the other groups'
    scores, each from a detector that did not see them either."""
    groups = data.groups(seed)
    scores: list[Score] = []
    for held in groups:
        scores.append(detector(data.distinct([n for g in groups if g is not held for n in g]), seed))
    normal = [np.concatenate([s(r)[SETTLE:] for r in data.distinct(g)]) for s, g in zip(scores, groups, strict=True)]
    series = {
        int(n.split()[1]): s(data.faults[int(n.split()[1])])
        for s, g in zip(scores, groups, strict=True)
        for n in g
        if n[0] == "b"
    }
    shape = (len(RATES), len(data.faults))
    detected, delay, alarms, long_run = np.zeros(shape), np.zeros(shape), np.zeros(len(RATES)), np.zeros(len(RATES))
    for r, rate in enumerate(RATES):
        above = []
        for k, group in enumerate(groups):
            threshold = conformal_threshold(np.concatenate([n for j, n in enumerate(normal) if j != k]), rate)
            above.append(normal[k] > threshold)
            for i in (int(n.split()[1]) for n in group if n[0] == "b"):
                alarm = series[i][ONSET:] > threshold
                detected[r, i - 1] = alarm.mean()
                thrice = np.flatnonzero(alarm[:-2] & alarm[1:-1] & alarm[2:])
                delay[r, i - 1] = SAMPLE_MIN * (thrice[0] if len(thrice) else len(alarm))
        alarms[r], long_run[r] = np.concatenate(above).mean(), above[1].mean()
    return Detection(detected, delay, alarms, long_run)


def sampled(run: Array) -> Array:
    """Analysers are NaN at samples where they only repeat their last reading."""
    return np.where(np.arange(len(run))[:, None] % PERIOD == 0, run, np.nan)


def ours(runs: Sequence[Array], _seed: int) -> Score:
    """The linear JEPA in closed form: latent = the whitened sample; innovations, their means and variances at several
    memories, by the library's defaults."""
    surprise = Surprise.fit([sampled(r) for r in runs])
    return lambda run: surprise.residual(sampled(run))


def ours_held(runs: Sequence[Array], _seed: int) -> Score:
    """The same on held analyser readings."""
    return Surprise.fit(runs).residual


def ours_short(runs: Sequence[Array], _seed: int) -> Score:
    """The same with two memories of the mean only: what the variances add."""
    surprise = Surprise.fit([sampled(r) for r in runs], SurpriseConfig(means=(1.0, 0.3), variances=()))
    return lambda run: surprise.residual(sampled(run))


def latents(steps: int) -> Detector:
    """The library's score on the latents of an MLP JEPA trained on whitened windows; trained once for the same runs."""
    trained: dict[tuple[int, ...], Score] = {}

    def fit(runs: Sequence[Array], seed: int) -> Score:
        white = Whitening.fit(np.concatenate(runs))
        config = JepaConfig(
            window=4, target_window=1, horizons=(1, 4), width=128, latent=32, steps=steps, seed=seed
        )  # fmt: skip
        model = train_jepa([white(r) for r in runs], config)

        def encode(run: Array) -> Array:
            return model.latents(model.windows(white(run))).numpy().astype(np.float64)

        surprise = Surprise.fit([encode(r) for r in runs], SurpriseConfig(shrinkage=0.01, ridge=5.0))
        return lambda run: surprise.residual(encode(run))

    def once(runs: Sequence[Array], seed: int) -> Score:
        key = (seed, *map(id, runs))
        if key not in trained:
            trained[key] = fit(runs, seed)
        return trained[key]

    return once


def larger(one: Detector, other: Detector) -> Detector:
    """The larger of two scores."""

    def fit(runs: Sequence[Array], seed: int) -> Score:
        both = one(runs, seed), other(runs, seed)
        return lambda run: np.maximum(both[0](run), both[1](run))

    return fit


def random_encoder(runs: Sequence[Array], seed: int) -> Score:
    """The library's score on tanh of a random orthogonal mixture of four whitened samples: 52 latents."""
    white = Whitening.fit(np.concatenate(runs))
    mix = np.linalg.qr(np.random.default_rng(seed).standard_normal((4 * 52, 52)))[0]

    def encode(run: Array) -> Array:
        return np.tanh(_window(white(run), 4) @ mix)

    surprise = Surprise.fit([encode(r) for r in runs])
    return lambda run: surprise.residual(encode(run))


def whitened_var(runs: Sequence[Array], _seed: int) -> Score:
    """Whitened VAR(3) on held readings, T2 of its innovations averaged with share 0.3."""
    white = Whitening.fit(np.concatenate(runs))
    x = np.concatenate([_window(white(r), 4)[3:] for r in runs])
    weights = np.linalg.solve(x[:, 52:].T @ x[:, 52:] + np.eye(156), x[:, 52:].T @ x[:, :52])
    left = Whitening.fit(x[:, :52] - x[:, 52:] @ weights)

    def score(run: Array) -> Array:
        w = _window(white(run), 4)
        u = left(w[:, :52] - w[:, 52:] @ weights)
        u[:3] = 0.0
        return (np.asarray(lfilter([0.3], [1.0, -0.7], u, axis=0)) ** 2).sum(1)

    return score


def mahalanobis(points: int) -> Detector:
    """Full-rank squared Mahalanobis distance of `points` samples stacked."""

    def fit(runs: Sequence[Array], _seed: int) -> Score:
        white = Whitening.fit(np.concatenate([_window(r, points)[points - 1 :] for r in runs]))
        return lambda run: (white(_window(run, points)) ** 2).sum(1)

    return fit


def pca(points: int, components: int) -> Detector:
    """T2 of the leading components and the squared remainder of `points` samples stacked, each over its 99 % quantile on the
    training runs; the larger (Chiang, Russell & Braatz 2001, chapters 4 and 5)."""

    def fit(runs: Sequence[Array], _seed: int) -> Score:
        x = np.concatenate([_window(r, points)[points - 1 :] for r in runs])
        mean, std = x.mean(0), x.std(0)
        values, vectors = np.linalg.eigh(np.cov(((x - mean) / std).T))
        lead, scale = vectors[:, -components:], values[-components:]

        def both(run: Array) -> Array:
            z = (_window(run, points) - mean) / std
            t = z @ lead
            return np.stack([(t * t / scale).sum(1), ((z - t @ lead.T) ** 2).sum(1)], 1)

        limit = np.quantile(np.concatenate([both(r)[points - 1 :] for r in runs]), 0.99, axis=0)
        return lambda run: (both(run) / limit).max(1)

    return fit


def cva(runs: Sequence[Array], _seed: int, past: int = 3, future: int = 3, states: int = 29) -> Score:
    """Canonical variates of `past` samples against `future`: T2 of the states and of the rest, each over its 99 % quantile;
    the larger (Chiang, Russell & Braatz 2001, chapter 7)."""
    stacked = np.concatenate([_window(r, past + future)[past + future - 1 :] for r in runs])
    ahead, behind = Whitening.fit(stacked[:, : future * 52]), Whitening.fit(stacked[:, future * 52 :])
    f, p = ahead(stacked[:, : future * 52]), behind(stacked[:, future * 52 :])
    _, _, turn = np.linalg.svd(f.T @ p / len(f))

    def both(run: Array) -> Array:
        c = behind(_window(run, past)) @ turn.T
        return np.stack([(c[:, :states] ** 2).sum(1), (c[:, states:] ** 2).sum(1)], 1)

    limit = np.quantile(np.concatenate([both(r)[past - 1 :] for r in runs]), 0.99, axis=0)
    return lambda run: (both(run) / limit).max(1)


def eastman(report: Report, folder: Path, seeds: Sequence[int], quick: bool) -> None:
    """Detection at matched false-alarm rates, every detector under the same protocol."""
    data = Eastman.load(folder)
    steps = 20 if quick else 100
    learned = latents(steps)
    name = "ours: linear JEPA, means and variances of innovations"
    detectors: dict[str, Detector] = {
        "PCA 27": pca(1, 27),
        "DPCA, 3 samples, 81 components": pca(3, 81),
        "CVA, 3 past, 3 future, 29 states": cva,
        "full-rank Mahalanobis, 1 sample": mahalanobis(1),
        "full-rank Mahalanobis, 4 samples": mahalanobis(4),
        "whitened VAR(3) + EWMA 0.3": whitened_var,
        "random orthogonal encoder, our score": random_encoder,
        name: ours,
        "ours, analysers held": ours_held,
        "ours, fast means only": ours_short,
        f"MLP JEPA latents alone, {steps} steps": learned,
        "ours or MLP JEPA latents, the larger": larger(ours, learned),
    }
    rows, found = [], {}
    for label, detector in detectors.items():
        runs = [detect(data, detector, s) for s in seeds]
        found[label] = runs
        cells = []
        for r in range(len(RATES)):
            cells += [interval([d.detected[r].mean() for d in runs]), f"{np.mean([d.alarms[r] for d in runs]):.4f}"]
        long_run = " / ".join(f"{np.mean([d.long_run[r] for d in runs]):.3f}" for r in range(len(RATES)))
        delays = np.mean([d.delay_min for d in runs], axis=0)[1]
        rows.append([label, *cells, long_run, float(np.median(delays)), int((delays < SAMPLE_MIN * 700).sum())])
    report.table(
        f"Tennessee Eastman: mean detection over 21 faults, {len(seeds)} partitions or seeds",
        ["detector", "at 5 %", "measured rate", "at 1 %", "measured rate", "rate on d00_te alone, 5 / 1 %",
         "median delay at 1 %, min", "faults alarmed"],
        rows,
    )  # fmt: skip
    shown = (name, "whitened VAR(3) + EWMA 0.3", "CVA, 3 past, 3 future, 29 states")
    mean = {k: np.mean([d.detected for d in found[k]], axis=0) for k in shown}
    delay = np.mean([d.delay_min for d in found[name]], axis=0)[1]
    report.table(
        "Fault by fault: ours, whitened VAR, CVA",
        ["fault", *(f"{k} {rate:.0%}" for k in ("ours", "VAR", "CVA") for rate in RATES), "our delay at 1 %, min"],
        [
            [i + 1, *(f"{mean[k][r, i]:.2f}" for k in shown for r in range(len(RATES))), float(delay[i])]
            for i in range(21)
        ],
    )
    for r, rate in enumerate(RATES):
        best = found[name]
        report.bar(
            f"mean detection at {rate:.0%}",
            float(np.mean([d.detected[r].mean() for d in best])),
            BARS[rate],
            at_least=True,
        )
        report.bar(
            f"measured rate at nominal {rate:.0%}",
            max(float(d.alarms[r]) for d in best),
            RATE_SLACK * rate,
            at_least=False,
        )
    report.note(
        "Tennessee Eastman. Normal data: d00, d00_te and the 160 samples before each fault (those of faults 4 and 5 are the same and "
        "count once). They are held out by run in nine groups (d00; d00_te; seven of the rest, drawn by the seed). Whatever is scored was "
        "in no group its detector was fitted on; thresholds pool the scores of all other groups; the measured rate is over all normal "
        f"samples but the first {SETTLE} of each run. No sample after a fault's onset fits, scales or thresholds anything. All rows share this."
    )
    report.note(
        "Chosen how: lags, shrinkage and memories on faults injected into d00_te (biases, drifts, noise, frozen tags, steps, slow and fast "
        "disturbances, changed feedback) and on the likelihood of held-out normal runs. The 21 faults were looked at five times while this "
        "was made: twice through VAR and EWMA yardsticks while the protocol was settled; the chosen statistics scaled by training residuals "
        "(.895/.850, but false alarms of .14/.05 on normal runs, which is why they are scaled by held-out ones now); the same so scaled "
        "(.927/.882); and once as the library has it now, with other inner folds (.915/.869). Nothing was changed for what the last two showed."
        " This run is one more look. While innovations before an onset were inspected, the first four "
        "samples after it were printed too; the analysers' sampling pattern was noticed there."
    )
    report.note(
        "Read with care: the stretches before faults are 160 samples, so slow statistics are held to a normal mostly of young runs; d00_te, "
        "the only long one, shows the rate an old run has when nothing of it was in the training. Detection of faults 3, 9 and 15 below about twice that "
        "rate is no evidence. Delay: first of three alarms in a row, undetected counts 2400 min. Alarmed: such an alarm within 700 samples."
    )
    report.note(
        "What the closed form leaves, an MLP did not predict: a network on the same lags lowered no held-out error, and MLP JEPA latents "
        "beside the score gained nothing on injected faults. So the learned encoder is a row, not the default, and the seed of the default "
        "only draws the groups."
    )


def _matrix(path: Path) -> Array:
    x = np.loadtxt(path)
    return x.T if x.shape[0] == 52 else x


def _window(run: Array, points: int) -> Array:
    """Each sample beside the ones before it, newest first (n x points * tags); the first sample stands before the run."""
    padded = np.concatenate([np.repeat(run[:1], points - 1, axis=0), run])
    return np.concatenate([padded[points - 1 - k : points - 1 - k + len(run)] for k in range(points)], axis=1)
