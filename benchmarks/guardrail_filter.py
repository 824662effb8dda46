"""Controllers that know of no guardrail, with and without the guardrail filter, on the shipped checkpoints.

    python -m benchmarks.guardrail_filter [--quick] [--plants reactor_bare,vandevusse] [--runs 100] [--seed 0]
                                          [--json benchmarks/results/guardrail_filter.json] [--check]

Each controller meets the same runs three times: alone; filtered with the checkpoint's margins, which come from plans of the
planner; filtered with margins from as many other runs of the filter itself, because a controller that leans on a guardrail
for ever finds errors there that the planner never met. reactor_bare: feed steps, fouling, noise; a run above 350 K counts as
avoidable when full cooling from its last disturbance on would have stayed below. vandevusse: noise, targets stepping;
avoidable when the safe moves from the start would have kept 140 degC.

Bars: no avoidable violation filtered, with the filter's own margins; the tuned PID, which is safe alone where it was, is moved
by nothing in those runs. "moved" is the distance from the move asked for as a share of the MVs' limits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.report import Report
from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Controller, Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from controllers.evaluation.reactor import SafetyScenario, safety, violations
from controllers.planning.guardrail_filter import GuardrailFilter
from homeostat.checkpoints import shipped
from models.calibration import calibrate
from models.checkpoint import Checkpoint, load
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant

Flags = NDArray[np.bool_]
Play = Callable[[Controller, int, int], tuple[Trajectories, Flags, Flags]]
OWN = 7000  # seeds of the runs that margins come from, apart from those reported


class Constant:
    """The same moves for ever, whatever happens."""

    horizon = 1

    def __init__(self, spec: PlantSpec, *moves: float) -> None:
        self.spec, self.moves = spec, np.array(moves)

    def reset(self) -> None:
        return

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        return Decision.of_moves(self.spec, np.tile(self.moves, (len(observation.applied), 1)), 0.0)


class Noted:
    """A controller, and how far each of its moves (samples x batch) was moved."""

    def __init__(self, controller: Controller) -> None:
        self.controller, self.horizon, self.rows = controller, controller.horizon, []

    def reset(self) -> None:
        self.controller.reset()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        decision = self.controller.decide(observation, targets)
        self.rows.append(decision.energy.get("moved", np.zeros(len(decision.moves))))
        return decision


def controllers(spec: PlantSpec) -> dict[str, Controller]:
    if spec.name == "reactor_bare":
        return {
            "hottest move": Constant(spec, 310.0),
            "aggressive PID": PidController(spec, (PidLoop(mv="Tc", pv="Ca", gain=-400.0, integral_s=60.0),)),
            "tuned PID": PidController(spec, (PidLoop(mv="Tc", pv="Ca", gain=-120.0, integral_s=90.0),)),
        }
    return {
        "no cooling": Constant(spec, 5.0, 0.0),
        "full feed, no cooling": Constant(spec, 100.0, 0.0),
        "aggressive PID": PidController(spec, (PidLoop(mv="Qdot", pv="T_R", gain=6000.0, integral_s=20.0),)),
        "tuned PID": PidController(spec, (PidLoop(mv="Qdot", pv="T_R", gain=600.0, integral_s=120.0),)),
    }


def play_reactor(spec: PlantSpec) -> Play:
    def play(controller: Controller, runs: int, seed: int) -> tuple[Trajectories, Flags, Flags]:
        scenario = SafetyScenario.draw(runs, seed)
        seen = safety(spec, controller, scenario)
        return seen, *violations(spec, seen, scenario)

    return play


def play_vandevusse(spec: PlantSpec) -> Play:
    def once(controller: Controller, runs: int, seed: int) -> tuple[Trajectories, Flags]:
        plant, (low, high) = SimulatedPlant(spec, seed, runs), limits_of(spec)
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0xF117]))
        levels = np.stack([rng.uniform(*t.limits, (runs, 3)) for t in spec.targets], -1)
        seen = close_loop(
            controller, plant, np.repeat(levels, 20, axis=1), preview=False, move_low=low, move_high=high,
            first_move=plant.moves, label_fallback=True,
        )  # fmt: skip
        guard = spec.guardrails[0]
        return seen, np.asarray((guard.margin(seen.worst[guard.name]) < 0).any(axis=1))

    def play(controller: Controller, runs: int, seed: int) -> tuple[Trajectories, Flags, Flags]:
        seen, broke = once(controller, runs, seed)
        lost = once(Constant(spec, *(t.move.safe for t in spec.mvs if t.move)), runs, seed)[1]
        return seen, broke, broke & ~lost

    return play


def measure(report: Report, spec: PlantSpec, checkpoint: Checkpoint, runs: int, seed: int) -> None:
    play = play_reactor(spec) if spec.name == "reactor_bare" else play_vandevusse(spec)
    guard, body = spec.guardrails[0], []
    for name, inner in controllers(spec).items():

        def filtered(margins: object = checkpoint.calibration, batch: int = runs) -> GuardrailFilter:
            return GuardrailFilter(checkpoint.model, margins, inner, batch=batch)  # type: ignore[arg-type]  # noqa: B023

        own = play(filtered(), runs, seed + OWN)[0].runs(spec)
        margins = calibrate(checkpoint.model, own, checkpoint.model.config.horizon)
        alone_broke = np.zeros(runs, bool)
        for how, controller in (("alone", inner), ("filtered", filtered()), ("own margins", filtered(margins))):
            noted = Noted(controller)
            seen, broke, avoidable = play(noted, runs, seed)
            alone_broke = broke if how == "alone" else alone_broke
            moved = np.array(noted.rows)
            high = binomtest(int(avoidable.sum()), runs).proportion_ci().high
            worst = guard.sign * np.max(guard.sign * seen.worst[guard.name])
            recovery = np.mean([s is Status.RECOVERY for row in seen.status for s in row])
            safe = float(moved[:, ~alone_broke].mean()) if not alone_broke.all() else np.nan
            times = play(filtered(batch=1), 1, seed)[0].solve_s * 1e3 if how == "filtered" else np.full(1, np.nan)
            width = {"filtered": checkpoint.calibration, "own margins": margins}.get(how)
            body.append(
                [
                    name, how, int(broke.sum()), f"{int(avoidable.sum())} (<= {100 * high:.1f} %)", f"{worst:.2f}",
                    f"{100 * (moved > 0).mean():.1f}", _shown(float(moved[moved > 0].mean()) if moved.any() else 0.0),
                    _shown(safe), f"{100 * recovery:.1f}",
                    "" if width is None else f"{width.margins[:, 0].min():.2f} .. {width.margins[:, 0].max():.2f}",
                    *(_shown(float(np.percentile(times, p))) for p in (50, 99)),
                ]
            )  # fmt: skip
            if how == "own margins":
                what = f"{spec.name}, {name}: avoidable violations"
                report.bar(what, float(avoidable.sum()), 0, at_least=False)
            if how == "filtered" and name == "tuned PID":
                report.bar(f"{spec.name}, tuned PID: moved where it is safe alone", safe, 0.0, at_least=False)
    unit = spec.tag(guard.tag).unit
    columns = ["controller", "how", "runs that violate", "avoidable (95 % bound)", f"worst, {unit}", "moves changed, %",
               "mean moved, changed", "mean moved, runs safe alone", "RECOVERY, %", f"margins, {unit}",
               "ms p50, one plant", "ms p99"]  # fmt: skip
    report.table(f"{spec.name}: {runs} runs, {guard.tag} limit {guard.limit:g} {unit}", columns, body)


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guardrail_filter", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--plants", default="reactor_bare,vandevusse", help="names, separated by commas")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four runs: a look, not a result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(f"guardrail_filter{': quick' if args.quick else ''}")
    for plant in args.plants.split(","):
        spec = load_spec(plant)
        measure(report, spec, load(shipped(plant), spec), 4 if args.quick else args.runs, args.seed)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
