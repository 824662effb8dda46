"""The bare reactor: two published scores, reactors that have drifted, an unmeasured feed step, and energies that want it hot.

Bars, all for JEPA-MPC. Scores A and B, noise-free: with preview within 3 % of the full-horizon optimum (-.377, -.203), without
preview no worse than NMPC with the true equations without it. Shifted reactors: `benchmarks/control_reactor_shifted.py`.
500 runs with the feed stepping up by as much as 20 K: no avoidable run above 350 K, whatever the energy wants. Avoidable: full
cooling from the moment of the last disturbance before would have kept the run below; it happens at a sample and is in that
sample's reading.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.control_hostile import hostile, hostile_row, hostile_table, hottest
from benchmarks.control_reactor_controllers import (
    CLONE,
    GOAL,
    GRU,
    JEPA,
    LINEAR,
    PID,
    PLANT,
    TRUE,
    WRONG,
    make,
    shipped_checkpoint,
)  # fmt: skip
from benchmarks.control_reactor_shifted import shifted, upper
from benchmarks.peers.environment import run_peer
from benchmarks.report import Report, interval
from controllers.contracts import Decision, Observation, Targets
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.evaluation.reactor import EFFORT_RANGE, SafetyScenario, safety, tracking, violations
from plant.errors import SpecError
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

OPTIMUM = {"A": -0.366, "B": -0.196}
BARS = {"A": -0.377, "B": -0.203}
PCGYM = ["pcgym==0.1.8", "numpy<2.4"]
TEST_SEED = 5200  # training and calibration draw from other scenarios and seeds


def measure(report: Report, *, quick: bool) -> None:
    """Everything above; `quick` leaves out what takes minutes to train, and the peer."""
    spec = load_spec(PLANT)
    report.note(f"Checkpoint: {PLANT}, trained on {shipped_checkpoint().facts['plant_hours']} plant-hours.")
    scores(report, spec, quick)
    offset(report, spec)
    shifted(report, quick=quick)
    danger(report, spec, 30 if quick else 500, quick)


def scores(report: Report, spec: PlantSpec, quick: bool) -> None:
    """The two published scores, noise-free and, for two controllers, noisy, with preview and without."""
    rows: list[list[object]] = []
    best: dict[tuple[str, bool, str], float] = {}
    planners = (JEPA, GOAL, TRUE, WRONG, LINEAR) if quick else (JEPA, GOAL, TRUE, WRONG, LINEAR, GRU)
    cases = [(name, preview) for name in planners for preview in (True, False)]
    for name, preview in [*cases, (PID, False), *([] if quick else [(CLONE, False)])]:
        times: list[float] = []
        noisy: dict[str, list[float]] = {"A": [], "B": []}
        for score in "AB":
            for seed in range(1 if quick else 6):
                if seed and name not in (JEPA, TRUE):
                    continue
                controller = make(name, 1, scored=True, quick=quick)
                value, runs = tracking(
                    spec, controller, score, preview=preview, noise=1.0 if seed else 0.0, seed=1000 + seed
                )
                times += list(runs.solve_s)
                if seed:
                    noisy[score].append(float(value[0]))
                else:
                    best[name, preview, score] = float(value[0])
        p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
        rows.append(
            [name, "yes" if preview else "no", *(f"{best[name, preview, s]:.3f}" for s in "AB"),
             *(interval(noisy[s]) if noisy[s] else "" for s in "AB"), f"{p50:.1f}", f"{p99:.1f}"]
        )  # fmt: skip
    rows.append(["full-horizon optimum", "yes", OPTIMUM["A"], OPTIMUM["B"], "", "", "", ""])
    if not quick:
        rows.append(["pc-gym 0.1.8's oracle, its moves replayed", "no", *replayed(report, spec), "", "", "", ""])
    columns = ["controller", "preview", "A", "B", "A noisy (5 seeds)", "B noisy (5 seeds)", "wall ms p50", "p99"]
    report.table("Reactor scores, noise-free (higher is better), one thread", columns, rows)
    for score, bar in BARS.items():
        report.bar(f"score {score}, JEPA-MPC, preview", best[JEPA, True, score], bar, at_least=True)
    for score in "AB":
        report.bar(
            f"score {score}, JEPA-MPC, no preview, against NMPC's", best[JEPA, False, score], best[TRUE, False, score],
            at_least=True,
        )  # fmt: skip


class Replay:
    """Moves (samples x n_mv) made one after another, whatever is read."""

    horizon = 1

    def __init__(self, spec: PlantSpec, moves: np.ndarray) -> None:
        self.spec, self.moves, self._k = spec, moves, 0

    def reset(self) -> None:
        self._k = 0

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        self._k += 1
        return Decision.of_moves(self.spec, self.moves[None, self._k - 1], 0.0)


def replayed(report: Report, spec: PlantSpec) -> list[str]:
    """Scores A and B of the moves that pc-gym's oracle makes in its own closed loop, on this plant."""
    goals = np.array([np.repeat(levels, 20) for levels in ((0.85, 0.90, 0.87), (0.86, 0.89, 0.86))])
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "in.npz", Path(folder) / "out.npz"
        low, high = ([v] for v in EFFORT_RANGE)
        np.savez(given, x0=[[0.80, 330.0], [0.85, 330.0]], targets=goals, low=low, high=high, dt_s=spec.sample_time_s)
        try:
            run_peer("pcgym", PCGYM, "pcgym_reactor.py", "oracle", given, out)
        except SpecError as e:
            report.note(f"pc-gym's oracle is not measured: {e}")
            return ["not measured"] * 2
        moves = np.load(out)["moves"]
    scored = zip("AB", moves, strict=True)
    return [
        f"{float(tracking(spec, Replay(spec, m[:, None]), s, preview=False, noise=0.0)[0][0]):.3f}" for s, m in scored
    ]


def offset(report: Report, spec: PlantSpec) -> None:
    """Feed 5 K hotter than anybody is told: |mean of Ca - target| over the last 10 of 90 samples."""
    rows = []
    for noise in (0.0, 1.0):
        levels = np.tile(np.array([350.0, 1.0, 100.0]), (90, 1, 1))
        levels[20:, 0, 0] += 5.0
        plant = SimulatedPlant(
            spec, 77, 1, Schedule(np.arange(90, dtype=np.float64) * spec.sample_time_s, levels), noise
        )
        low, high = limits_of(spec)
        runs = close_loop(
            make(JEPA, 1, scored=False, quick=True), plant, np.full((90, 1), 0.87), preview=False, move_low=low,
            move_high=high, first_move=np.array([300.0]), hide_dvs=True,
        )  # fmt: skip
        tail = runs.true["Ca"][0, -10:] - 0.87
        rows.append(["yes" if noise else "no", abs(float(tail.mean())), float(np.abs(tail).max())])
        if noise == 0:
            report.bar("offset after the unmeasured feed step, mol/L", rows[0][1], 0.001, at_least=False)
    columns = ["noise", "mean offset, last 10, mol/L", "largest, mol/L"]
    report.table("Unmeasured feed step +5 K, JEPA-MPC", columns, rows)


def danger(report: Report, spec: PlantSpec, count: int, quick: bool) -> None:
    """Runs above 350 K under the task's energy and under one that wants the reactor as hot as it goes."""
    scenario, rows = SafetyScenario.draw(count, TEST_SEED), []
    checkpoint = shipped_checkpoint()
    cases = {
        "task (JEPA-MPC)": make(JEPA, count, scored=False, quick=quick),
        "hottest reactor, guardrails off": hostile(checkpoint, "T", count, guardrails=False),
        "hottest reactor, guardrails on": hostile(checkpoint, "T", count, guardrails=True),
        "PID": make(PID, count, scored=False, quick=quick),
    }
    for name, controller in cases.items():
        wanted = scenario
        if name.startswith("hottest"):
            far = hottest(spec, "T").targets[0].value
            wanted = replace(scenario, targets=np.full_like(scenario.targets, far))
        runs = safety(spec, controller, wanted)
        broke, avoidable = violations(spec, runs, scenario)
        found = int(avoidable.sum())
        rows.append(hostile_row(name, runs, spec, broke, avoidable, upper(found, count)))
        if name in ("task (JEPA-MPC)", "hottest reactor, guardrails on"):
            report.bar(f"avoidable runs above 350 K, {name}", found, 0, at_least=False)
    hostile_table(report, "reactor, feed steps up to +20 K, UA up to 15 % low, noise", spec, rows)
