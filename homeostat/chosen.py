"""The controller that a controller's YAML chooses: the planner, or another one behind the planner's guardrails."""

from __future__ import annotations

from importlib.metadata import entry_points

from controllers.baselines.pid import PidController
from controllers.contracts import Controller
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.latent import LatentController
from controllers.planning.mpc import JepaMpc
from controllers.runtime.config import ControllerConfig, FilteredConfig
from models.checkpoint import Checkpoint
from plant.errors import SpecError
from plant.spec import PlantSpec

GROUP = "homeostat.controllers"


def controller_of(
    spec: PlantSpec, config: ControllerConfig, checkpoint: Checkpoint, batch: int = 1
) -> LatentController:
    """What `config` runs the plant, or `batch` plants, with. Raises `SpecError` when it names a controller that does not exist or cannot be made,
    `ControlError` when one does not fit the plant or the model."""
    model, calibration = checkpoint.model, checkpoint.calibration
    if config.filter is None:
        return JepaMpc(model, config.planner, calibration, batch)
    return GuardrailFilter(model, calibration, _inner(spec, config.filter), config.planner, config.filter, batch)


def _inner(spec: PlantSpec, config: FilteredConfig) -> Controller:
    if config.pid:
        return PidController(spec, config.pid)
    where, installed = "controller YAML: filter.controller", entry_points(group=GROUP)
    found = [e for e in installed if e.name == config.controller]
    if len(found) != 1:
        known = ", ".join(sorted(e.name for e in installed)) or "none"
        raise SpecError(
            f"{len(found)} installed controllers are called {config.controller!r}", where, f"Installed: {known}."
        )
    try:
        made = found[0].load()(spec)
    except Exception as e:  # whatever a plug-in raises is its own fault, and is said so
        raise SpecError(f"{found[0].value} cannot be made: {type(e).__name__}: {e}", where, "Mend the plug-in.") from e
    if not all(hasattr(made, name) for name in ("horizon", "decide", "reset")):
        raise SpecError(f"{found[0].value} makes no Controller", where, "It needs horizon, decide and reset.")
    return made
