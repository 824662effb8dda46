"""Does the world model notice that a plant no longer does what it did? Faults of sensors and of the process, injected into
simulated plants, and how often normal operation is taken for one.

    python -m benchmarks.surprise [--quick] [--plants reactor,vandevusse,turbofan,glucose] [--seeds 3]
                                  [--json benchmarks/results/surprise.json] [--check] [--cache DIR]

Bars, for the world model on each plant: AUROC >= .95, mean over the faults, of the samples in which a fault shows against
those of normal runs; at most 2 false alarms in 10,000 normal samples.

A fault *shows* in a sample when within the last 10 a reading was, by root mean square, more than 2 deviations of its noise from
what perfect instruments on a sound twin under the same moves would have shown: of a valve that sticks where it is asked to
be nobody can tell. AUROC over every sample from the onset on stands beside it. Limits come from normal runs of their own,
statistics from others; the runs reported are neither, and the model was trained on none of them.

Controls: moves shuffled among the runs, an encoder that never learned, and a linear prediction from the last three samples of
all tags (`models.surprise`), which knows what moves were made but not what they will do.

Glucose: research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from benchmarks.report import Report, interval
from benchmarks.surprise_faults import FAULTS, Fault, Recorded, broken_runs
from benchmarks.trained import trained
from benchmarks.world_model_data import PlantData, missing, runs_of
from benchmarks.world_model_rows import CORE, Sizes
from benchmarks.world_model_rows import QUICK as QUICK_SIZES
from homeostat.lockstep import excitation_run
from models.config import ModelConfig, TrainingConfig
from models.plant_surprise import RATE, PlantSurprise, follow
from models.rivals.latent import LatentForecaster
from models.rivals.registry import train_rival
from models.surprise import Surprise, SurpriseConfig
from models.windows import Run
from models.world_model import WorldModel
from plant.spec import PlantSpec, load_spec

Array = NDArray[np.float64]
SHOWS, WITHIN = 2.0, 10  # deviations of the noise, samples
OURS = "world model"
_FITTED, _LIMITS, _NORMAL, _BROKEN = 61, 62, 63, 64  # seeds


@dataclass(frozen=True)
class Amounts:
    """Runs of `samples` samples each: to fit statistics on, to take limits from, normal ones to report, and of each fault,
    which strikes at sample `onset`."""

    fitted: int
    limits: int
    normal: int
    broken: int
    samples: int = 150
    onset: int = 60


FULL = Amounts(150, 300, 200, 40)
QUICK = Amounts(20, 40, 20, 8)


@dataclass(frozen=True)
class Scored:
    """A run under a detector: `score` (n,), above 1 an alarm, NaN where it does not judge; `blame` (n x n_measured) or None."""

    score: Array
    blame: Array | None = None


Detector = Callable[[Sequence[Run]], list[Scored]]


@dataclass(frozen=True)
class Plant:
    """What every detector of a plant is made from and asked about, the same for all seeds."""

    spec: PlantSpec
    amounts: Amounts
    fitted: list[Run]
    limits: list[Run]
    normal: Recorded
    broken: dict[Fault, Recorded]

    @staticmethod
    def recorded(name: str, amounts: Amounts) -> Plant:
        spec = load_spec(name)
        fitted, limits = (
            runs_of(spec, excitation_run(spec, count, amounts.samples, seed))
            for count, seed in ((amounts.fitted, _FITTED), (amounts.limits, _LIMITS))
        )
        length = (amounts.samples, amounts.onset)
        broken = {f: broken_runs(spec, f, amounts.broken, *length, _BROKEN + i) for i, f in enumerate(FAULTS[name])}
        return Plant(spec, amounts, fitted, limits, broken_runs(spec, None, amounts.normal, *length, _NORMAL), broken)

    def shows(self, recorded: Recorded) -> list[Array]:
        """In which samples (n,) of each run something can be seen at all."""
        tags = [*self.spec.measured, *self.spec.dvs]
        noise = np.array([t.noise or 1e-3 * (t.range[1] - t.range[0]) for t in tags])
        out = []
        for run, sound in zip(recorded.runs, recorded.sound, strict=True):
            off = np.nan_to_num((np.concatenate([run.measured, run.dvs], 1) - sound) / noise) ** 2
            total = np.cumsum(np.concatenate([np.zeros((WITHIN, off.shape[1])), off]), 0)
            far = np.sqrt((total[WITHIN:] - total[:-WITHIN]) / WITHIN).max(1) > SHOWS
            out.append(far & (np.arange(len(run)) >= self.amounts.onset))
        return out


def watched(model: WorldModel, plant: Plant) -> Detector:
    """The world model's surprise, as `homeostat train` makes it."""
    surprise = PlantSurprise.fit(model, plant.fitted).calibrated(model, plant.limits)

    def detect(runs: Sequence[Run]) -> list[Scored]:
        judged = [surprise.judge(*f) for f in follow(model, runs, surprise.steps)]
        early = [np.arange(len(v.score)) < surprise.settle for v in judged]
        return [Scored(np.where(e, np.nan, v.score), v.blame) for e, v in zip(early, judged, strict=True)]

    return detect


def shuffled(runs: Sequence[Run]) -> list[Run]:
    """Runs with the moves of another, cut to the shorter of the two."""
    out = []
    for run, other in zip(runs, [*runs[1:], runs[0]], strict=True):
        n = min(len(run), len(other))
        labels, hidden = run.labels[:n], None if run.hidden is None else run.hidden[:n]
        cut = replace(
            run, measured=run.measured[:n], dvs=run.dvs[:n], labels=labels, hidden=hidden, applied=other.applied[:n]
        )
        out.append(cut)
    return out


def with_shuffled_moves(model: WorldModel, plant: Plant) -> Detector:
    inner = watched(model, replace(plant, fitted=shuffled(plant.fitted), limits=shuffled(plant.limits)))

    def detect(runs: Sequence[Run]) -> list[Scored]:
        nan = [np.full(len(r), np.nan) for r in runs]
        for score, found in zip(nan, inner(shuffled(runs)), strict=True):
            score[: len(found.score)] = found.score
        return [Scored(score) for score in nan]

    return detect


def linear(plant: Plant) -> Detector:
    def rows(runs: Sequence[Run]) -> list[Array]:
        return [np.concatenate([r.measured, r.dvs, r.applied], 1) for r in runs]

    few = 1.0 / sum(max(len(r) - SurpriseConfig().settle, 0) for r in plant.limits)
    surprise = Surprise.fit(rows(plant.fitted)).calibrated(rows(plant.limits), max(RATE, few))

    def detect(runs: Sequence[Run]) -> list[Scored]:
        out = []
        for row in rows(runs):
            residual = np.exp(surprise.residual(row) - surprise.residual_threshold)
            score = np.maximum(residual, surprise.density(row) / surprise.density_threshold)
            out.append(Scored(np.where(np.arange(len(row)) < surprise.config.settle, np.nan, score)))
        return out

    return detect


def detectors(plant: Plant, data: PlantData, model: WorldModel, seed: int, sizes: Sizes) -> dict[str, Detector]:
    config = TrainingConfig(seed=seed, steps=sizes.steps or TrainingConfig().steps)
    control = train_rival("random_encoder", data.spec, data.training, data.validation, ModelConfig(), config)
    assert isinstance(control, LatentForecaster)
    return {
        OURS: watched(model, plant),
        "moves shuffled": with_shuffled_moves(model, plant),
        "untrained encoder": watched(control.model, plant),
        "linear prediction": linear(plant),
    }


def auroc(positive: Array, negative: Array) -> float:
    """The probability that a positive scores higher than a negative one; NaN where there are none."""
    if not len(positive) or not len(negative):
        return np.nan
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


@dataclass(frozen=True)
class Found:
    """One fault under one detector. `auroc` where it shows, `every` of all samples from the onset on; `told` share of the
    runs it shows in with an alarm after that; `delay` median samples from showing to the alarm; `blamed` share of those
    in which the sensor at fault has most of the blame, NaN for others."""

    auroc: float
    every: float
    told: float
    delay: float
    blamed: float


def found(plant: Plant, fault: Fault, detect: Detector, normal: Array) -> Found:
    recorded = plant.broken[fault]
    scored, shows = detect(recorded.runs), plant.shows(recorded)
    judged = [np.isfinite(s.score) for s in scored]
    late = [np.arange(len(s.score)) >= plant.amounts.onset for s in scored]
    every, visible = (
        np.concatenate([s.score[m & j] for s, m, j in zip(scored, masks, judged, strict=True)])
        for masks in (late, shows)
    )
    tags = [t.name for t in plant.spec.measured]
    delays, blamed, count = [], [], 0
    for s, mask in zip(scored, shows, strict=True):
        if not mask.any():
            continue
        count, begins = count + 1, int(mask.argmax())
        alarms = begins + np.flatnonzero(np.nan_to_num(s.score[begins:]) > 1)
        if len(alarms):
            delays.append(alarms[0] - begins)
            if s.blame is not None and fault.tag in tags:
                blamed.append(tags[int(s.blame[alarms].mean(0).argmax())] == fault.tag)
    return Found(
        auroc(visible, normal), auroc(every, normal), len(delays) / count if count else np.nan,
        float(np.median(delays)) if delays else np.nan, float(np.mean(blamed)) if blamed else np.nan,
    )  # fmt: skip


def measure(report: Report, name: str, seeds: int, amounts: Amounts, sizes: Sizes, cache: Path) -> None:
    """All rows and bars of one plant."""
    began = time.perf_counter()
    plant = Plant.recorded(name, amounts)
    rows: dict[str, dict[Fault, list[Found]]] = {}
    alarms: dict[str, list[float]] = {}
    judged = 0
    for seed in range(seeds):
        model, data = trained(name, seed, sizes, folder=cache)
        for row, detect in detectors(plant, data, model, seed, sizes).items():
            scores = np.concatenate([s.score for s in detect(plant.normal.runs)])
            normal = scores[np.isfinite(scores)]
            judged = max(judged, len(normal))
            alarms.setdefault(row, []).append(1e4 * float((normal > 1).mean()))
            for fault in plant.broken:
                rows.setdefault(row, {}).setdefault(fault, []).append(found(plant, fault, detect, normal))
        print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s so far", file=sys.stderr)
    ours = rows[OURS]
    report.table(
        f"{name}: each fault under the world model's surprise",
        ["fault", "size", "AUROC where it shows", "from the onset on", "told", "delay, samples", "right sensor blamed"],
        [
            [f.name, f.says, interval([x.auroc for x in of]), interval([x.every for x in of]),
             interval([x.told for x in of], 2), interval([x.delay for x in of], 0), interval([x.blamed for x in of], 2)]
            for f, of in ours.items()
        ],
    )  # fmt: skip
    body = []
    for row, of in rows.items():
        sensors, process = (
            [float(np.nanmean([xs[s].auroc for f, xs in of.items() if bool(f.tag) == sensor])) for s in range(seeds)]
            for sensor in (True, False)
        )
        told = [float(np.nanmean([xs[s].told for xs in of.values()])) for s in range(seeds)]
        body.append([row, interval(sensors), interval(process), interval(told, 2), interval(alarms[row], 2)])
    columns = ["row", "AUROC, sensor faults", "AUROC, process faults", "told", "false alarms in 10,000"]
    report.table(f"{name}: rows and controls ({judged} normal samples)", columns, body)
    mean = float(np.mean([np.nanmean([xs[s].auroc for xs in ours.values()]) for s in range(seeds)]))
    report.bar(f"{name}: AUROC, mean over faults", mean, 0.95, at_least=True)
    report.bar(f"{name}: false alarms in 10,000 normal samples", float(np.mean(alarms[OURS])), 2.0, at_least=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.surprise", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plants", default=",".join(FAULTS), help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little data, 200 steps, one seed: a look, not a result")
    parser.add_argument("--cache", type=Path, default=Path(".homeostat/benchmarks/trained"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    report = Report("surprise" + (" (quick)" if args.quick else ""))
    for name in args.plants.split(","):
        if why := missing(name):
            report.note(f"{name} is left out: {why}")
            continue
        amounts, sizes = (QUICK, QUICK_SIZES) if args.quick else (FULL, CORE)
        measure(report, name, 1 if args.quick else args.seeds, amounts, sizes, args.cache)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
