"""The controller that a controller's YAML chooses: the planner, or another one behind the planner's guardrails."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import numpy as np

from controllers.baselines.ekf import Ekf
from controllers.baselines.min_max import MinMaxController
from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController
from controllers.contracts import Controller
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.latent import LatentController
from controllers.planning.mpc import JepaMpc
from controllers.runtime.config import ControllerConfig, OtherConfig
from models.checkpoint import Checkpoint
from plant.errors import SpecError
from plant.spec import PlantSpec
from simulators.registry import simulator_of

GROUP = "homeostat.controllers"


def controller_of(
    spec: PlantSpec, config: ControllerConfig, checkpoint: Checkpoint, batch: int = 1
) -> LatentController:
    """What `config` runs the plant, or `batch` plants, with. Raises `SpecError` when it names a controller that does not exist or cannot be made,
    `ControlError` when one does not fit the plant or the model."""
    model, calibration = checkpoint.model, checkpoint.calibration
    if config.filter is None:
        return JepaMpc(model, config.planner, calibration, batch)
    return GuardrailFilter(
        model, calibration, other_of(spec, config.filter, "filter"), config.planner, config.filter, batch
    )


def true_nmpc(spec: PlantSpec, batch: int = 1) -> Controller:
    """NMPC with the simulator's usual parameters, and an EKF where a state has no tag that reads it as it is now."""
    simulator = simulator_of(spec)
    p = np.tile(simulator.p0, (batch, 1))
    measured = {t.name for t in spec.measured}
    whole = set(simulator.names.x) <= measured
    return NmpcController(spec, simulator, parameters=p if whole else None,
                          estimator=None if whole else Ekf(spec, simulator, parameters=p))  # fmt: skip


_OWN: dict[str, Callable[[PlantSpec], Controller]] = {"nmpc": true_nmpc, "min_max": MinMaxController}


def other_of(spec: PlantSpec, config: OtherConfig, part: str) -> Controller:
    """The controller that `part` of a controller's YAML names. Raises `SpecError` when it does not exist or cannot be made,
    `ControlError` when it does not fit the plant."""
    if config.pid:
        return PidController(spec, config.pid)
    if config.controller in _OWN:
        return _OWN[config.controller](spec)
    where, installed = f"controller YAML: {part}.controller", entry_points(group=GROUP)
    found = [e for e in installed if e.name == config.controller]
    if len(found) != 1:
        known = ", ".join(sorted([*_OWN, *(e.name for e in installed)]))
        raise SpecError(
            f"{len(found)} installed controllers are called {config.controller!r}", where, f"There are {known}."
        )
    try:
        made = found[0].load()(spec)
    except Exception as e:  # whatever a plug-in raises is its own fault, and is said so
        raise SpecError(f"{found[0].value} cannot be made: {type(e).__name__}: {e}", where, "Mend the plug-in.") from e
    if not all(hasattr(made, name) for name in ("horizon", "decide", "reset")):
        raise SpecError(f"{found[0].value} makes no Controller", where, "It needs horizon, decide and reset.")
    return made
