"""Surprise on the Tennessee Eastman process and remaining life on C-MAPSS FD001, with the yardsticks recomputed.

    python -m benchmarks.representation --data DIR [--quick] [--json benchmarks/results/representation.json] [--check]

Bars: mean detection over 21 faults at matched false-alarm rate >= .90 at 5 % and >= .86 at 1 %, measured rate at most 1.5 x
nominal; remaining-life RMSE of a frozen encoder <= 12.6, mean over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.report import Report
from models.representation import JepaConfig, Probe, train_jepa
from models.surprise import Surprise, SurpriseConfig, conformal_threshold
from models.whitening import Whitening

Array = NDArray[np.float64]
Score = Callable[[Array], Array]
Detector = Callable[[Sequence[Array], int], Score]
"""Normal training runs (n x 52) and a seed -> a score of any run (n,)."""

ONSET, SETTLE, SAMPLE_MIN = (
    160,
    20,
    3.0,
)  # fault onset and samples left out at a run's start; Braatz's files, 3-min samples
RATES = (0.05, 0.01)
BARS = {0.05: 0.90, 0.01: 0.86}
RATE_SLACK, BAR_RMSE, CAP = 1.5, 12.6, 125.0
PERIOD = np.repeat(
    [1, 2, 5, 1], [22, 14, 5, 11]
)  # analysers: XMEAS 23-36 every 6 min, 37-41 every 15 (Downs & Vogel 1993)


# ---- Tennessee Eastman


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
            cells += [_interval([d.detected[r].mean() for d in runs]), f"{np.mean([d.alarms[r] for d in runs]):.4f}"]
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


# ---- C-MAPSS


@dataclass(frozen=True)
class Engines:
    """Training and test engines (cycles x sensors each) with the remaining life at every training cycle and at each test
    engine's last, capped."""

    train: list[Array]
    life: list[Array]
    test: list[Array]
    truth: Array

    @staticmethod
    def load(folder: Path) -> Engines:
        train, test = (_engines(folder / f"{part}_FD001.txt") for part in ("train", "test"))
        stacked = np.concatenate(train)
        moving = [j for j in range(stacked.shape[1]) if len(np.unique(stacked[:, j])) > 2]
        life = [np.minimum(np.arange(len(e))[::-1], CAP).astype(np.float64) for e in train]
        truth = np.minimum(np.loadtxt(folder / "RUL_FD001.txt"), CAP)
        return Engines([e[:, moving] for e in train], life, [e[:, moving] for e in test], truth)


Features = Callable[[Array], Array]
Encoder = Callable[[Sequence[Array], int], Features]
"""Training engines and a seed -> features (cycles x d) of any engine."""

AVERAGED, RIDGES = (1, 3, 5, 10), (1e-3, 1e-2, 1e-1)
GRID = ((16,), (16, 32))


def jepa_encoder(horizons: tuple[int, ...], steps: int) -> Encoder:
    """Hidden layers of a JEPA trained on the training engines; `steps` = 0 is the random encoder."""

    def fit(train: Sequence[Array], seed: int) -> Features:
        config = JepaConfig(horizons=horizons, steps=steps, seed=seed)
        model = train_jepa(train, config)
        return lambda engine: model.embed(model.windows(engine)).numpy().astype(np.float64)

    return fit


def handcrafted(train: Sequence[Array], _seed: int) -> Features:
    """Mean and slope over 60 cycles, and their squares, z-scored."""
    stacked = np.concatenate(train)
    mean, std = stacked.mean(0), stacked.std(0)

    def plain(engine: Array) -> Array:
        z = (engine - mean) / std
        padded = np.concatenate([np.tile(z[:5].mean(0), (59, 1)), z])
        view = np.lib.stride_tricks.sliding_window_view(padded, 60, axis=0)
        t = np.arange(60) - 29.5
        return np.concatenate([view.mean(-1), view @ t / (t @ t)], 1)

    every = np.concatenate([plain(e) for e in train])
    centre, spread = every.mean(0), every.std(0)

    def features(engine: Array) -> Array:
        h = (plain(engine) - centre) / spread
        return np.concatenate([h, h * h], 1)

    return features


def averaged(features: Array, cycles: int) -> Array:
    """Mean of the last `cycles` rows, fewer at the start."""
    total = np.concatenate([np.zeros((1, features.shape[1])), features.cumsum(0)])
    last = np.arange(1, len(features) + 1)
    first = np.maximum(last - cycles, 0)
    return (total[last] - total[first]) / (last - first)[:, None]


def cross_validate(data: Engines, encoder: Encoder, seed: int = 0, folds: int = 3) -> tuple[float, int, float]:
    """(RMSE, cycles averaged, ridge) of the best probe, by engine on the training engines: a fifth of the engines held out
    from encoder and probe, cut 20 times each at random after cycle 30, as the test engines are; `folds` of the five."""
    order = np.random.default_rng(0).permutation(len(data.train))
    error: dict[tuple[int, float], list[float]] = {}
    for k in range(folds):
        held = order[k::5]
        kept = [i for i in range(len(data.train)) if i not in held]
        features = encoder([data.train[i] for i in kept], seed)
        raw = [features(e) for e in data.train]
        rng = np.random.default_rng(k)
        cuts = [(i, int(rng.integers(30, len(data.train[i])))) for i in held for _ in range(20)]
        truth = np.array([data.life[i][t] for i, t in cuts])
        for cycles in AVERAGED:
            x = [averaged(r, cycles) for r in raw]
            at = np.stack([x[i][t] for i, t in cuts])
            for ridge in RIDGES:
                probe = Probe.fit(
                    np.concatenate([x[i] for i in kept]), np.concatenate([data.life[i] for i in kept]), ridge
                )
                error.setdefault((cycles, ridge), []).append(float(((np.clip(probe(at), 0, CAP) - truth) ** 2).mean()))
    best = min(error, key=lambda key: np.mean(error[key]))
    return math.sqrt(np.mean(error[best])), *best


def predict(data: Engines, encoder: Encoder, seed: int, cycles: int, ridge: float) -> Array:
    """Remaining life of the test engines at their last cycle (n_test,), clipped to 0..125."""
    features = encoder(data.train, seed)
    x = np.concatenate([averaged(features(e), cycles) for e in data.train])
    probe = Probe.fit(x, np.concatenate(data.life), ridge)
    last = np.stack([averaged(features(e), cycles)[-1] for e in data.test])
    return np.clip(probe(last), 0, CAP)


def remaining_life(report: Report, folder: Path, seeds: Sequence[int], quick: bool) -> None:
    """Frozen encoders and a ridge probe at the test engines' last cycle."""
    data = Engines.load(folder)
    steps = 30 if quick else 1000
    folds = 1 if quick else 3
    tried = {h: cross_validate(data, jepa_encoder(h, steps), folds=folds) for h in (GRID[1:2] if quick else GRID)}
    horizons = min(tried, key=lambda h: tried[h][0])
    report.table(
        "C-MAPSS FD001: the configurations, by cross-validation on training engines",
        ["horizons, cycles", "RMSE", "hidden layers averaged over", "ridge"],
        [[", ".join(map(str, h)), *v] for h, v in tried.items()],
    )
    rows, guesses = [], {}
    for label, encoder, choice, several in (
        ("handcrafted: mean, slope, squares over 60", handcrafted, None, False),
        ("random encoder", jepa_encoder(horizons, 0), None, True),
        ("JEPA", jepa_encoder(horizons, steps), tried[horizons], True),
    ):
        valid, cycles, ridge = choice or cross_validate(data, encoder, folds=folds)
        guesses[label] = np.stack([predict(data, encoder, s, cycles, ridge) for s in (seeds if several else seeds[:1])])
        errors = [_rmse(g, data.truth) for g in guesses[label]]
        rows.append(
            [
                label,
                valid,
                cycles,
                ridge,
                _interval(errors),
                _rmse(guesses[label].mean(0), data.truth) if several else "",
            ]
        )
    rows.append(["public frozen JEPA (cited)", "", "", "", "16.4", ""])
    report.table(
        f"C-MAPSS FD001: RMSE at the last cycle of all {len(data.test)} test engines, cap 125, clipped to 0..125, {len(seeds)} seeds",
        ["features", "cross-validated", "averaged over", "ridge", "test RMSE", "ensemble of the seeds"],
        rows,
    )
    hand, jepa = guesses["handcrafted: mean, slope, squares over 60"][0], guesses["JEPA"]
    rng = np.random.default_rng(0)
    picks = rng.integers(len(data.truth), size=(10_000, len(data.truth)))
    table = []
    for label, several in (("JEPA, mean over seeds", jepa), ("JEPA, ensemble", jepa.mean(0, keepdims=True))):
        gap = [np.mean([_rmse(g[p], data.truth[p]) for g in several]) - _rmse(hand[p], data.truth[p]) for p in picks]
        low, high = np.percentile(gap, [2.5, 97.5])
        table.append([label, float(np.mean(gap)), f"{low:.2f} .. {high:.2f}", float((np.array(gap) < 0).mean())])
    report.table(
        "RMSE less the handcrafted row's, paired bootstrap over engines",
        ["row", "mean", "95 %", "share of resamples in which it is lower"],
        table,
    )
    report.bar(
        "remaining-life RMSE, mean over seeds",
        float(np.mean([_rmse(g, data.truth) for g in jepa])),
        BAR_RMSE,
        at_least=False,
    )
    report.note(
        "C-MAPSS. The encoder sees training engines only, without labels; the probe is a ridge regression on its two hidden layers. Horizons, the "
        "number of cycles averaged and the ridge come from cross-validation by engine, for every row alike; width, latent, "
        "SIGReg weight and steps too, from a wider search of the same kind while this was made."
        " The test engines were seen twice: in a thirty-step quick run (13.05) and in this one."
    )


def _matrix(path: Path) -> Array:
    x = np.loadtxt(path)
    return x.T if x.shape[0] == 52 else x


def _engines(path: Path) -> list[Array]:
    rows = np.loadtxt(path)
    return [rows[rows[:, 0] == unit][:, 5:] for unit in np.unique(rows[:, 0])]


def _window(run: Array, points: int) -> Array:
    """Each sample beside the ones before it, newest first (n x points * tags); the first sample stands before the run."""
    padded = np.concatenate([np.repeat(run[:1], points - 1, axis=0), run])
    return np.concatenate([padded[points - 1 - k : points - 1 - k + len(run)] for k in range(points)], axis=1)


def _rmse(guess: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((guess - truth) ** 2)))


def _interval(values: Sequence[float]) -> str:
    """Mean, and the 95 % interval of the mean over seeds (Student, few of them)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return f"{np.mean(values):.3f}"
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0)
    return f"{np.mean(values):.3f} ± {t * np.std(values, ddof=1) / math.sqrt(len(values)):.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.representation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with tep/ and cmapss/")
    parser.add_argument("--seed", type=int, default=0, help="first of the seeds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed and short training: a look, not a result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    report = Report("representation: Tennessee Eastman, C-MAPSS FD001")
    eastman(report, args.data / "tep", seeds, args.quick)
    remaining_life(report, args.data / "cmapss", seeds, args.quick)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
