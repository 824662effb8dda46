"""The turbofan's score: from 15 % of take-off thrust to 95 %, hot day at sea level, and whether every limit was held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from plant.spec import PlantSpec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant
from simulators.steady import steady_moves
from simulators.turbofan import HEALTH, Engine

Array = NDArray[np.float64]

TAKE_OFF_LBF, HOT_R = 50013.0, 27.0
IDLE_SHARE, REST_S, SECONDS = 0.15, 3.2, 6.4
_LOOK_S = 0.02  # how often limits are looked at
_ENGINE = Engine()


def worn(**factors: Array | float) -> Array:
    """Parameters (batch x n_p) of engines with these multipliers of health, `HEALTH` names them, and 1 elsewhere."""
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(f, float)) for f in factors.values()))
    p = np.tile(Engine.p0, (len(columns[0]) if columns else 1, 1)).astype(float)
    p[:, [HEALTH.index(name) for name in factors]] = np.stack(columns, 1) if columns else 1.0
    return p


def worn_core(health: Array | float) -> Array:
    """Engines whose high-pressure compressors keep `health` (batch,) of efficiency and flow."""
    return worn(hpc_eff=health, hpc_flow=health)


def at_thrust(share: float, day_R: float = HOT_R) -> tuple[float, float]:
    """Fan speed rpm and fuel lbm/s at which a new engine gives a share of take-off thrust, at rest at sea level."""
    d, p, u = np.array([[0.0, 0.0, day_R]]), np.array([Engine.p0]), np.array([[max(5.0 * share, 0.75)]])
    x, fuel = steady_moves(_ENGINE, {"FN": np.array([share * TAKE_OFF_LBF])}, u, d, p, _ENGINE.initial(u, d, p))
    return float(x[0, 0]), float(fuel[0, 0])


@dataclass(frozen=True)
class Acceleration:
    """What `batch` engines did: `t95_s` from the new target to 95 % of take-off thrust, between samples by straight line,
    infinite where it was not reached; over the whole run `t45_R` highest, `surge` least margin of any compressor %, `n1`,
    `n2`, `ps3` highest, `ps3_low` least; `hot_s` at a time above 2150 R; `fuel` lbm/s and `thrust` lbf, means of the last
    second; `broken` whether any limit was passed, or the engine left its maps; `runs` all of it."""

    t95_s: Array
    t45_R: Array
    surge: Array
    n1: Array
    n2: Array
    ps3: Array
    ps3_low: Array
    hot_s: Array
    fuel: Array
    thrust: Array
    broken: NDArray[np.bool_]
    runs: Trajectories


def accelerate(
    spec: PlantSpec,
    controller: Controller | Callable[[SimulatedPlant], Controller],
    parameters: Array,
    *,
    seed: int,
    noise: float = 1.0,
    target: float | None = None,
    start: float = IDLE_SHARE,
    seconds: float = SECONDS,
    sample_s: float | None = None,
    day_R: float = HOT_R,
    label_fallback: bool = False,
) -> Acceleration:
    """Engines (batch x n_p) at rest at the fan speed of a new engine's `start` share of take-off thrust, held there for
    `REST_S`, then with the fan speed of its take-off thrust as target, or `target` rpm. `controller` may be made of the
    plant it is to run (one that knows the truth); `sample_s` is its sample, by default the spec's."""
    if sample_s:
        spec = spec.model_copy(update={"sample_time_s": sample_s, "scan_time_s": min(sample_s, spec.scan_time_s)})
    batch, d = len(parameters), np.tile([0.0, 0.0, day_R], (len(parameters), 1))
    idle, guess = at_thrust(start, day_R)
    u = np.full((batch, 1), guess)
    fuel = steady_moves(
        _ENGINE, {"N1_true": np.full(batch, idle)}, u, d, parameters, _ENGINE.initial(u, d, parameters)
    )[1]
    plant = SimulatedPlant(spec, seed, batch, Schedule(np.zeros(1), d[None], parameters), noise, moves=fuel)
    rest, n = round(REST_S / spec.sample_time_s), round((REST_S + seconds) / spec.sample_time_s)
    targets = np.full((n, 1), at_thrust(1.0, day_R)[0] if target is None else target)
    targets[:rest] = idle
    low, high = limits_of(spec)
    made = controller(plant) if callable(controller) else controller
    runs = close_loop(
        made, plant, targets, preview=False, move_low=low, move_high=high, first_move=fuel,
        scans=max(1, round(spec.sample_time_s / _LOOK_S)), label_fallback=label_fallback,
    )  # fmt: skip
    return scored(spec, runs, rest, plant.ended != 0)


def scored(spec: PlantSpec, runs: Trajectories, rest: int, ended: NDArray[np.bool_]) -> Acceleration:
    """The score of runs whose target changed at sample `rest`."""
    dt, worst = spec.sample_time_s, runs.worst
    over = np.zeros((len(ended), runs.moves.shape[1]), bool)
    hot = np.zeros(len(ended))
    for g in spec.guardrails:
        past = g.margin(worst[g.name]) < 0
        if g.allowed_s:
            hot = np.maximum(hot, dt * _longest(past))
            past = past & (hot > g.allowed_s)[:, None]
        over |= past
    thrust, wall = runs.true["FN"][:, rest:], 0.95 * TAKE_OFF_LBF
    reached = thrust >= wall
    k, rows = np.maximum(reached.argmax(1), 1), np.arange(len(thrust))
    before, after = thrust[rows, k - 1], thrust[rows, k]
    t95 = (k - 1 + np.clip((wall - before) / np.where(after > before, after - before, 1.0), 0.0, 1.0)) * dt
    second = round(1.0 / dt)
    return Acceleration(
        t95_s=np.where(reached.any(1) & ~ended, t95, np.inf),
        t45_R=worst["over_temperature"].max(1),
        surge=np.min([worst[name].min(1) for name in ("fan_surge", "lpc_surge", "hpc_surge")], axis=0),
        n1=worst["fan_overspeed"].max(1),
        n2=worst["core_overspeed"].max(1),
        ps3=worst["burner_pressure_high"].max(1),
        ps3_low=worst["burner_pressure_low"].min(1),
        hot_s=hot,
        fuel=runs.true["Wf_true"][:, -second:].mean(1),
        thrust=thrust[:, -second:].mean(1),
        broken=over.any(1) | ended,
        runs=runs,
    )


def _longest(past: NDArray[np.bool_]) -> Array:
    """The longest stretch of True along the second axis (batch,), samples."""
    count, longest = np.zeros(len(past)), np.zeros(len(past))
    for now in past.T:
        count = np.where(now, count + 1, 0)
        longest = np.maximum(longest, count)
    return longest
