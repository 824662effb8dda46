"""Controllers beside each other: the same plants, disturbances, noise and targets for each, many loops at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from controllers.contracts import Controller, Status
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from controllers.runtime.targets import Change, TargetBoard
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario

Array = NDArray[np.float64]
_SETTLED = 0.2  # of each stretch of one target, at its end: where an offset is looked for
_BAD = (Status.RECOVERY, Status.INFEASIBLE, Status.FALLBACK)
Maker = Callable[[SimulatedPlant], Controller]
"""The plants a controller is to run -> a fresh one; it may be told of them what is written down, and how many there are."""


@dataclass(frozen=True)
class Row:
    """What one controller did: `name`, and trajectories of every seed."""

    name: str
    seeds: list[Trajectories]


def stepped_targets(spec: PlantSpec, runs: int, samples: int, seed: int) -> Array:
    """Three levels of each target a run, from the middle 80 % of what an operator may ask for (runs x samples x n_target)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7A]))
    lows, highs = np.array([t.limits for t in spec.targets]).reshape(-1, 2).T
    levels = rng.uniform(lows + 0.1 * (highs - lows), highs - 0.1 * (highs - lows), (runs, 3, len(lows)))
    return np.repeat(levels, -(-samples // 3), axis=1)[:, :samples]


def scheduled(spec: PlantSpec, changes: Sequence[Change], samples: int) -> tuple[Array, Array | None]:
    """What a schedule asks for during the interval after each sample, its time counted from its first row: targets (samples x
    n_target), zones (samples x n_zone x 2; None where the plant has none)."""
    board = TargetBoard(spec)
    start_s = min(c.at_s for c in changes)
    board.file(sorted((replace(c, at_s=c.at_s - start_s) for c in changes), key=lambda c: c.at_s))
    targets, zones = [], []
    for k in range(samples):
        board.due(k * spec.sample_time_s)
        targets.append(list(board.values.values()))
        zones.append(board.zones_now())
    return np.array(targets, dtype=np.float64), np.array(zones) if spec.zones else None


def evaluate(
    spec: PlantSpec,
    makers: Mapping[str, Maker],
    scenario: Scenario,
    *,
    runs: int,
    seeds: Sequence[int],
    preview: bool = False,
    noise: float = 1.0,
    schedule: Sequence[Change] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """`runs` closed loops of `scenario` a seed under each controller. A seed draws start states, disturbances, faults, noise and
    targets, the same for all controllers. With a `schedule`, targets and zones follow it in every run."""
    low, high = limits_of(spec)
    rows = [Row(name, []) for name in makers]
    samples = scenario.samples(spec)
    planned, zones = scheduled(spec, schedule, samples) if schedule else (None, None)
    for seed in seeds:
        targets = stepped_targets(spec, runs, samples, seed) if planned is None else planned
        for row, make in zip(rows, makers.values(), strict=True):
            progress(f"{row.name}, seed {seed}")
            plant = SimulatedPlant(spec, seed, runs, Drawn(scenario), noise)
            done = close_loop(
                make(plant),
                plant,
                targets,
                preview=preview,
                move_low=low,
                move_high=high,
                first_move=plant.moves,
                zones=zones,
            )
            row.seeds.append(done)
    return rows


def scores(spec: PlantSpec, done: Trajectories) -> dict[str, Array]:
    """Per run (runs,): `error TAG` integral of |true - target| (unit x min), `offset TAG` largest mean error over the last
    fifth of a stretch of one target, `outside TAG` share of time outside its zone and `beyond TAG` mean distance outside (zone
    scales; 0 inside), `money` mean cost an hour at the spec's prices (in their currency), `past GUARDRAIL` 1 where the true value
    passed it, `travel MV` sum of its changes in spans, `unsound` share of samples whose plan broke a guardrail or was none, `tight`
    share of those that kept every limit but not every margin, `ended` 1 where the plant left the region its equations hold in.

    A run that ended is lost, and no better for having ended: from then on it is off every target and outside every zone by the whole
    range of the tag, costs the most that the prices can make of the ranges, has no sound plan, and travels on as it did."""
    minutes, lost, out = spec.sample_time_s / 60, _lost(done), {}
    for i, target in enumerate(spec.targets):
        error = np.where(lost, spec.tag(target.tag).span, done.true[target.tag][:, 1:] - done.targets[..., i])
        out[f"error {target.tag}"] = np.nansum(np.abs(error), 1) * minutes
        stretch = -(-error.shape[1] // 3)
        tail = max(1, round(_SETTLED * stretch))
        ends = [error[:, max(0, e - tail) : e] for e in (stretch, 2 * stretch, error.shape[1])]
        with np.errstate(invalid="ignore"):
            means = [np.abs(e.mean(1)) for e in ends]
        out[f"offset {target.tag}"] = np.nanmax(np.nan_to_num(np.stack(means), nan=0.0), 0)
    for i, zone in enumerate(spec.zones):
        distance = np.where(lost, spec.tag(zone.tag).span, _outside(spec, done, i)) / spec.zone_scale(zone)
        out[f"outside {zone.tag}"], out[f"beyond {zone.tag}"] = (distance > 0).mean(1), distance.mean(1)
    if spec.prices:
        dearest = sum(max(p.per_unit * v for v in spec.tag(p.tag).range) for p in spec.prices)
        out["money"] = np.where(lost, dearest, _money(spec, done)).mean(1)
    for g in spec.guardrails:
        with np.errstate(invalid="ignore"):
            out[f"past {g.name}"] = (g.margin(done.worst[g.name]) < 0).any(1).astype(float)
    low, high = limits_of(spec)
    lived = np.maximum((~lost).sum(1), 1)
    for i, mv in enumerate(spec.mvs):
        steps = np.where(lost[:, 1:], 0.0, np.abs(np.diff(done.moves[..., i], axis=1)))
        out[f"travel {mv.name}"] = np.nansum(steps, 1) / (high - low)[i] * lost.shape[1] / lived
    out["unsound"] = (np.array([[s in _BAD for s in sample] for sample in done.status]).T | lost).mean(1)
    out["tight"] = np.array([[s is Status.TIGHT for s in sample] for sample in done.status]).mean(0)
    out["ended"] = lost[:, -1].astype(float)
    return out


def _lost(done: Trajectories) -> NDArray[np.bool_]:
    """Where a run has ended, (runs x n)."""
    return done.ended if done.ended is not None else np.zeros(done.moves.shape[:2], bool)


def _outside(spec: PlantSpec, done: Trajectories, i: int) -> Array:
    """How far zone `i` is left at the end of each interval (runs x n), in its tag's unit; 0 inside."""
    zone = spec.zones[i]
    if done.zones is None:
        low, high = (np.nan if v is None else v for v in (zone.low, zone.high))
    else:
        low, high = done.zones[:, i].T
    value = done.true[zone.tag][:, 1:]
    with np.errstate(invalid="ignore"):
        return np.fmax(np.fmax(low - value, value - high), 0.0)


def _money(spec: PlantSpec, done: Trajectories) -> Array:
    """What each interval costs an hour (runs x n)."""
    moves = {t.name: done.moves[..., i] for i, t in enumerate(spec.mvs)}
    priced = [p.per_unit * (moves[p.tag] if p.tag in moves else done.true[p.tag][:, 1:]) for p in spec.prices]
    return np.sum(priced, axis=0)


@dataclass(frozen=True)
class Compared:
    """One score of one controller over the seeds: its `mean` and half of the 95 % `interval` of it; `difference` from the
    first controller and half of its interval, paired by run and then by seed (None for the first)."""

    mean: float
    interval: float
    difference: tuple[float, float] | None


def compared(spec: PlantSpec, rows: Sequence[Row]) -> dict[str, list[Compared]]:
    """Score -> what each row has of it, in the order of `rows`."""
    all_scores = [[scores(spec, done) for done in row.seeds] for row in rows]
    out: dict[str, list[Compared]] = {}
    for name in all_scores[0][0]:
        first = np.array([s[name].mean() for s in all_scores[0]])
        for i, seeds in enumerate(all_scores):
            values = np.array([s[name].mean() for s in seeds])
            gap = None if i == 0 else (float((values - first).mean()), half_interval(values - first))
            out.setdefault(name, []).append(Compared(float(values.mean()), half_interval(values), gap))
    return out


def half_interval(values: Array) -> float:
    """Half of the 95 % interval of the mean (Student's t); NaN for a single value."""
    n = len(values)
    return float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else float("nan")


def solve_times(row: Row) -> dict[str, float]:
    """Wall time of a decision for the whole batch, ms: p50, p99, most."""
    times = np.concatenate([done.solve_s for done in row.seeds]) * 1e3
    return {"p50": float(np.median(times)), "p99": float(np.quantile(times, 0.99)), "most": float(times.max())}


def facts(spec: PlantSpec, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything above as plain numbers, ready for JSON."""
    table = compared(spec, rows)
    return {
        "controllers": [row.name for row in rows],
        "scores": {
            name: [{"mean": c.mean, "interval": c.interval, "difference": c.difference} for c in cells]
            for name, cells in table.items()
        },
        "solve_ms": {row.name: solve_times(row) for row in rows},
    }
