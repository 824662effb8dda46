"""The controllers of `benchmarks.control --plant reactor`, each made by its name."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from benchmarks.control_rivals import clone, forecaster
from benchmarks.trained import recorded
from benchmarks.world_model_rows import QUICK
from controllers.baselines.clone import ClonedPolicy
from controllers.baselines.ekf import Ekf
from controllers.baselines.linear_mpc import LinearMpc
from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Array, Controller
from controllers.evaluation.reactor import EFFORT_RANGE
from controllers.planning.config import PlannerConfig
from controllers.planning.forecast import ForecastMpc
from controllers.planning.goal import Goal
from controllers.planning.mpc import JepaMpc
from homeostat.checkpoints import shipped
from models.checkpoint import Checkpoint, load
from plant.spec import PlantSpec, load_spec
from simulators.reactor import BareReactor

PLANT = "reactor_bare"
JEPA, GOAL, GRU = "JEPA-MPC", "JEPA-MPC, latent goal", "GRU + the same planner"
TRUE, WRONG, NOMINAL = "NMPC, true parameters", "NMPC, UA 10 % high, k0 10 % low", "NMPC, nominal parameters"
ESTIMATED, LINEAR = "NMPC, nominal parameters + EKF", "linear MPC, identified (ARX)"
PID, CLONE = "PID", "behaviour clone of the PID"
SUBSTEPS = 5  # RK4 steps a sample in the NMPCs: 1e-5 of a score or better, and no slower than they have to be


@cache
def shipped_checkpoint() -> Checkpoint:
    return load(shipped(PLANT), load_spec(PLANT))


@cache
def goal() -> Goal:
    """Latents to steer to, from recorded excitation."""
    data = recorded(PLANT, QUICK.runs, QUICK.incidents, QUICK.asked)
    return Goal.from_runs(shipped_checkpoint().model, data.training)


def pid(spec: PlantSpec) -> PidController:
    """PI on concentration, the best of 30 settings on nominal target steps that are not scored."""
    return PidController(spec, (PidLoop(mv="Tc", pv="Ca", gain=-120.0, integral_s=90.0),))


def make(name: str, batch: int, *, scored: bool, quick: bool, parameters: Array | None = None) -> Controller:
    """The controller `name` for `batch` plants. `scored`: with the effort range of the two published scores, which price no move
    and guard nothing; otherwise the default energy and guardrails. `parameters` (batch x 2): the true factors of UA and k0."""
    options: dict[str, Any] = {}
    if scored:
        options = {"effort_range": EFFORT_RANGE, "suppression": 0.0, "guardrails": False}
    config, spec = PlannerConfig(**options), load_spec(PLANT)
    checkpoint = shipped_checkpoint()
    if name == JEPA:
        return JepaMpc(checkpoint.model, config, checkpoint.calibration, batch=batch)
    if name == GOAL:
        latent = config.model_copy(update={"energy": "goal"})
        return JepaMpc(checkpoint.model, latent, checkpoint.calibration, batch=batch, goal=goal())
    if name == GRU:
        return ForecastMpc(forecaster("gru", PLANT, quick=quick), config, batch=batch)
    if name == LINEAR:
        return LinearMpc(forecaster("arx", PLANT, quick=quick), config, batch=batch)
    if name == PID:
        return pid(spec)
    if name == CLONE:
        return ClonedPolicy(clone(PLANT, pid(spec), quick=quick), batch=batch)
    simulator, estimator = BareReactor(), None
    if name == ESTIMATED:
        estimator = Ekf(spec, simulator, substeps=SUBSTEPS)
    elif name == WRONG:
        parameters = np.array([[1.1, 0.9]])
    elif name == NOMINAL:
        parameters = None
    return NmpcController(
        spec, simulator, effort_range=config.effort_range, suppression=config.suppression, guardrails=config.guardrails,
        parameters=None if name == ESTIMATED else parameters, substeps=SUBSTEPS, estimator=estimator,
    )  # fmt: skip
