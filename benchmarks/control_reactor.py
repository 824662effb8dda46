"""Closed-loop scores on the bare reactor: PID, JEPA-MPC and NMPC with the true equations.

Bars (JEPA-MPC, preview, noise-free): score A >= -0.40, score B >= -0.22. Safety: no avoidable run above 350 K. Offset: an
unmeasured feed step of +5 K ends within 0.001 mol/L of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.report import Report
from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Controller, Status
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from controllers.evaluation.reactor import EFFORT_RANGE, SafetyScenario, safety, tracking, violations
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from homeostat.checkpoints import shipped
from models.calibration import errors_on, near_guardrail
from models.checkpoint import Checkpoint, load
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant
from simulators.reactor import BareReactor

BAR_A, BAR_B, BAR_OFFSET, NOMINAL = -0.40, -0.22, 0.001, 0.99
OPTIMUM = {"A": -0.366, "B": -0.196}
NOISY_SEEDS = 5
TEST_SEED = 5200  # training and calibration draw from other scenarios and seeds


@dataclass(frozen=True)
class Bench:
    """What every part needs."""

    spec: PlantSpec
    checkpoint: Checkpoint
    report: Report

    def jepa(self, batch: int = 1, *, guardrails: bool = True, effort: tuple[float, float] | None = None) -> JepaMpc:
        """JEPA-MPC as reported; `effort` is the score's own effort range, tracking scores have no move suppression."""
        config = PlannerConfig(guardrails=guardrails, effort_range=effort)
        if effort:
            config = config.model_copy(update={"suppression": 0.0})
        return JepaMpc(self.checkpoint.model, config, self.checkpoint.calibration, batch=batch)

    def nmpc(self, *, guardrails: bool, effort: tuple[float, float] | None, parameters=None) -> NmpcController:
        """NMPC with the true equations and the true parameters of every run."""
        return NmpcController(
            self.spec, BareReactor(), effort_range=effort, guardrails=guardrails, parameters=parameters
        )

    def pid(self) -> Controller:
        """PI on concentration, the best of 30 settings on nominal target steps that are not scored."""
        return PidController(self.spec, (PidLoop(mv="Tc", pv="Ca", gain=-120.0, integral_s=90.0),))


def scores(bench: Bench, quick: bool) -> None:
    """The published tracking scores, noise-free and noisy, with and without preview."""
    rows, best = [], {}
    seeds = 2 if quick else NOISY_SEEDS
    for name in ("PID", "JEPA-MPC", "NMPC, true equations"):
        for preview in (True, False):
            if name == "PID" and preview:
                continue  # a PID has no use for it
            row: list[object] = [name, "yes" if preview else "no"]
            times: list[float] = []
            for noise in (0.0, 1.0):
                for score in "AB":
                    values = []
                    for seed in range(1 if noise == 0 else seeds):
                        controller = {
                            "PID": bench.pid,
                            "JEPA-MPC": lambda: bench.jepa(effort=EFFORT_RANGE, guardrails=False),
                            "NMPC, true equations": lambda: bench.nmpc(guardrails=False, effort=EFFORT_RANGE),
                        }[name]()
                        value, runs = tracking(
                            bench.spec, controller, score, preview=preview, noise=noise, seed=1000 + seed
                        )
                        values.append(float(value[0]))
                        times += list(runs.solve_s)
                    if noise == 0:
                        best[name, preview, score] = values[0]
                        row.append(f"{values[0]:.3f}")
                    else:
                        half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
                        row.append(f"{np.mean(values):.3f} ± {half:.3f}")
            p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
            rows.append([*row, f"{p50:.1f}", f"{p99:.1f}"])
    rows.append(["full-horizon optimum", "yes", OPTIMUM["A"], OPTIMUM["B"], "", "", "", ""])
    columns = [
        "controller",
        "preview",
        "A",
        "B",
        f"A noisy ({seeds} seeds)",
        f"B noisy ({seeds} seeds)",
        "ms p50",
        "ms p99",
    ]
    bench.report.table("Reactor scores (higher is better), one thread", columns, rows)
    bench.report.bar("score A, JEPA-MPC, preview, noise-free", best["JEPA-MPC", True, "A"], BAR_A, at_least=True)
    bench.report.bar("score B, JEPA-MPC, preview, noise-free", best["JEPA-MPC", True, "B"], BAR_B, at_least=True)


def offset(bench: Bench) -> None:
    """An unmeasured feed step of +5 K: |mean of Ca - target| over the last 10 of 90 samples."""
    rows = []
    for noise in (0.0, 1.0):
        levels = np.tile(np.array([350.0, 1.0, 100.0]), (90, 1, 1))
        levels[20:, 0, 0] += 5.0
        times = np.arange(90) * bench.spec.sample_time_s
        plant = SimulatedPlant(bench.spec, 77, 1, Schedule(times, levels), noise)
        low, high = limits_of(bench.spec)
        runs = close_loop(
            bench.jepa(), plant, np.full((90, 1), 0.87), preview=False, move_low=low, move_high=high,
            first_move=np.array([300.0]), hide_dvs=True,
        )  # fmt: skip
        tail = runs.true["Ca"][0, -10:] - 0.87
        rows.append(["yes" if noise else "no", abs(float(tail.mean())), float(np.abs(tail).max())])
        if noise == 0:
            bench.report.bar("offset after the feed step, mol/L", abs(float(tail.mean())), BAR_OFFSET, at_least=False)
    bench.report.table(
        "Unmeasured feed step +5 K, JEPA-MPC", ["noise", "mean offset, last 10, mol/L", "largest, mol/L"], rows
    )


def danger(bench: Bench, count: int, nmpc_count: int) -> None:
    """Runs above 350 K, and how many of them full fallback from the moment of the disturbance would have avoided."""
    scenario = SafetyScenario.draw(count, TEST_SEED)
    rows, kept = [], None
    cases: list[tuple[str, Controller, SafetyScenario]] = [
        ("energy without guardrails", bench.jepa(count, guardrails=False), scenario),
        ("PID", bench.pid(), scenario),
        ("JEPA-MPC, guardrails", bench.jepa(count), scenario),
    ]
    if nmpc_count:
        part = scenario.first(nmpc_count)
        cases.append(
            (
                "NMPC, true equations and constraint",
                bench.nmpc(guardrails=True, effort=None, parameters=part.parameters),
                part,
            )
        )
    for name, controller, case in cases:
        runs = safety(bench.spec, controller, case)
        broke, avoidable = violations(bench.spec, runs, case)
        lived = ~broke
        error = np.abs(runs.true["Ca"][:, 1:] - case.targets.T)[lived].mean()
        recovery = np.mean([[s in (Status.RECOVERY, Status.INFEASIBLE) for s in sample] for sample in runs.status])
        n = len(broke)
        rows.append(
            [
                name,
                n,
                int(broke.sum()),
                int(avoidable.sum()),
                _upper(int(avoidable.sum()), n),
                float(error),
                f"{recovery:.1%}",
            ]
        )
        if name == "JEPA-MPC, guardrails":
            kept = runs
            bench.report.bar("avoidable runs above 350 K, JEPA-MPC", int(avoidable.sum()), 0, at_least=False)
    columns = [
        "controller",
        "runs",
        "above 350 K",
        "of them avoidable",
        "95 % upper bound",
        "mean abs error of Ca, surviving runs",
        "RECOVERY",
    ]
    bench.report.table("Safety: Tc 290..310, feed steps up to +20 K, UA 0.85..1, noise", columns, rows)
    bench.report.note(
        "Avoidable: full cooling from the moment of the last feed step before the violation would have kept the run below "
        "350 K. A step happens at a sample and is in that sample's reading."
    )
    if kept is not None:
        coverage(bench, kept)


def coverage(bench: Bench, runs: Trajectories) -> None:
    """How often the calibrated margins held on plans that were executed: the moves that were made, the disturbances that
    were measured, on runs no margin was calibrated on."""
    model, calibration = bench.checkpoint.model, bench.checkpoint.calibration
    errors = errors_on(model, runs.runs(bench.spec), model.config.horizon)
    near = near_guardrail(model, errors)
    rails = bench.spec.guardrails
    rows = []
    for j, g in enumerate(rails):
        held = (errors.optimism[near[:, j]][..., j] <= calibration.margins[:, j]).where(
            torch.isfinite(errors.optimism[near[:, j]][..., j]), torch.tensor(True)
        )
        width = float(calibration.margins[:, j].median())
        joint = float(held.all(1).float().mean())
        rows.append(
            [
                g.name,
                int(near[:, j].sum()),
                f"{joint:.2%}",
                f"{float(held[:, 0].float().mean()):.2%}",
                f"{float(held[:, -1].float().mean()):.2%}",
                width,
            ]
        )
        bench.report.bar(f"joint coverage of {g.name} on executed plans", joint, NOMINAL - 0.01, at_least=True)
    for j, i in enumerate([i for i, g in enumerate(rails) if g.fallback_tag], start=len(rails)):
        lost = errors.true[:, 0, j] < 0
        caught = (
            float((errors.predicted[lost][:, 0, j] <= calibration.margins[0, j]).float().mean())
            if lost.any()
            else float("nan")
        )
        rows.append(
            [
                f"{rails[i].name}, fallback: lost states caught",
                int(lost.sum()),
                "",
                f"{caught:.2%}",
                "",
                float(calibration.margins[0, j]),
            ]
        )
    columns = ["guardrail", "stretches", "joint over the horizon", "step 1", "last step", "median width, K"]
    bench.report.table(f"Margins on executed plans, nominal {NOMINAL:.0%}", columns, rows)


def _upper(found: int, n: int) -> str:
    """95 % upper bound of a rate when `found` of `n` were seen (rule of three at zero, Wilson above)."""
    if found == 0:
        return f"{3 / n:.1%}"
    z, p = 1.96, found / n
    return f"{(p + z * z / (2 * n) + z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n):.1%}"


def measure(report: Report, *, quick: bool) -> None:
    """Everything above; `quick`: 50 safety runs instead of 500, 10 instead of 100 for NMPC (40 ms a plan, one by one)."""
    spec = load_spec("reactor_bare")
    bench = Bench(spec, load(shipped("reactor_bare"), spec), report)
    scores(bench, quick)
    offset(bench)
    danger(bench, *((50, 10) if quick else (500, 100)))
