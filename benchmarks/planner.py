"""How fast the planners are, and what that is worth in closed loop, beside NMPC with the true equations.

    python -m benchmarks.planner [--plant PLANT] [--quick] [--json benchmarks/results/planner.json] [--check]

Everything runs in one process on one thread, with the same readings, noise, limits, targets and preview in a row. The planners
have the world model; IPOPT and SQP have the plant's own equations and parameters. A plan's time is that of the whole decision.
Processor time is what the thread itself worked: other jobs on the machine do not lengthen it, so bars stand on it; wall time
beside it is what a plant would have waited here.

Bars, for the default planner on every plant: median <= .25 x IPOPT's; score no worse than IPOPT's; median no longer than the
fast NMPC's; 99.9 % of plans within 2 ms of their deadline; at 256 plants 50 x IPOPT's plans a second of processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.fast_nmpc import RtiNmpcController, SqpNmpcController
from benchmarks.report import Report
from controllers.baselines.ekf import Ekf
from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Array, Controller, Decision, Observation, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from controllers.evaluation.reactor import EFFORT_RANGE, tracking
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from homeostat.checkpoints import shipped
from models.checkpoint import Checkpoint, load
from plant.spec import PlantSpec, load_spec
from simulators.contract import Simulator
from simulators.plant import SimulatedPlant
from simulators.reactor import BareReactor, DressedReactor
from simulators.vandevusse import VanDeVusse

BAR_IPOPT, BAR_OVERRUN_MS, BAR_FLEET, FLEET_AT = 0.25, 2.0, 50.0, 256
PLANTS: dict[str, Callable[[], Simulator]] = {
    "reactor_bare": BareReactor, "reactor": DressedReactor, "vandevusse": VanDeVusse,
}  # fmt: skip
DEFAULT, IPOPT, FAST = "second-order shooting", "NMPC, IPOPT", "NMPC, 3 SQP steps"
BLOCKS = (1, 1, 1, 2, 3, 7)
PLANNERS = {
    DEFAULT: {},
    "second-order shooting, blocks": {"blocks": BLOCKS},
    "iCEM": {"name": "icem"},
    "iCEM, blocks": {"name": "icem", "blocks": BLOCKS},
    "MPPI": {"name": "mppi"},
    "MPPI, blocks": {"name": "mppi", "blocks": BLOCKS},
}
RIVALS = {IPOPT: NmpcController, FAST: SqpNmpcController, "NMPC, real-time iteration": RtiNmpcController}
SUBSTEPS = 10  # RK4 steps a sample in the NMPCs: 1e-5 of the state or better, and no slower than they have to be
TEST_SEED = 7300  # training and calibration draw from other scenarios and seeds


class Timed:
    """A controller, and what each decision took: processor and wall seconds. The first of a run is not counted."""

    def __init__(self, inner: Controller) -> None:
        self.inner, self.horizon, self._first = inner, inner.horizon, True
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []

    def reset(self) -> None:
        self.inner.reset()
        self._first = True

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        cpu, wall = time.thread_time(), time.perf_counter()
        decision = self.inner.decide(observation, targets)
        if not self._first:
            self.cpu_s.append(time.thread_time() - cpu)
            self.wall_s.append(time.perf_counter() - wall)
        self._first = False
        return decision


@dataclass(frozen=True)
class Bench:
    """One plant, its shipped checkpoint, and the controllers made for it."""

    spec: PlantSpec
    checkpoint: Checkpoint
    report: Report

    def config(self, **options) -> PlannerConfig:
        if self.spec.name == "reactor_bare":  # the published scores price no move and guard nothing
            options = {"effort_range": EFFORT_RANGE, "suppression": 0.0, "guardrails": False, **options}
        return PlannerConfig(**options)

    def jepa(self, batch: int = 1, deadline_s: float | None = None, **options) -> JepaMpc:
        config, margins = self.config(**options), self.checkpoint.calibration
        return JepaMpc(self.checkpoint.model, config, margins, batch=batch, deadline_s=deadline_s)

    def nmpc(self, kind: type[NmpcController]) -> NmpcController:
        """The program of `config`; the dressed reactor's analyser is late, so its state is estimated."""
        simulator, config = PLANTS[self.spec.name](), self.config()
        hidden = bool(simulator.dead_time_s)
        return kind(
            self.spec, simulator, horizon=config.horizon, effort=config.effort, effort_range=config.effort_range,
            suppression=config.suppression, guardrails=config.guardrails, substeps=SUBSTEPS,
            estimator=Ekf(self.spec, simulator, substeps=SUBSTEPS) if hidden else None,
        )  # fmt: skip

    def run(self, controller: Controller, seed: int) -> tuple[float, list[Trajectories]]:
        """Score, higher is better, and the runs. The bare reactor: its two published scores. The others: -sum of |target
        error| / scale of the first target, the van de Vusse reactor in do-mpc's example."""
        spec = self.spec
        if spec.name == "reactor_bare":
            parts = [tracking(spec, controller, s, preview=True, noise=1.0, seed=TEST_SEED + seed) for s in "AB"]
            return sum(float(value[0]) for value, _ in parts), [runs for _, runs in parts]
        tag, usual = spec.targets[0].tag, np.array([t.value for t in spec.targets])
        levels = np.repeat([0.87, 0.9, 0.85], 20) if spec.name == "reactor" else np.full(50, 0.6)
        targets = np.tile(usual, (len(levels), 1))
        targets[:, 0] = levels
        start = None if spec.name == "reactor" else np.array([[0.8, 0.5, 134.14, 130.0]])
        plant = SimulatedPlant(spec, TEST_SEED + seed, 1, noise=1.0, x0=start)
        low, high = limits_of(spec)
        runs = close_loop(
            controller, plant, targets, preview=True, move_low=low, move_high=high, first_move=plant.moves
        )
        error = np.abs(runs.true[tag][0, 1:] - levels) / spec.targets[0].scale
        return -float(error.sum()), [runs]


def over(spec: PlantSpec, runs: list[Trajectories]) -> float:
    """Worst guardrail value past its limit, engineering units, 0: none."""
    return max(
        0.0,
        *(float((-g.margin(r.worst[g.name])).max()) for r in runs for g in spec.guardrails if g.rank == 1),
    )


def closed_loop(bench: Bench, seeds: int) -> dict[str, float]:
    """Time and score of every controller. Returns the median wall time by name, ms."""
    makers: dict[str, Callable[[], Controller]] = {n: lambda o=o: bench.jepa(**o) for n, o in PLANNERS.items()}
    makers |= {n: lambda k=k: bench.nmpc(k) for n, k in RIVALS.items()}
    found, rows, median = {}, [], {}
    for name, make in makers.items():
        timed, scores, worst = Timed(make()), [], 0.0
        for seed in range(seeds):
            score, runs = bench.run(timed, seed)
            scores.append(score)
            worst = max(worst, over(bench.spec, runs))
        found[name] = np.array(scores), timed, worst
        median[name] = 1e3 * float(np.median(timed.cpu_s))
    reference = found[IPOPT][0]
    for name, (scores, timed, worst) in found.items():
        cpu, wall = (1e3 * np.percentile(t, [50, 99]) for t in (timed.cpu_s, timed.wall_s))
        less, half = paired(scores - reference)
        rows.append(
            [name, float(scores.mean()), f"{less:+.4f} ± {half:.4f}", worst, *(f"{v:.1f}" for v in (*cpu, *wall)),
             f"{median[name] / median[IPOPT]:.2f}"]
        )  # fmt: skip
    columns = [
        "planner", "score", "less IPOPT's", "past rank 1", "processor ms p50", "p99", "wall ms p50", "p99", "of IPOPT's",
    ]  # fmt: skip
    plant = bench.spec.name
    bench.report.table(f"{plant}: plan time and score, {seeds} paired seeds, one thread", columns, rows)
    bar = bench.report.bar
    bar(f"{plant}: median of IPOPT's", median[DEFAULT] / median[IPOPT], BAR_IPOPT, at_least=False)
    bar(f"{plant}: median of the fast NMPC's", median[DEFAULT] / median[FAST], 1.0, at_least=False)
    bar(f"{plant}: score less IPOPT's", paired(found[DEFAULT][0] - reference)[0], 0.0, at_least=True)
    best = max(PLANNERS, key=lambda n: float(found[n][0].mean()))
    bench.report.note(f"{plant}: of the planners, {best} scores best.")
    return {name: 1e3 * float(np.median(timed.wall_s)) for name, (_, timed, _) in found.items()}


def paired(difference: Array) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    n = len(difference)
    return float(difference.mean()), 1.96 * float(difference.std(ddof=1)) / n**0.5 if n > 1 else float("nan")


def deadlines(bench: Bench, median: dict[str, float], plans: int) -> None:
    """A deadline of half of what a plan takes, so that it always binds: wall time past it."""
    rows = []
    for name in (DEFAULT, "iCEM", "MPPI"):
        limit = 0.5e-3 * median[name]
        controller = Timed(bench.jepa(deadline_s=limit, **PLANNERS[name]))
        late = drive(bench, controller, plans)
        past = 1e3 * (np.array(controller.wall_s) - limit)
        work = 1e3 * (np.array(controller.cpu_s) - limit)
        p999 = float(np.percentile(past, 99.9))
        rows.append(
            [name, 1e3 * limit, len(past), f"{late:.0%}", float(np.median(past)), p999, *np.percentile(work, [99.9])]
        )
        if name == DEFAULT:
            bench.report.bar(f"{bench.spec.name}: past the deadline, p99.9, ms", p999, BAR_OVERRUN_MS, at_least=False)
    columns = ["planner", "deadline ms", "plans", "late", "past it ms p50", "p99.9", "p99.9 of processor time"]
    bench.report.table(f"{bench.spec.name}: a deadline at half of the usual time (negative: before it)", columns, rows)


def drive(bench: Bench, controller: Controller, plans: int, batch: int = 1) -> float:
    """Ask for `plans` decisions, the usual readings disturbed differently each time. Returns the share that was late."""
    spec, rng = bench.spec, np.random.default_rng(TEST_SEED)
    low, high = limits_of(spec)
    parts = [[t.nominal for t in tags] for tags in (spec.measured, spec.dvs, spec.mvs)]
    noise = np.array([0.01 * (t.range[1] - t.range[0]) for t in spec.measured])
    values = np.tile([[t.value for t in spec.targets]], (batch, 1, 1)).astype(float)
    controller.reset()
    late = 0
    for k in range(plans + 1):
        measured, dvs, applied = (np.tile(np.array(p, float), (batch, 1)) for p in parts)
        measured = measured + noise * rng.normal(size=measured.shape)
        decision = controller.decide(
            Observation(k * spec.sample_time_s, measured, dvs, applied), Targets(values, low, high)
        )
        late += sum(s == "DEADLINE" for s in decision.status)
    return late / (batch * (plans + 1))


def fleet(bench: Bench, sizes: tuple[int, ...], plans: int) -> None:
    """Plans a second of processor time, many plants in one call; IPOPT solves them one after another, so its is the same at
    every size. Either runs on several cores by giving each its share of the plants."""
    rival = Timed(bench.nmpc(NmpcController))
    drive(bench, rival, 40)
    base = 1 / float(np.mean(rival.cpu_s))
    rows: list[list[object]] = [[IPOPT, *[f"{base:.0f}"] * len(sizes)]]
    for name in (DEFAULT, "second-order shooting, blocks", "iCEM", "MPPI"):
        row: list[object] = [name]
        for batch in sizes:
            sampler = name in ("iCEM", "MPPI")
            if sampler and batch >= FLEET_AT:
                row.append("not measured")  # from ten seconds a call to minutes
                continue
            timed = Timed(bench.jepa(batch, **PLANNERS[name]))
            drive(bench, timed, max(2, plans // batch // (8 if sampler else 1)), batch)
            rate = batch / float(np.mean(timed.cpu_s))
            row.append(f"{rate:.0f} ({rate / base:.1f} x)")
            if name == DEFAULT and batch == FLEET_AT:
                bench.report.bar(
                    f"{bench.spec.name}: fleet of {batch}, of IPOPT's", rate / base, BAR_FLEET, at_least=True
                )
        rows.append(row)
    rows.append(["GPU", *["not measured"] * len(sizes)])
    columns = ["plans a second of processor time", *[f"{n} plants" for n in sizes]]
    bench.report.table(f"{bench.spec.name}: fleet", columns, rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plant", choices=PLANTS, action="append", help="one plant; may be given again")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 100 plans, 16 plants: a look, not a result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = Report("planner")
    for plant in args.plant or PLANTS:
        spec = load_spec(plant)
        bench = Bench(spec, load(shipped(plant), spec), report)
        median = closed_loop(bench, 2 if args.quick else args.seeds)
        deadlines(bench, median, 100 if args.quick else 2000)
        fleet(bench, (1, 16) if args.quick else (1, 16, FLEET_AT, 1024), 32 if args.quick else 2048)
    report.note(
        "Score: the bare reactor's published A + B, else -sum |error| / scale; past rank 1: the worst true value past the limit, "
        "in its unit. Planners know the plant from its recorded history, the NMPCs its equations and parameters."
    )
    report.note("GPU: not measured, the planners' controllers run on the processor.")
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
