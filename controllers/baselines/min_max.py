"""The classical control of a turbofan: fan speed by PI inside a min-max selector of limit regulators.

What is asked for is the least of what the speed loop and the limit regulators ask, under an acceleration schedule of fuel
over burner pressure, but never less than a deceleration schedule (the structure of Jaw & Mattingly, Aircraft Engine
Controls, AIAA 2009). Each regulator's integral follows the fuel in force within its integral time, so none winds up while
another has the engine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Decision, Observation, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.turbofan.engine import inlet_ratios

Array = NDArray[np.float64]

# Steady fuel over burner static pressure (lbm/s/psia over the root of theta), by that pressure over delta, psia: the healthy
# engine at sea level.
STEADY_RATIO = np.array([
    (69.1, 0.00802), (75.2, 0.00871), (81.1, 0.00932), (89.7, 0.01011), (101.2, 0.01096), (112.8, 0.01162),
    (130.1, 0.01239), (152.1, 0.01325), (177.8, 0.01418), (206.6, 0.01512), (238.5, 0.01606), (273.1, 0.01698),
    (306.5, 0.01776),
])  # fmt: skip
_NEEDED = ("N1", "N2", "PS3", "T45")
_T45_LAG_S = 0.70  # of its sensor
_HEAT_S = 3.0  # how slowly being hot counts


@dataclass(frozen=True)
class MinMaxGains:
    """Gains of the regulators for a sample of 20 ms; numbers, or (batch,) each. Those here took the least mean time to 95 %
    of take-off thrust of 108 sets (`tune` in benchmarks/validation/turbofan.py, on days that are not reported) among those
    with T45 below 2190 R, surge margins above 11 %, overshoot below 0.3 % and a quiet valve at the temperature limit.

    A PI of gain g and integral time T asks for g * slope * (e + integral(e)/T), where `slope` is the change of steady
    fuel with the quantity, so that g = 1 is the whole steady change at once. Limits are in the tags' units.
    """

    speed: float | Array = 0.6
    speed_integral_s: float | Array = 0.4
    temperature: float | Array = 0.3
    temperature_integral_s: float | Array = 0.1
    temperature_lead_s: float | Array = 0.2  # filter of the derivative that makes up for the sensor's lag
    accelerate: float | Array = 1.5  # times the steady fuel-pressure ratio
    decelerate: float | Array = 0.6
    n1_max: float | Array = 3920.0
    n2_max: float | Array = 8280.0
    ps3_max: float | Array = 325.0
    t45_max: float | Array = 2180.0  # at any time
    t45_continuous: float | Array = 2143.0  # for as long as it likes


class MinMaxController:
    """The baseline for a batch of engines of `spec` (its sample time is the control sample: 0.02 s for the gains given).

    A reading that is missing keeps its last value. `ControlError` when the spec has not the turbofan's tags.
    """

    horizon = 1

    def __init__(self, spec: PlantSpec, gains: MinMaxGains | None = None) -> None:
        self._spec, self._gains, self._dt = spec, gains or MinMaxGains(), spec.sample_time_s
        measured, targets = [t.name for t in spec.measured], [t.tag for t in spec.targets]
        flight = [t.name for t in spec.dvs]
        if set(_NEEDED) - set(measured) or flight != ["ALT", "MACH", "DT"] or len(spec.mvs) != 1 or "N1" not in targets:
            raise ControlError(
                "not a turbofan", f"min-max controller of {spec.name}",
                f"It needs {', '.join(_NEEDED)}, a target for N1, the DVs ALT, MACH, DT and one MV, the fuel.",
            )  # fmt: skip
        self._columns, self._target = [measured.index(name) for name in _NEEDED], targets.index("N1")
        self._move = next(t.move for t in spec.mvs if t.move)
        self.reset()

    def reset(self) -> None:
        self._last: Array | None = None
        self._flight: Array | None = None
        self._integrals: Array | None = None
        self._t45: tuple[Array, Array] | None = None

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        reading = _kept(observation.measured[:, self._columns], self._last)
        self._flight = _kept(observation.dvs, self._flight)
        self._last = reading
        fuel = self._ask(
            reading, inlet_ratios(self._flight), targets.values[:, 0, self._target], observation.standing[:, 0]
        )
        step = self._move.reach(self._dt)
        low = np.maximum(self._move.limits[0], targets.move_low)
        high = np.minimum(self._move.limits[1], targets.move_high)
        moves = np.clip(np.clip(fuel[:, None], low, high), observation.standing - step, observation.standing + step)
        return Decision.of_moves(self._spec, moves, time.perf_counter() - began)

    def _ask(self, reading: Array, ratios: tuple[Array, Array], target: Array, applied: Array) -> Array:
        g, (theta, delta), (n1, n2, ps3, t45) = self._gains, ratios, reading.T
        root = np.sqrt(theta)
        quick, slow = (t45, t45) if self._t45 is None else self._t45
        lead = (t45 - quick) / g.temperature_lead_s  # the slope of T45, filtered
        # The limit comes down to the continuous one as the engine has been hot for some seconds.
        t45_limit = np.clip(2.0 * g.t45_continuous - slow, g.t45_continuous, g.t45_max)
        self._t45 = quick + lead * self._dt, slow + (t45 - slow) * self._dt / _HEAT_S
        errors = np.stack([
            np.minimum(target, g.n1_max) - n1, g.n2_max - n2, g.ps3_max - ps3, t45_limit - (t45 + _T45_LAG_S * lead),
        ])  # fmt: skip
        # Slopes of steady fuel with each quantity; that with fan speed grows with fuel.
        by_speed = (0.0008 + 0.0006 * applied / (delta * root)) * delta
        gain = np.stack([
            g.speed * by_speed, g.speed * 0.0055 * delta, g.speed * 0.024 * root, g.temperature * 0.0077 * delta / root,
        ])  # fmt: skip
        within = np.ones_like(gain) * g.speed_integral_s
        within[3] = g.temperature_integral_s
        if self._integrals is None:
            self._integrals = np.tile(applied, (len(errors), 1))
        # Back-calculation in the integral time: gain e + (applied - gain e - I) is what is in force, less the integral.
        self._integrals = self._integrals + np.minimum(1.0, self._dt / within) * (applied - self._integrals)
        asked = gain * errors + self._integrals
        steady = np.interp(ps3 / delta, *STEADY_RATIO.T) * root * ps3
        return np.maximum(np.minimum(asked.min(0), g.accelerate * steady), g.decelerate * steady)


def _kept(now: Array, last: Array | None) -> Array:
    """Readings, the missing ones as they were."""
    return now if last is None else np.where(np.isfinite(now), now, last)
