"""Representation first, action second: does it need fewer hours of known moves, on a process?

    python -m benchmarks.data_efficiency [--quick] [--tier core|full] [--plants reactor,vandevusse] [--seeds 3]
                                         [--json benchmarks/results/data_efficiency.json] [--cache DIR] [--jobs 2]

k-step error and closed-loop score against hours of recorded operation with known moves (labelled: 1, 3, 10, 30) and without
(passive: 0, 30, 300). Passive runs come from the same plants and conditions; their moves, and every label, are missing (NaN,
masked). No bars: whatever comes out is the result. What each row may use:

- decoupled: its encoder learns in the first half of the steps from labelled and passive windows, half a batch each, by
  masked latent prediction; predictor and heads in the second half from labelled windows alone.
- joint: everything at once. Labelled and passive windows are half of each batch; a roll-out counts until the first unknown
  move, so of a passive window only the terms of single windows teach: anti-collapse, read-out of the present, padding, limits.
- gru, reconstruction, arx, subspace: labelled runs alone (a roll-out through unknown moves has nothing to learn from; the
  auto-encoding half of reconstruction could use passive runs and does not).

A tenth of the labelled hours, runs of their own, is held back for the choices that a row makes on validation runs (orders and
ridges of arx and subspace; the others make none). A seed draws the labelled and passive runs as well as the weights; more
hours contain the fewer, and all rows of a seed see the same runs. Simulated incidents are not used.

Error: over the held-out runs' standard deviation, against what perfect instruments would have shown, nominal conditions. Score:
integral of |value - target| over the run, per target, of `JepaMpc` (guardrails as learned, nothing calibrated) from start
states, disturbances, noise and target steps that are the same for every row. Rivals have none: no planner takes a
`Forecaster`. `core` trains every row for 400 steps, `full` for the default's own number, on more plants.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

import controllers.evaluation.closed_loop as closed_loop
import controllers.planning as planning
from benchmarks.report import Report
from benchmarks.world_model_data import Asked, PlantData, missing, runs_of, witnessed
from benchmarks.world_model_rows import (
    WORLD_MODEL,
    Facts,
    Job,
    Row,
    Sizes,
    data_digest,
    kept,
    run,
    source_digest,
    train_row,
)
from benchmarks.world_model_scores import STEPS, Questions, nrmse
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.mpc import JepaMpc
from homeostat.lockstep import excitation_run
from homeostat.recording import EXCITATION_SAMPLES
from models.config import ModelConfig, TrainingConfig
from models.rivals.latent import LatentForecaster
from models.windows import Run
from models.world_model import WorldModel
from plant.spec import PlantSpec, load_spec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario

Array = NDArray[np.float64]
ROWS = (
    Row("decoupled", WORLD_MODEL, {}, {"order": "decoupled"}),
    Row("joint", WORLD_MODEL, {}, {"order": "joint"}),
    *(Row(name, name) for name in ("gru", "reconstruction", "arx", "subspace")),
)
JUDGED = (15, 30)
# Hours mean what a plant's samples make of them: others than these two are given as many samples as the reactor has.
PACE = {"glucose": 300 / 26, "turbofan": 0.08 / 26}
SCORED = ("reactor", "reactor_bare", "vandevusse")
_RECORDED, _ASKED, _CONTROLLED, _DIVIDED = 51, 21, 71, 61  # seeds
_LOOPS, _SAMPLES = 12, 60  # closed loops and their length


@dataclass(frozen=True)
class Grid:
    """What is varied: hours `labelled` and `passive` (before `PACE`); `asked` held-out runs; `steps` of training."""

    labelled: tuple[float, ...]
    passive: tuple[float, ...]
    asked: int
    steps: int | None

    def runs(self, spec: PlantSpec) -> tuple[int, int]:
        """How many runs hold the most labelled hours, with one to spare for where validation begins, and all hours."""
        labelled, both = (
            int(np.ceil(samples_in(spec, hours) / EXCITATION_SAMPLES)) + 2
            for hours in (max(self.labelled), max(self.labelled) + max(self.passive))
        )
        return labelled, both + 2


CORE = Grid((1, 3, 10, 30), (0, 300), 200, 400)
FULL = Grid((1, 3, 10, 30), (0, 30, 300), 200, None)
QUICK = Grid((1, 3), (0, 10), 20, 60)


@dataclass(frozen=True)
class Cell:
    """One row with so many hours to learn from, of `grid`."""

    job: Job
    grid: Grid
    labelled: float
    passive: float


Results = dict[tuple[str, str, float, float], list[Facts]]  # plant, row, labelled, passive -> one entry a seed


def samples_in(spec: PlantSpec, hours: float) -> int:
    return round(hours * PACE.get(spec.name, 1.0) * 3600 / spec.sample_time_s)


def first(runs: Sequence[Run], samples: int) -> tuple[list[Run], list[Run]]:
    """The first `samples` samples of `runs`, the last of them cut short, and the runs that were not begun."""
    taken: list[Run] = []
    for i, one in enumerate(runs):
        if samples <= 0:
            return taken, list(runs[i:])
        taken.append(cut(one, samples))
        samples -= len(one)
    if samples > 0:
        raise ValueError(f"the runs are {samples} samples short")
    return taken, []


def cut(one: Run, samples: int) -> Run:
    parts = {name: getattr(one, name) for name in ("measured", "dvs", "applied", "labels", "hidden")}
    return dataclasses.replace(one, **{name: v if v is None else v[:samples] for name, v in parts.items()})


def without_moves(one: Run) -> Run:
    """What is left of a run when nobody kept its moves, or labelled it."""
    return dataclasses.replace(
        one, applied=np.full_like(one.applied, np.nan), labels=np.full_like(one.labels, np.nan), hidden=None
    )


def divided(spec: PlantSpec, runs: Sequence[Run], cell: Cell) -> tuple[list[Run], list[Run], list[Run]]:
    """What a cell trains on, validates on, and may look at without moves."""
    order = np.random.default_rng([_DIVIDED, cell.job.seed]).permutation(len(runs))
    mixed, reserved = [runs[i] for i in order], cell.grid.runs(spec)[0]
    total = samples_in(spec, cell.labelled)
    training, rest = first(mixed[:reserved], total - total // 10)
    validation, _ = first(rest, total // 10)
    passive, _ = first(mixed[reserved:], samples_in(spec, cell.passive))
    return training, validation, [without_moves(r) for r in passive]


@cache
def pool(plant: str, grid: Grid) -> tuple[PlantData, str]:
    """Every run a cell may draw from, the held-out ones, and a digest of them all."""
    spec = load_spec(plant)
    runs = runs_of(spec, excitation_run(spec, grid.runs(spec)[1], EXCITATION_SAMPLES, _RECORDED))
    held = witnessed(spec, load_scenario("excitation", spec), grid.asked, _ASKED)
    data = PlantData(spec, runs, [], Asked([], []), {"held-out": held}, 0.0)
    return data, data_digest(data)


def control(model: WorldModel) -> Facts:
    """Closed loops: `error` target -> integral of |value - target| (unit x min), mean of the loops; `past` the share of them
    beyond a rank-1 guardrail."""
    spec = model.spec
    rng = np.random.default_rng(_CONTROLLED)
    # Targets from the middle half of what an operator may ask for, three to a run.
    targets = np.empty((_LOOPS, _SAMPLES, len(spec.targets)))
    for i, t in enumerate(spec.targets):
        low, high = t.limits
        levels = rng.uniform(low + 0.25 * (high - low), high - 0.25 * (high - low), (_LOOPS, 3))
        targets[..., i] = np.repeat(levels, _SAMPLES // 3, axis=1)
    plant = SimulatedPlant(spec, _CONTROLLED, _LOOPS, Drawn(load_scenario("excitation", spec)))
    low, high = limits_of(spec)
    runs = close_loop(
        JepaMpc(model, batch=_LOOPS), plant, targets, preview=False, move_low=low, move_high=high,
        first_move=plant.moves,
    )  # fmt: skip
    minutes = spec.sample_time_s / 60
    error = {
        t.tag: float(np.abs(runs.true[t.tag][:, 1:] - targets[..., i]).sum(1).mean() * minutes)
        for i, t in enumerate(spec.targets)
    }
    over = [(g.margin(runs.worst[g.name]) < 0).any(1) for g in spec.guardrails if g.rank == 1]
    return {"error": error, "past": float(np.mean(np.any(over, axis=0))) if over else 0.0}


def measure(cell: Cell, data: PlantData) -> Facts:
    """Train and score a cell: plain numbers, ready for JSON."""
    training, validation, passive = divided(data.spec, data.training, cell)
    model, seconds = train_row(cell.job, dataclasses.replace(data, training=training, validation=validation), passive)
    held = data.asked["held-out"]
    std = np.nanstd(np.concatenate(held.truth), axis=0)
    out: Facts = {"seconds": seconds, "nrmse": nrmse(model, Questions.of(held, model.config.window), std)}
    if isinstance(model, LatentForecaster) and cell.job.plant in SCORED:
        out["control"] = control(model.model)
    return out


@cache
def own_digest() -> str:
    """A hash of the code that divides, plans and scores; what trains and predicts is in `source_digest`."""
    files = [Path(__file__), Path(str(closed_loop.__file__)), *sorted(Path(planning.__path__[0]).glob("*.py"))]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def measured(cell: Cell, folder: Path | None) -> Facts:
    """`measure`, or what an earlier run with the same settings, data and code has kept in `folder`."""
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    data, digest = pool(cell.job.plant, cell.grid)
    usual = [TrainingConfig().model_dump(), ModelConfig().model_dump()]
    key = json.dumps([asdict(cell), usual, source_digest(), own_digest(), digest, torch.__version__], sort_keys=True)
    name = f"{cell.job.plant}_{cell.job.row.name}_{cell.labelled:g}_{cell.passive:g}_{cell.job.seed}"
    return kept(folder, name, key, lambda: measure(cell, data))


def cells_of(plants: Sequence[str], seeds: int, grid: Grid) -> list[Cell]:
    """Plant by plant, the seed outermost: what is interrupted has whole seeds."""
    sizes = Sizes(0, 0, grid.asked, grid.steps)
    return [
        Cell(Job(plant, row, seed, sizes), grid, labelled, passive)
        for plant in plants
        for seed in range(seeds)
        for row in ROWS
        for passive in (grid.passive if row.kind == WORLD_MODEL else (0,))
        for labelled in grid.labelled
    ]


def overall(facts: Sequence[Facts], k: int) -> Array:
    """Error over all tags, `k` samples ahead, of each seed."""
    return np.array([np.mean(f["nrmse"][STEPS.index(k)]) for f in facts])


def spread(values: Array) -> str:
    """Mean and, where there are seeds, half of its 95 % interval."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5 if n > 1 else 0.0
    return f"{values.mean():.3g} ± {half:.2g}" if n > 1 else f"{values.mean():.3g}"


def ratio(over: Array, under: Array) -> str:
    """Geometric mean of the seeds' ratios and its 95 % interval."""
    logs = np.log(over / under)
    if len(logs) < 2:
        return f"{np.exp(logs.mean()):.3g}"
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return " ".join(
        [f"{np.exp(logs.mean()):.3g}", "({:.3g} .. {:.3g})".format(*np.exp(logs.mean() + np.array([-half, half])))]
    )


def row_names(results: Results, plant: str) -> list[tuple[str, float]]:
    """Rows and passive hours of a plant, in the order of the first cells."""
    return list(dict.fromkeys((row, passive) for p, row, _, passive in results if p == plant))


def hours_of(plant: str, hours: float) -> str:
    return f"{hours * PACE.get(plant, 1.0):.3g} h"


def error_tables(report: Report, results: Results, plants: Sequence[str], grid: Grid) -> None:
    for plant in plants:
        for k in JUDGED:
            body = [
                [
                    row,
                    hours_of(plant, passive),
                    *(spread(overall(results[plant, row, h, passive], k)) for h in grid.labelled),
                ]
                for row, passive in row_names(results, plant)
            ]
            columns = ["row", "passive", *(f"{hours_of(plant, h)} labelled" for h in grid.labelled)]
            report.table(f"{plant}: NRMSE at k = {k}, nominal", columns, body)


def gains(report: Report, results: Results, plants: Sequence[str], grid: Grid) -> None:
    """What passive hours change, and decoupled with the most of them beside the rest."""
    body: list[list[Any]] = []
    most = max(grid.passive)
    rows = [("decoupled", p, "decoupled", 0) for p in grid.passive[1:]] + [
        ("joint", p, "joint", 0) for p in grid.passive[1:]
    ]
    rows += [("decoupled", most, row.name, most if row.name == "joint" else 0) for row in ROWS[1:]]
    rows += [("decoupled", 0, "joint", 0), ("decoupled", most, "joint", 0)]
    for plant in plants:
        for name, passive, other, others in dict.fromkeys(rows):
            for k in JUDGED:
                cells = [
                    ratio(overall(results[plant, name, h, passive], k), overall(results[plant, other, h, others], k))
                    for h in grid.labelled
                ]
                body.append(
                    [plant, f"{name} + {hours_of(plant, passive)}", f"{other} + {hours_of(plant, others)}", k, *cells]
                )
    columns = ["plant", "row + passive", "over", "k", *(f"{h:g} h labelled" for h in grid.labelled)]
    report.table("Error over error, paired by seed, with 95 % intervals; below 1 the first is better", columns, body)


def control_table(report: Report, results: Results, plants: Sequence[str], grid: Grid) -> None:
    body: list[list[Any]] = []
    for plant in (p for p in plants if p in SCORED):
        for row, passive in row_names(results, plant):
            found = [[f["control"] for f in results[plant, row, h, passive] if "control" in f] for h in grid.labelled]
            if not all(found):
                continue
            for t in load_spec(plant).targets:
                cells = [spread(np.array([c["error"][t.tag] for c in of])) for of in found]
                body.append(
                    [plant, f"{t.tag}, {load_spec(plant).tag(t.tag).unit} min", row, hours_of(plant, passive), *cells]
                )
            body.append(
                [plant, "loops past a rank-1 limit", row, hours_of(plant, passive),
                 *(f"{np.mean([c['past'] for c in of]):.1%}" for of in found)]
            )  # fmt: skip
    if body:
        columns = ["plant", "score", "row", "passive", *(f"{h:g} h labelled" for h in grid.labelled)]
        report.table(f"Closed loop: integral error a run of {_SAMPLES} samples, mean of {_LOOPS}", columns, body)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_efficiency", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plants", help="names, separated by commas; by default the tier's")
    parser.add_argument("--tier", choices=["core", "full"], default="core")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little data, 60 steps, two seeds: a look, not a result")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--cache", type=Path, default=Path(".homeostat/benchmarks/data_efficiency"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    grid = QUICK if args.quick else {"core": CORE, "full": FULL}[args.tier]
    usual = ("reactor", "vandevusse", "reactor_bare", "turbofan", "glucose")[: 2 if args.tier == "core" else None]
    report, plants = Report(f"data efficiency: {'quick' if args.quick else args.tier}"), []
    for plant in args.plants.split(",") if args.plants else usual:
        if why := missing(plant):
            report.note(f"{plant} is left out: {why}")
            print(report.notes[-1])
        else:
            plants.append(plant)
    cells = cells_of(plants, 2 if args.quick else args.seeds, grid)
    found, began = {}, time.perf_counter()
    for n, (cell, facts) in enumerate(run(cells, args.cache, args.jobs, measured), start=1):
        found[cell] = facts
        job = cell.job
        print(
            f"[{n}/{len(cells)}, {time.perf_counter() - began:.0f} s] {job.plant}, {job.row.name}, {cell.labelled:g} h + "
            f"{cell.passive:g} h, seed {job.seed}: {facts['seconds']:.0f} s",
            file=sys.stderr,
        )
    results: Results = {}
    for cell in cells:
        results.setdefault((cell.job.plant, cell.job.row.name, cell.labelled, cell.passive), []).append(found[cell])
    error_tables(report, results, plants, grid)
    gains(report, results, plants, grid)
    control_table(report, results, plants, grid)
    return report.finish(args.json, check=False)


if __name__ == "__main__":
    raise SystemExit(main())
