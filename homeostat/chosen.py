"""The controller that a controller's YAML chooses: the planner, or another one behind guardrails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

import numpy as np

from controllers.baselines.ekf import Ekf
from controllers.baselines.min_max import MinMaxController
from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController
from controllers.contracts import Array, Controller
from controllers.glucose.assembled import insulin_forecast, insulin_last_check, pd_insulin_feedback
from controllers.planning.filtered import Filter
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.latent import LatentController
from controllers.planning.mpc import JepaMpc
from controllers.planning.quantile_filter import QuantileFilter
from controllers.runtime.config import ControllerConfig, FilteredConfig, OtherConfig
from homeostat.checkpoints import load_forecast
from models.checkpoint import Checkpoint
from models.gains import Gains
from plant.errors import SpecError
from plant.spec import PlantSpec
from simulators.registry import simulator_of

GROUP = "homeostat.controllers"


Settings = Mapping[str, "float | Array"]


def needs_model(config: ControllerConfig) -> bool:
    """Whether a controller plans or filters by a world model."""
    return config.filter is None or not config.filter.forecast


def doubts_about(config: ControllerConfig, checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """Why what a controller learned does not deserve AUTO, a sentence each: the world model's doubts, or the forecast's."""
    if config.filter is not None and config.filter.forecast:
        return load_forecast(config.filter.forecast).doubts
    return checkpoint.doubts if checkpoint is not None else ()


def controller_of(
    spec: PlantSpec,
    config: ControllerConfig,
    checkpoint: Checkpoint | None,
    batch: int = 1,
    known: Settings | None = None,
) -> LatentController | Filter:
    """What `config` runs the plant, or `batch` plants, with. `checkpoint`: the world model, None where it `needs_model` not. `known`:
    settings of these very plants, numbers or (batch,), which go before those in `config`. Raises `SpecError` when it names a
    controller that does not exist or cannot be made, `ControlError` when one does not fit the plant or the model, `ModelError`
    for a forecast that cannot be used."""
    chosen = config.filter
    if chosen is None:
        assert checkpoint is not None
        gains = Gains.of_facts(checkpoint.facts)
        return JepaMpc(checkpoint.model, config.planner, checkpoint.calibration, batch, gains=gains)
    inner = other_of(spec, chosen, "filter", batch, known)
    if chosen.forecast:
        made: LatentController | Filter = _by_forecast(spec, chosen, inner, batch, known)
    else:
        assert checkpoint is not None
        made = GuardrailFilter(checkpoint.model, checkpoint.calibration, inner, config.planner, chosen, batch)
    if chosen.last_check:
        if chosen.last_check not in _LAST_CHECKS:
            raise SpecError(
                f"no last check is called {chosen.last_check!r}",
                "controller YAML: filter.last_check",
                f"There is {', '.join(_LAST_CHECKS)}.",
            )
        made = _LAST_CHECKS[chosen.last_check](spec, made, {**chosen.settings, **(known or {})}, batch)
    return made


def _by_forecast(
    spec: PlantSpec, chosen: FilteredConfig, inner: Controller, batch: int, known: Settings | None
) -> Filter:
    """`inner` behind the learned forecast that `chosen` names."""
    assert chosen.back_off is not None
    model = load_forecast(chosen.forecast).model
    rails = {g.name: g for g in spec.guardrails}
    name = chosen.back_off.guardrail
    if name not in rails:
        raise SpecError(f"no guardrail {name!r}", "controller YAML: filter.back_off.guardrail", f"There are {', '.join(rails)}.")  # fmt: skip
    forecast = insulin_forecast(spec, model, rails[name], {**chosen.settings, **(known or {})}, batch)
    step = np.array([chosen.step.get(t.name, 0.0) for t in spec.mvs])
    return QuantileFilter(spec, forecast, inner, chosen.back_off, step)


_LAST_CHECKS: dict[str, Callable[[PlantSpec, Controller, Settings, int], Filter]] = {"insulin": insulin_last_check}


def true_nmpc(spec: PlantSpec, batch: int = 1) -> Controller:
    """NMPC with the simulator's usual parameters, and an EKF where a state has no tag that reads it as it is now."""
    simulator = simulator_of(spec)
    p = np.tile(simulator.p0, (batch, 1))
    measured = {t.name for t in spec.measured}
    whole = set(simulator.names.x) <= measured
    return NmpcController(spec, simulator, parameters=p if whole else None,
                          estimator=None if whole else Ekf(spec, simulator, parameters=p))  # fmt: skip


_OWN: dict[str, Callable[[PlantSpec, Settings, int], Controller]] = {
    "nmpc": lambda spec, _, batch: true_nmpc(spec, batch),
    "min_max": lambda spec, _, __: MinMaxController(spec),
    "pd_insulin_feedback": pd_insulin_feedback,
}


def other_of(
    spec: PlantSpec, config: OtherConfig, part: str, batch: int = 1, known: Settings | None = None
) -> Controller:
    """The controller that `part` of a controller's YAML names, for `batch` plants. Raises `SpecError` when it does not exist or
    cannot be made, `ControlError` when it does not fit the plant."""
    if config.pid:
        return PidController(spec, config.pid)
    if config.controller in _OWN:
        return _OWN[config.controller](spec, {**config.settings, **(known or {})}, batch)
    where, installed = f"controller YAML: {part}.controller", entry_points(group=GROUP)
    found = [e for e in installed if e.name == config.controller]
    if len(found) != 1:
        names = ", ".join(sorted([*_OWN, *(e.name for e in installed)]))
        raise SpecError(
            f"{len(found)} installed controllers are called {config.controller!r}", where, f"There are {names}."
        )
    try:
        settings = {name: (known or {}).get(name, value) for name, value in config.settings.items()}
        made = found[0].load()(spec, **settings)
    except Exception as e:  # whatever a plug-in raises is its own fault, and is said so
        raise SpecError(f"{found[0].value} cannot be made: {type(e).__name__}: {e}", where, "Mend the plug-in.") from e
    if not all(hasattr(made, name) for name in ("horizon", "decide", "reset")):
        raise SpecError(f"{found[0].value} makes no Controller", where, "It needs horizon, decide and reset.")
    return made
