"""Whether a slow layer above the planner pays: two-rate planning, its oracle-sub-goal test, and flat planning at equal time.

    python -m benchmarks.two_rate [--plant PLANT] [--quick] [--json benchmarks/results/two_rate.json] [--check]

Every 5 samples the slow layer plans 60 samples ahead in strides of 5; the control layer plans 5 samples ahead towards its first
waypoints. Flat planning looks 15 samples ahead, as far as the shipped models were validated. Two tasks a plant, random
levels held 15 to 45 samples, previewed as far as a planner looks: `usual` moves as the planner prices them by default, and
`dear` ones, priced so high that NMPC with the true equations gains by looking 60 samples ahead instead of 15.

How the control layer follows its sub-goals is chosen on other seeds than those reported, each task by itself. The gate, for
dear moves on every plant: oracle sub-goals beat flat planning, and so does the slow layer at equal processor time, 95 %
intervals of the paired differences above 0; for usual moves two-rate planning is not provably worse than flat.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from benchmarks.planner import PLANTS, SUBSTEPS, Timed
from benchmarks.report import Report, interval
from benchmarks.two_rate_planning import Macro, OracleLayer, SlowLayer, TwoRateMpc, Uncompiled, train_macro
from benchmarks.world_model_data import runs_of
from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Array, Controller
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.goal import whitening
from homeostat.checkpoints import shipped
from homeostat.lockstep import excited, record
from models.checkpoint import load
from models.windows import Run
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario

TESTED = ("reactor_bare", "vandevusse")
STRIDE, STRIDES, FLAT = 5, 12, 15  # samples a macro step, macro steps ahead, samples ahead of flat planning
TRAINING_SEED, HELD_SEED, VALIDATION_SEED, TEST_SEED = 8100, 8200, 8300, 8400
ITERATIONS = (4, 6, 8, 12, 16, 24, 32)
FOLLOWING = [(space, weight) for space in ("latent", "decoded") for weight in (None, 1.0, 10.0, 100.0)]


@dataclass(frozen=True)
class Task:
    """`levels` (low, high) of the first target, `rest` of the others (the plant's own where None), price of a move."""

    name: str
    suppression: float
    levels: tuple[float, float]
    rest: float | None = None

    def targets(self, spec: PlantSpec, seed: int, samples: int) -> Array:
        """(samples x n_target)."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x2A7E]))
        values = np.tile([t.value for t in spec.targets], (samples, 1)).astype(float)
        if self.rest is not None:
            values[:, 1:] = self.rest
        at = 0
        while at < samples:
            values[at:, 0], at = rng.uniform(*self.levels), at + int(rng.integers(15, 46))
        return values


TASKS = {
    "reactor_bare": (Task("usual", 0.5, (0.84, 0.92)), Task("dear", 1000.0, (0.84, 0.92))),
    "vandevusse": (Task("usual", 0.5, (0.6, 0.95)), Task("dear", 100.0, (0.6, 0.95), 138.0)),
}


@dataclass(frozen=True)
class Sizes:
    """Seeds reported, seeds chosen on, samples a run, runs and steps the macro predictor learns from and for."""

    seeds: int = 10
    validation: int = 6
    samples: int = 120
    runs: int = 2048
    steps: int = 1500


QUICK = Sizes(2, 1, 24, 32, 20)


class Bench:
    """One plant: its shipped world model, a macro predictor on it, and every controller for `batch` plants."""

    def __init__(self, plant: str, sizes: Sizes) -> None:
        self.spec, self.sizes = load_spec(plant), sizes
        checkpoint = load(shipped(plant), self.spec)
        self.model, self.calibration = checkpoint.model, checkpoint.calibration
        runs = [r for held in (True, False) for r in excitation(self.spec, sizes.runs // 2, TRAINING_SEED + held, held)]
        self.macro = train_macro(self.model, runs, STRIDE, STRIDES, sizes.steps)
        model = self.model
        gain = model.read_out_head.weight.detach().double()
        # Distances are per latent dimension: of the measurements that are read out, one is a standard deviation of each.
        self.metric = {
            "latent": whitening(model, runs[:200]),
            "decoded": gain * (model.config.latent / model.n_measured) ** 0.5,
        }
        # What knows the plant keeps the same distance from a limit as what has learned it.
        margins = self.calibration.margins[FLAT - 1]
        rails = [
            g.model_copy(update={"max" if g.sign > 0 else "min": g.limit - g.sign * float(m)})
            for g, m in zip(self.spec.guardrails, margins, strict=False)
        ]
        self.tightened = self.spec.model_copy(update={"guardrails": tuple(rails)})

    def config(self, task: Task, **options) -> PlannerConfig:
        return PlannerConfig(suppression=task.suppression, **options)

    def flat(self, task: Task, horizon: int = FLAT, iterations: int = 4, batch: int = 1) -> Uncompiled:
        return Uncompiled(
            self.model, self.config(task, horizon=horizon, iterations=iterations), self.calibration, batch
        )

    def nmpc(self, task: Task, horizon: int) -> NmpcController:
        simulator, c = PLANTS[self.spec.name](), self.config(task)
        return NmpcController(
            self.tightened,
            simulator,
            horizon=horizon,
            effort=c.effort,
            suppression=c.suppression,
            substeps=SUBSTEPS // 2,
        )

    def two_rate(self, task: Task, following: tuple[str, float | None], oracle: bool, batch: int = 1) -> TwoRateMpc:
        layer = (
            OracleLayer(self.model, self.nmpc(task, STRIDE * STRIDES), STRIDE)
            if oracle
            else SlowLayer(self.macro, STRIDE, self.config(task), self.calibration.margins[:FLAT], batch)
        )
        space, weight = following
        config = self.config(task, horizon=STRIDE)
        return TwoRateMpc(self.model, layer, config, self.calibration, self.metric[space], weight, batch)

    def run(self, task: Task, controller: Controller, seed: int, batch: int) -> tuple[Array, Array, Array]:
        """Score (batch,) of what every planner minimises, on the true plant, higher is better; how far (batch,) the worst true
        value passed a rank-1 guardrail; and in how many samples (batch,) it did."""
        spec, n = self.spec, self.sizes.samples
        targets = np.stack([task.targets(spec, seed + i, n) for i in range(batch)])
        plant = SimulatedPlant(spec, seed, batch, noise=1.0)
        low, high = limits_of(spec)
        first = plant.moves
        runs = close_loop(controller, plant, targets, preview=True, move_low=low, move_high=high, first_move=first)
        error = sum(
            np.abs(runs.true[t.tag][:, 1:] - targets[..., i]).sum(1) / t.scale for i, t in enumerate(spec.targets)
        )
        moves = np.concatenate([first[:, None], runs.moves], 1)
        c = self.config(task)
        effort = c.effort * (((runs.moves - low) / (high - low)) ** 2).sum((1, 2))
        moved = c.suppression * ((np.diff(moves, axis=1) / (high - low)) ** 2).sum((1, 2))
        past = np.stack([g.sign * (runs.worst[g.name] - g.limit) for g in spec.guardrails if g.rank == 1]).max(0)
        return -(error + effort + moved), past.clip(0.0).max(1), (past > 0).sum(1)

    def time_ms(self, task: Task, controller: Controller) -> tuple[float, float]:
        """Processor time a decision of one plant, ms: mean and 99th percentile, the first decision left out."""
        timed = Timed(controller)
        self.run(task, timed, VALIDATION_SEED, 1)
        return 1e3 * float(np.mean(timed.cpu_s)), 1e3 * float(np.percentile(timed.cpu_s, 99))


def excitation(spec: PlantSpec, runs: int, seed: int, held: bool) -> list[Run]:
    """`runs` runs of excitation, as long as the slow layer looks and more; `held`: every move for a whole stride."""
    asked: list[Array] = []

    def hold(moves: Array, _: dict[str, Array]) -> Array:
        asked.append(asked[-1] if len(asked) % STRIDE else moves)
        return asked[-1]

    plant = excited(spec, load_scenario("excitation", spec), runs, seed)
    recording = record(spec, plant, STRIDE * (STRIDES + 8) + 1, seed, "excitation", hold if held else None)
    return runs_of(spec, recording)


def ahead(bench: Bench, report: Report) -> None:
    """How well the macro predictor sees ahead where moves are held, beside the shipped model played past its horizon."""
    runs = excitation(bench.spec, max(8, bench.sizes.runs // 20), HELD_SEED, held=True)
    rows = []
    for name, model, n in (("macro predictor", bench.macro, STRIDE), ("predictor, sample by sample", bench.model, 1)):
        data = Macro(bench.model, runs, n, STRIDE * STRIDES // n)
        with torch.no_grad():
            missed = (model.read_out_head(data.rolled(model)) - data.y[:, 1:]) / data.y.flatten(0, 1).std(0)
        errors = ((data.sure * missed.square()).sum(0) / data.sure.sum(0)).mean(-1).sqrt()
        rows.append([name, *(float(errors[k // n - 1]) for k in (STRIDE, FLAT, 30, STRIDE * STRIDES))])
    report.table(f"{bench.spec.name}: NRMSE of the measurements, samples ahead", ["", "5", "15", "30", "60"], rows)


def chosen(bench: Bench, task: Task, oracle: bool) -> tuple[str, float | None]:
    """The way of following sub-goals that scores best on validation seeds; the oracle's is sought among fewer, as it is slow."""
    ways = [w for w in FOLLOWING if w[1] in (None, 10.0)] if oracle else FOLLOWING
    seeds = bench.sizes.validation if not oracle else (bench.sizes.validation + 1) // 2
    score = {w: bench.run(task, bench.two_rate(task, w, oracle, seeds), VALIDATION_SEED, seeds)[0].mean() for w in ways}
    logging.getLogger(__name__).info("%s %s %s: %s", bench.spec.name, task.name, "oracle" if oracle else "slow", score)
    return max(score, key=lambda w: score[w])


def measure(bench: Bench, task: Task, report: Report) -> None:
    """All rows of one task, and its part of the gate."""
    seeds, where = bench.sizes.seeds, f"{bench.spec.name}, {task.name} moves"
    ways = {oracle: chosen(bench, task, oracle) for oracle in (False, True)}
    spent = bench.time_ms(task, bench.two_rate(task, ways[False], False))
    times = {k: bench.time_ms(task, bench.flat(task, iterations=k)) for k in ITERATIONS}
    equal = next((k for k in ITERATIONS if times[k][0] >= spent[0]), ITERATIONS[-1])
    makers: dict[str, tuple[Callable[[int], Controller], tuple[float, float]]] = {
        "flat, 15 samples": (lambda b: bench.flat(task, batch=b), times[4]),
        f"flat, 15 samples, {equal} iterations: equal time": (lambda b: bench.flat(task, FLAT, equal, b), times[equal]),
        "flat, 5 samples: the control layer alone": (
            lambda b: bench.flat(task, STRIDE, batch=b), bench.time_ms(task, bench.flat(task, STRIDE))
        ),
        "two-rate": (lambda b: bench.two_rate(task, ways[False], False, b), spent),
        "two-rate, oracle sub-goals": (
            lambda b: bench.two_rate(task, ways[True], True, b), bench.time_ms(task, bench.two_rate(task, ways[True], True))
        ),
    }  # fmt: skip
    found = {name: bench.run(task, make(seeds), TEST_SEED, seeds) for name, (make, _) in makers.items()}
    flat, at_equal, _, two_rate, oracle = (scores for scores, _, _ in found.values())
    rows = [
        [name, interval(list(scores)), "" if scores is at_equal else interval(list(scores - at_equal)), float(worst.max()),
         int(samples.sum()), *(f"{v:.1f}" for v in makers[name][1])]
        for name, (scores, worst, samples) in found.items()
    ]  # fmt: skip
    columns = [
        "",
        "score",
        "less flat at equal time",
        "past rank 1, worst",
        "samples past it",
        "processor ms a plan",
        "p99",
    ]
    report.table(f"{where}: {seeds} paired seeds of {bench.sizes.samples} samples", columns, rows)
    shown = {o: f"{s} {'alone' if w is None else f'x {w:g} at the end, beside the task'}" for o, (s, w) in ways.items()}
    report.note(f"{where}: sub-goals followed by distance, {shown[False]}; the oracle's {shown[True]}.")
    if task.name == "usual":
        report.bar(
            f"{where}: two-rate less flat at equal time, upper end", bounds(two_rate - at_equal)[1], 0.0, at_least=True
        )
    else:
        report.bar(f"{where}: oracle sub-goals less flat, lower end", bounds(oracle - flat)[0], 0.0, at_least=True)
        report.bar(
            f"{where}: two-rate less flat at equal time, lower end", bounds(two_rate - at_equal)[0], 0.0, at_least=True
        )


def bounds(difference: Array) -> tuple[float, float]:
    """The 95 % interval of the mean (Student's t)."""
    half = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    return float(difference.mean() - half), float(difference.mean() + half)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_rate", description=__doc__)
    parser.add_argument("--plant", choices=TESTED, action="append")
    parser.add_argument("--quick", action="store_true", help="hardly trained, two short runs: a look, not a result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    report = Report("two_rate")
    for plant in args.plant or TESTED:
        bench = Bench(plant, QUICK if args.quick else Sizes())
        ahead(bench, report)
        for task in TASKS[plant]:
            measure(bench, task, report)
    report.note(
        "Score: -sum of |target error| / scale, effort and priced moves, on the true plant. All planners in torch, uncompiled, "
        "one thread; guardrails on, with the shipped margins. Planners see targets as far ahead as they look."
    )
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
