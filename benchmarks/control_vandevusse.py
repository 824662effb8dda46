"""The van de Vusse reactor in do-mpc's own example: 50 samples from its start to Cb = .6, the kinetics as modelled and not.

Score: sum over the samples' ends of (Cb - .6)^2; perfect sensors, as there. do-mpc runs beside it in an environment of its own,
nominal (n_robust 0) and robust (1). Bars for JEPA-MPC with the planner's defaults: <= .0046 nominal; no worse than do-mpc's
better one on every row of the table; T_R <= 140 degC. Its second target, T_R 134.15 at a fortieth of the weight, is where it
rests when Cb is met; do-mpc's example has none. Hostile energy: no run past 140 degC that the safe moves would have saved.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.control_hostile import hostile, hostile_row, hostile_table, hottest
from benchmarks.control_reactor_shifted import upper
from benchmarks.control_rivals import forecaster
from benchmarks.guardrail_filter import Constant
from benchmarks.peers.environment import run_peer
from benchmarks.report import Report
from benchmarks.trained import recorded
from benchmarks.validation.vandevusse import REQUIREMENTS
from benchmarks.world_model_rows import QUICK
from controllers.baselines.linear_mpc import LinearMpc
from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Array, Controller
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from controllers.evaluation.evaluation import stepped_targets
from controllers.planning.config import PlannerConfig
from controllers.planning.goal import Goal
from controllers.planning.mpc import JepaMpc
from homeostat.checkpoints import shipped
from models.checkpoint import Checkpoint, load
from plant.errors import SpecError
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Conditions, Schedule
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario
from simulators.vandevusse import VanDeVusse

PLANT = "vandevusse"
PLANTS = np.array([[1.0, 1.0], [0.95, 1.0], [1.0, 0.9], [0.95, 1.1], [1.05, 0.9]])  # alpha, beta
START, TARGET, SAMPLES = (0.8, 0.5, 134.14, 130.0), 0.6, 50
BAR_NOMINAL, BAR_T_R = 0.0046, 140.0
TEST_SEED = 9100  # training, calibration and tuning draw from other seeds
JEPA, TRUE, NOMINAL = "JEPA-MPC", "NMPC, true parameters", "NMPC, nominal parameters"


def measure(report: Report, *, quick: bool) -> None:
    """Everything above; `quick` leaves out what takes minutes to train, the robust do-mpc and most runs."""
    spec = load_spec(PLANT)
    report.note(f"Checkpoint: {PLANT}, trained on {checkpoint().facts['plant_hours']} plant-hours.")
    example(report, spec, quick)
    danger(report, spec, 30 if quick else 500)


@cache
def checkpoint() -> Checkpoint:
    return load(shipped(PLANT), load_spec(PLANT))


def jepa(batch: int, energy: str = "decoded") -> JepaMpc:
    """The shipped world model with the planner's defaults, steering by `energy`."""
    saved, goal = checkpoint(), None
    if energy == "goal":
        data = recorded(PLANT, QUICK.runs, QUICK.incidents, QUICK.asked)
        goal = Goal.from_runs(saved.model, data.training)
    return JepaMpc(saved.model, PlannerConfig.model_validate({"energy": energy}), saved.calibration, batch, goal=goal)


def pid(spec: PlantSpec) -> PidController:
    """The best of 300 settings on other starts, targets and kinetics."""
    product = PidLoop(pv="Cb", mv="F", gain=100.0, integral_s=60.0, derivative_s=18.0)
    return PidController(spec, (product, PidLoop(pv="T_R", mv="Qdot", gain=1200.0, integral_s=120.0)))


def run(spec: PlantSpec, controller: Controller, plants: Array) -> tuple[Trajectories, Array]:
    """The example on each of `plants` (n x 2), as trajectories and Cb (n x samples) at the samples' ends."""
    n = len(plants)
    plant = SimulatedPlant(spec, 0, n, Schedule(parameters=plants), noise=0.0, x0=np.tile(START, (n, 1)))
    low, high = limits_of(spec)
    targets = np.tile([t.value for t in spec.targets], (SAMPLES, 1))
    targets[:, 0] = TARGET
    runs = close_loop(controller, plant, targets, preview=False, move_low=low, move_high=high, first_move=plant.moves)
    return runs, runs.true["Cb"][:, 1:]


def example(report: Report, spec: PlantSpec, quick: bool) -> None:
    """do-mpc's example and its mismatch table: score, hottest and last of every plant."""
    n, config = len(PLANTS), PlannerConfig()
    options: dict[str, Any] = {
        "effort": config.effort, "suppression": config.suppression, "horizon": config.horizon, "substeps": 5,
    }  # fmt: skip
    cases: dict[str, Controller] = {
        JEPA: jepa(n),
        "JEPA-MPC, latent goal": jepa(n, "goal"),
        TRUE: NmpcController(spec, VanDeVusse(), parameters=PLANTS, **options),
        NOMINAL: NmpcController(spec, VanDeVusse(), **options),
        "linear MPC, identified (ARX)": LinearMpc(forecaster("arx", PLANT, quick=quick), batch=n),
        "PID": pid(spec),
    }
    found: dict[str, tuple[Array, Array, Array]] = {}  # cost, hottest, last Cb, each (n,)
    for name, controller in cases.items():
        runs, product = run(spec, controller, PLANTS)
        found[name] = ((product - TARGET) ** 2).sum(1), runs.worst["high_temperature"].max(1), product[:, -1]
    peers = dompc(report, (0,) if quick else (0, 1))
    labels = [f"{a:g}, {b:g}" for a, b in PLANTS]
    plants = [f"alpha, beta = {label}" for label in labels]
    both = {**found, **peers}
    rows = [[name, *(float(v) for v in cost)] for name, (cost, _, _) in both.items()]
    report.table("do-mpc's example: sum of (Cb - .6)^2 over 50 samples", ["controller", *plants], rows)
    rows = [[name, *(f"{v:.2f}" for v in hot)] for name, (_, hot, _) in both.items()]
    report.table("Hottest T_R, degC (do-mpc: at the samples)", ["controller", *plants], rows)
    rows = [[name, *(f"{v - TARGET:+.4f}" for v in last)] for name, (_, _, last) in both.items()]
    report.table("Offset of Cb at the end, mol/L (do-mpc corrects none)", ["controller", *plants], rows)
    cost, hot, _ = found[JEPA]
    report.bar("score, nominal", float(cost[0]), BAR_NOMINAL, at_least=False)
    for i, label in enumerate(labels):
        if i and peers:
            best = min(float(c[i]) for c, _, _ in peers.values())
            report.bar(f"score, alpha, beta = {label}, against do-mpc's best", float(cost[i]), best, at_least=False)
    report.bar("hottest T_R of all rows, degC", float(hot.max()), BAR_T_R, at_least=False)


def dompc(report: Report, n_robust: tuple[int, ...]) -> dict[str, tuple[Array, Array, Array]]:
    """The example under do-mpc's own controllers and simulator."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "in.json", Path(folder) / "out.npz"
        given.write_text(json.dumps({"n_robust": n_robust, "plants": PLANTS.tolist(), "samples": SAMPLES}))
        try:
            run_peer("dompc", REQUIREMENTS, "dompc_vandevusse.py", "mpc", given, out)
        except SpecError as e:
            report.note(f"do-mpc is not measured: {e}")
            return {}
        states = np.load(out)["states"]
    product, hot = states[..., 1:, 1], states[..., 2].max(-1)
    cost, last = ((product - TARGET) ** 2).sum(-1), product[..., -1]
    return {f"do-mpc 5.1.2, n_robust {n}": (cost[i], hot[i], last[i]) for i, n in enumerate(n_robust)}


def danger(report: Report, spec: PlantSpec, count: int) -> None:
    """Feed steps, uncertain kinetics and noise under the task's energy and under one that wants the reactor hot. Avoidable: the
    safe moves from the start on would have kept the run below 140 degC."""
    guard, saved = spec.guardrails[0], checkpoint()

    def lived(controller: Controller, targets: Array) -> tuple[Trajectories, NDArray[np.bool_]]:
        conditions: Conditions = Drawn(load_scenario("excitation", spec))
        plant, (low, high) = SimulatedPlant(spec, TEST_SEED, count, conditions), limits_of(spec)
        runs = close_loop(
            controller, plant, targets, preview=False, move_low=low, move_high=high, first_move=plant.moves
        )
        return runs, np.asarray((guard.margin(runs.worst[guard.name]) < 0).any(axis=1))

    usual = stepped_targets(spec, count, 60, TEST_SEED)
    far = np.full((count, 60, 1), hottest(spec, "T_R").targets[0].value)
    safe = lived(Constant(spec, *(t.move.safe for t in spec.mvs if t.move)), usual)[1]
    rows = []
    for name, controller, targets in (
        ("task (JEPA-MPC)", jepa(count), usual),
        ("hottest reactor, guardrails off", hostile(saved, "T_R", count, guardrails=False), far),
        ("hottest reactor, guardrails on", hostile(saved, "T_R", count, guardrails=True), far),
    ):
        runs, broke = lived(controller, targets)
        found = int((broke & ~safe).sum())
        rows.append(hostile_row(name, runs, spec, broke, broke & ~safe, upper(found, count)))
        if not name.endswith("off"):
            report.bar(f"avoidable runs above 140 degC, {name}", found, 0, at_least=False)
    hostile_table(report, "vandevusse, feed steps, uncertain kinetics, noise", spec, rows)
