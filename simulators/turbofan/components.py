"""What each component does to the gas: compressors and turbines by their maps, convergent nozzles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulators.contract import Components, Namespace
from simulators.turbofan.gas import GAS_R, Gas
from simulators.turbofan.maps import data

G_C, BTU_FT_LBF = 32.174, 778.169  # lbm ft/(lbf s2); ft lbf/BTU
R_FT = GAS_R * BTU_FT_LBF  # ft lbf/(lbm R)
T_STD, P_STD = 518.67, 14.696
_LEAST_RATIO = 0.2  # under the logarithm: no state inside the envelope comes near
_SHARP = 40.0  # of the smooth minimum that chokes a nozzle


@dataclass(frozen=True)
class Compression:
    """One compressor: flow lbm/s, exit temperature R, work BTU/lbm, the pressure ratio of its map, inlet pressure psia, and
    where on the map it is."""

    flow: Any
    temperature: Any
    work: Any
    ratio: Any
    inlet: Any
    speed: Any
    r_line: Any


def compress(
    name: str, n: Any, r: Any, t: Any, pressure: Any, health: Components, air: Gas, xp: Namespace
) -> Compression:
    """A compressor at shaft speed rpm and R-line, from inlet temperature and pressure; `health`: efficiency, flow."""
    m = data().maps[name]
    root = xp.sqrt(t * (1.0 / T_STD))
    speed = n / root * (1.0 / m.scale_speed)
    flow, ratio, efficiency = m.at(("flow", "pressure", "efficiency"), speed, r, xp)
    ratio = (ratio - 1.0) * m.scale_pressure + 1.0
    h = air.enthalpy(t)
    ideal = air.isentropic(t, xp.log(xp.maximum(ratio, _LEAST_RATIO)), xp)
    h_ideal = air.enthalpy(ideal)
    work = (h_ideal - h) / (efficiency * (health[0] * m.scale_efficiency))
    exit_t = air.temperature(h + work, ideal, 2)
    flow = flow * (health[1] * m.scale_flow / P_STD) * pressure / root
    return Compression(flow, exit_t, work, ratio, pressure, speed, r)


def expand(name: str, n: Any, t: Any, pressure: Any, ratio: Any, xp: Namespace) -> tuple[Any, Any]:
    """Flow lbm/s and efficiency of a turbine."""
    m = data().maps[name]
    root = xp.sqrt(t)
    y = (ratio - 1.0) * (1.0 / m.scale_pressure) + 1.0
    flow, efficiency = m.at(("flow", "efficiency"), n / root * (1.0 / m.scale_speed), y, xp)
    return flow * m.scale_flow * pressure / root, efficiency * m.scale_efficiency


def nozzle(t: Any, pressure: Any, ambient: Any, area: float, cv: float, gas: Gas, xp: Namespace) -> tuple[Any, Any]:
    """Flow lbm/s and gross thrust lbf of a convergent nozzle, cp that of the total temperature.

    With z = (PR^(R/cp) - 1) the throat has T = T0/(1 + z), V^2 = 2 cp (T0 - T), W = rho V A.
    """
    cp = gas.cp(t)
    critical = xp.exp(xp.log((cp - 0.5 * GAS_R) / (cp - GAS_R)) * cp * (1.0 / GAS_R))
    over = pressure / ambient
    # Smooth minimum of both ratios, -ln(exp(-k a) + exp(-k b))/k, written so that it cannot overflow.
    gap = xp.minimum(_SHARP * (over - critical), 50.0)
    ratio = xp.maximum(over - xp.log(1.0 + xp.exp(gap)) * (1.0 / _SHARP), 1.0 + 1e-6)
    log_ratio = xp.log(ratio)
    heat = xp.exp(GAS_R / cp * log_ratio)
    static = t / heat
    velocity = xp.sqrt((2.0 * BTU_FT_LBF * G_C) * cp * (t - static))
    throat = pressure / ratio
    flow = throat * velocity / static * (area / R_FT)
    return flow, flow * velocity * (cv / G_C) + (throat - ambient) * area


def surge_margin(name: str, c: Compression, xp: Namespace) -> Any:
    """Percent: (PRs/PR)(W/Ws) - 1 at the same speed, the surge line at R = 1."""
    m = data().maps[name]
    (flow,) = m.at(("flow",), c.speed, c.r_line, xp)
    surge_flow, surge_ratio = m.at(("flow", "pressure"), c.speed, 1.0 + 0.0 * c.r_line, xp)
    surge_ratio = (surge_ratio - 1.0) * m.scale_pressure + 1.0
    return 100.0 * (surge_ratio / c.ratio * flow / surge_flow - 1.0)
