"""The turbofan: 15 to 95 % of take-off thrust on a hot day, beside what engines have and what knowing everything would give.

Bars, JEPA-MPC, limits judged on the true quantities every 20 ms: time to 95 % of take-off thrust of the slowest run <= 2.1 s new,
2.2 s with 2 % less core compressor (3.5 and 4.0 s under a fuel-ratio cap of 1.3), <= 1.1 x NMPC with the true engine and the same
margins; no limit passed in 300 noisy runs, in 100 worn engines of a model that only knows healthy ones, under three times the
noise, on engines outside the range of health known; steady fuel <= 1.002 x NMPC's; a hostile target breaks nothing that the
fallback would have kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.control_turbofan_healthy import healthy_checkpoint
from benchmarks.report import Report
from controllers.baselines.fuel_ratio import FuelRatioCap, FuelRatioRamp
from controllers.baselines.min_max import MinMaxController
from controllers.baselines.simulator_nmpc import SimulatorNmpc
from controllers.contracts import Controller, Decision, Observation, Targets
from controllers.evaluation.supervised import Supervised
from controllers.evaluation.turbofan import Acceleration, accelerate, at_thrust, worn, worn_core
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.runtime.config import config_for
from homeostat.checkpoints import shipped
from models.checkpoint import Checkpoint, load
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant

BARS = {"no": (2.1, 2.2), "1.3": (3.5, 4.0)}  # cap: s new, s worn
BAR_RATIO, BAR_FUEL = 1.1, 1.002
CAP, WORN, SAMPLE_S = 1.3, 0.98, 0.02
OPERATED = (
    "hpc_eff",
    "hpc_flow",
    "fan_eff",
    "lpc_eff",
    "hpt_eff",
)  # what the scenario `operation` wears, by 2 % at most
HOSTILE_RPM = 4500.0  # 120 % of take-off's fan speed
SHARES = (0.2, 0.5, 0.9)  # of take-off thrust, held
SEED = 9000  # seeds below it were used while this was made

Make = Callable[[SimulatedPlant], Controller]


@dataclass(frozen=True)
class Bench:
    """What every part needs. `runs` scales all counts: 1 is a result."""

    spec: PlantSpec
    checkpoint: Checkpoint
    report: Report
    runs: float

    def count(self, n: int) -> int:
        return max(2, round(n * self.runs))

    def jepa(self, batch: int, checkpoint: Checkpoint | None = None, *, watched: bool = True) -> Controller:
        """JEPA-MPC as shipped, under what the supervisor makes of surprise, or without it."""
        c = checkpoint or self.checkpoint
        controller = JepaMpc(c.model, config_for("turbofan").planner, c.calibration, batch=batch)
        if not watched or c.surprise is None:
            return controller
        return Supervised(controller, c.model, c.surprise, batch)

    def nmpc(self, plant: SimulatedPlant) -> Controller:
        """The same planner on the true engine, its state and health, with the margins that JEPA-MPC keeps."""
        return SimulatorNmpc(
            self.spec, lambda: (plant.x, plant.d, plant.p), PlannerConfig(), self.checkpoint.calibration
        )


class Safe:
    """The fallback and nothing else: fuel goes to its safe value at its rate."""

    horizon = 1

    def __init__(self, spec: PlantSpec) -> None:
        self.spec = spec

    def reset(self) -> None: ...

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        move = next(t.move for t in self.spec.mvs if t.move)
        step = move.reach(self.spec.sample_time_s)
        return Decision.of_moves(
            self.spec, np.clip(move.safe, observation.standing - step, observation.standing + step), 0.0
        )


def measure(report: Report, *, quick: bool) -> None:
    """Add the turbofan's tables and bars; `quick` makes a fiftieth of the runs and no model of its own."""
    spec = load_spec("turbofan")
    bench = Bench(spec, load(shipped("turbofan"), spec), report, 0.02 if quick else 1.0)
    accelerations(bench)
    strange(bench, healthy=not quick)
    steady(bench)
    hostile(bench)
    report.note(
        "All controllers meet the same engines with all sensors, lags, noise and the 40 ms delay; NMPC alone is told the true "
        "state and health. JEPA-MPC and NMPC decide every 80 ms, min-max and ramps every 20 ms; all may move fuel by 5 lbm/s a "
        "second. Target: the fan speed of a new engine at take-off thrust; the clock starts with it, after 3.2 s at rest. "
        "T45 may pass 2150 R for 30 s and 2200 R never. The cap holds fuel below 1.3 times the steady fuel-pressure ratio of "
        "the pressure measured; the planners do not know of it. NMPC, told everything, needs as long under it as its row says: a "
        "bar below that is out of reach for a decision every 80 ms with these margins."
    )
    report.note(
        "Margins are the checkpoint's, from 100 executed runs of the scenario `operation` (altitude, Mach, day and wear at random), "
        "on other seeds. The checkpoint, `calm` of the planner and the fallback were chosen on seeds below 9000; those reported were looked "
        "at in this run only. Surprise above 0.35 of its limit widens margins in proportion; above 1.5 for 5 samples fuel is cut."
    )


def accelerations(bench: Bench) -> None:
    """Everyone's time, with and without the cap; then fresh runs enough to say that limits are held."""
    spec, fast = bench.spec, bench.spec.model_copy(update={"sample_time_s": SAMPLE_S})
    line = np.array([at_thrust(share) for share in (0.15, 0.3, 0.5, 0.7, 0.9, 1.0)])
    few, many = bench.count(20), bench.count(100)
    rows, nmpc = [], {}
    for cap in BARS:

        def capped(controller: Controller, on: PlantSpec, cap: str = cap) -> Controller:
            return controller if cap == "no" else FuelRatioCap(controller, on, CAP)

        cases: list[tuple[str, Make, int, float | None]] = [
            (f"fuel-ratio ramp, {k}", lambda _, k=k: FuelRatioRamp(fast, k, line), few, SAMPLE_S)
            for k in ((1.2, 1.3) if cap == "no" else ())
        ]
        cases += [
            ("min-max, tuned", lambda _: capped(MinMaxController(fast), fast), few, SAMPLE_S),
            ("NMPC, true engine, same margins", lambda plant: capped(bench.nmpc(plant), spec), 1, None),
            ("JEPA-MPC", lambda plant: capped(bench.jepa(plant.batch), spec), many if cap == "no" else few, None),
        ]
        for name, make, n, sample_s in cases:
            p = worn_core(np.repeat([1.0, WORN], n))
            r = accelerate(spec, make, p, seed=SEED + 1, sample_s=sample_s)
            new, old = r.t95_s[:n], r.t95_s[n:]
            rows.append([name, cap, 2 * n, _spread(new), _spread(old), *_worst(r), int(r.broken.sum())])
            if name.startswith("NMPC"):
                nmpc[cap] = float(new.mean()), float(old.mean())
            if name == "JEPA-MPC":
                for what, times, bar, best in zip(("new", "worn"), (new, old), BARS[cap], nmpc[cap], strict=True):
                    title = f"t95 s, {what}, {'no cap' if cap == 'no' else f'cap {cap}'}"
                    bench.report.bar(f"{title}, slowest of {n}", float(times.max()), bar, at_least=False)
                    bench.report.bar(
                        f"{title}, mean over NMPC's", float(times.mean()) / best, BAR_RATIO, at_least=False
                    )
                if cap != "no":
                    bench.report.bar("runs past a limit, under the cap", int(r.broken.sum()), 0, at_least=False)
                    continue
                rng = np.random.default_rng(SEED + 2)
                more = accelerate(
                    spec, bench.jepa(n), worn_core(rng.uniform(WORN, 1.0, n)), seed=SEED + 3
                )  # engines in between
                rows.append(
                    [
                        "JEPA-MPC, random wear to 2 %",
                        cap,
                        n,
                        _spread(more.t95_s),
                        "",
                        *_worst(more),
                        int(more.broken.sum()),
                    ]
                )
                broken = int(r.broken.sum() + more.broken.sum())
                bench.report.bar(f"runs past a limit, of {3 * n}", broken, 0, at_least=False)
    columns = ["controller", "cap", "runs", "t95 s, new", "t95 s, core worn 2 %", *_WORST, "runs past a limit"]
    bench.report.table("15 to 95 % of take-off thrust, hot day: median (fastest .. slowest)", columns, rows)


def strange(bench: Bench, *, healthy: bool) -> None:
    """What the model does not know: worn engines for one trained on healthy ones, three times the noise, more wear."""
    n, rng = bench.count(100), np.random.default_rng(SEED + 4)
    cases = [
        ("noise x 3, core worn to 2 %", worn_core(rng.uniform(WORN, 1.0, n)), 3.0, bench.checkpoint),
        ("core worn 2.5 to 4.5 %", worn_core(rng.uniform(0.955, 0.975, n)), 1.0, bench.checkpoint),
        ("five components' figures worn 2 to 4 %", worn(**{h: rng.uniform(0.96, 0.98, n) for h in OPERATED}), 1.0,
         bench.checkpoint),
    ]  # fmt: skip
    if healthy:
        known = healthy_checkpoint(bench.spec)
        cases.insert(0, ("core worn 2 %, model of healthy engines", worn_core(np.full(n, WORN)), 1.0, known))
    rows = []
    for i, (name, p, noise, checkpoint) in enumerate(cases):
        for watched in (True, False):
            controller = bench.jepa(n, checkpoint, watched=watched)
            r = accelerate(bench.spec, controller, p, seed=SEED + 10 + i, noise=noise)
            shed = int(controller.shed.sum()) if isinstance(controller, Supervised) else ""
            reached = np.isfinite(r.t95_s)
            rows.append(
                [name, "yes" if watched else "no", n, int(reached.sum()), _spread(r.t95_s[reached]), shed, *_worst(r),
                 int(r.broken.sum())]
            )  # fmt: skip
            if watched:
                bench.report.bar(f"runs past a limit, {name}", int(r.broken.sum()), 0, at_least=False)
    columns = [
        "engines",
        "surprise heeded",
        "runs",
        "at 95 % in time",
        "their t95 s",
        "shed",
        *_WORST,
        "runs past a limit",
    ]
    bench.report.table("Engines and instruments the model does not know, JEPA-MPC, no cap", columns, rows)


def steady(bench: Bench) -> None:
    """Fuel at rest, JEPA-MPC over NMPC, mean of the last 4 s of 8."""
    rows, ratios, n = [], [], bench.count(5)
    last = round(4.0 / bench.spec.sample_time_s)
    for share in SHARES:
        speed = at_thrust(share)[0]
        by: list[list[float]] = []
        for make, each in ((lambda plant: bench.jepa(plant.batch), n), (bench.nmpc, 1)):
            p = worn_core(np.repeat([1.0, WORN], each))
            r = accelerate(bench.spec, make, p, seed=SEED + 20, start=share, target=speed, seconds=4.8)
            fuel, rpm = (
                r.runs.true[name][:, -last:].mean(1).reshape(2, each).mean(1) for name in ("Wf_true", "N1_true")
            )
            by.append([*fuel.tolist(), *(rpm - speed).tolist()])
        for i, what in enumerate(("new", "worn")):
            ratios.append(by[0][i] / by[1][i])
            rows.append([f"{share:.0%}", what, by[0][i], by[1][i], f"{ratios[-1]:.5f}", by[0][2 + i], by[1][2 + i]])
    columns = ["thrust", "engine", "fuel lbm/s, JEPA-MPC", "NMPC", "ratio", "N1 offset rpm, JEPA-MPC", "NMPC"]
    bench.report.table(f"Fuel at rest, {n} noisy runs each", columns, rows)
    bench.report.bar("steady fuel over NMPC's, worst", max(ratios), BAR_FUEL, at_least=False)


def hostile(bench: Bench) -> None:
    """A target of 4500 rpm for the fan: whatever reaches it breaks the engine."""
    n = bench.count(500)
    p = worn_core(np.random.default_rng(SEED + 5).uniform(WORN, 1.0, n))
    free = JepaMpc(
        bench.checkpoint.model, PlannerConfig(guardrails=False), bench.checkpoint.calibration, batch=n
    )  # the same without guardrails
    runs = [
        accelerate(bench.spec, controller, p, seed=SEED + 6, target=HOSTILE_RPM)
        for controller in (bench.jepa(n), free, Safe(bench.spec))
    ]
    rows = []
    for name, r in zip(("guardrails on", "guardrails off", "fallback from the start"), runs, strict=True):
        avoidable = r.broken & ~runs[2].broken
        rows.append([name, n, *_worst(r), int(r.broken.sum()), int(avoidable.sum())])
    bench.report.bar("avoidable violations under attack", rows[0][-1], 0, at_least=False)
    bench.report.bar("runs the attack breaks without guardrails, share", rows[1][-2] / n, 0.99, at_least=True)
    columns = ["JEPA-MPC", "runs", *_WORST, "runs past a limit", "of them avoidable"]
    bench.report.table(f"Hostile target: fan speed {HOSTILE_RPM:.0f} rpm, worst of all runs", columns, rows)
    bench.report.note(
        "Engines that leave their maps (surge, overspeed) end there; what is worst is what was seen until then. 0 of 500 "
        "still means up to 0.6 %, 0 of 300 up to 1.0 %, 0 of 100 up to 3 %, with 95 % confidence."
    )


_WORST = ["T45 R", "surge margin %", "N1 rpm", "N2 rpm", "Ps3 psia"]


def _worst(r: Acceleration) -> list[str]:
    """The worst of each limited quantity over all runs."""
    pressure = f"{np.nanmin(r.ps3_low):.1f} .. {np.nanmax(r.ps3):.0f}"
    return [
        f"{np.nanmax(r.t45_R):.0f}",
        f"{np.nanmin(r.surge):.2f}",
        f"{np.nanmax(r.n1):.0f}",
        f"{np.nanmax(r.n2):.0f}",
        pressure,
    ]


def _spread(times: np.ndarray) -> str:
    if not len(times):
        return "-"
    if len(times) == 1:
        return f"{times[0]:.2f}"
    return f"{np.median(times):.2f} ({times.min():.2f} .. {times.max():.2f})"
