"""A two-spool turbofan of the JT9D class as explicit differential equations, after NASA T-MATS' public JT9D deck (Apache-2.0).

Pressures between components are states (plenums), so that flows follow from maps without an algebraic loop. So is each
compressor's R-line: it relaxes until the map's pressure ratio is the one there is. That stands for the flow's momentum, is
single-valued at choke and past the surge peak, and rests where the deck rests. Units lbm/s, psia, R, rpm, BTU, ft.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from simulators.contract import Array, Components, Names, Namespace, Simulator
from simulators.steady import newton, steady_state
from simulators.turbofan.components import (
    BTU_FT_LBF,
    G_C,
    P_STD,
    R_FT,
    T_STD,
    Compression,
    compress,
    expand,
    nozzle,
    surge_margin,
)  # fmt: skip
from simulators.turbofan.gas import Gas

_FUEL_HEAT = 19256.84 * 0.994  # BTU/lbm: effective heating value times burner efficiency
_INLET, _BURNER = 0.992, 0.945  # total pressure kept
_DUCT_BYPASS, _DUCT_LPC, _DUCT_HPC, _DUCT_LPT, _DUCT_CORE = 0.9925, 0.9975, 0.9975, 0.995, 0.99
_COOL_41, _COOL_45 = 0.055, 0.035  # of the compressor's flow, before and after the high-pressure rotor
_AREA_BYPASS, _CV_BYPASS, _AREA_CORE, _CV_CORE = 2706.42, 0.9975, 855.75, 0.9999  # in2
_J_LOW, _J_HIGH = 100.0, 20.0  # slug ft2
_VOLUME = {"P21": 300.0, "P24": 12.0, "P3": 14.0, "P45": 6.0, "P5": 60.0}  # ft3, this model's choice: not
# published. That of P3 is the burner's: it holds burnt gas at T4 and P4.
_TAU_R_S = 0.01
_LEAST = 0.5  # psia: a pressure below it has left the envelope, and must not spoil a logarithm on its way
_STOICHIOMETRIC = 0.068  # more fuel than that does not burn
_SHAFT, _PLENUM = BTU_FT_LBF * (30.0 / math.pi) ** 2, 1.4 * R_FT / 144.0
_STATIC_3 = 0.9412  # static over total pressure at the compressor's exit

# Where the working line is first sought: the deck's take-off on a hot day.
_TAKE_OFF = (3750.0, 8000.0, 23.37, 52.45, 297.1, 104.2, 22.75, 2.0, 1.769, 2.08, 4.997)
_LINE_FUEL = (5.4, 4.6, 3.8, 3.1, 2.5, 2.0, 1.6, 1.3, 1.1, 0.9, 0.75, 0.65, 0.55)  # lbm/s at sea level

HEALTH = tuple(f"{c}_{what}" for c in ("fan", "lpc", "hpc", "hpt", "lpt") for what in ("eff", "flow"))


@dataclass(frozen=True)
class Path:
    """Everything along the gas path of one state; numbers are stations, flows lbm/s."""

    fan: Compression
    lpc: Compression
    hpc: Compression
    bypass: Any
    core: Any
    hpt_flow: Any
    lpt_flow: Any
    t4: Any
    t45: Any
    t5: Any
    high_power: Any
    low_power: Any
    net_thrust: Any


def inlet(d: Components) -> tuple:
    """Total temperature R and pressure psia at the fan, ambient pressure and temperature, at altitude ft, Mach, dT R."""
    altitude, mach, deviation = d
    ambient_t = T_STD - 0.0035662 * altitude + deviation
    ambient_p = P_STD * (1.0 - 6.8756e-6 * altitude) ** 5.2559
    ram = 1.0 + 0.2 * mach * mach
    return ambient_t * ram, ambient_p * _INLET * ram**3.5, ambient_p, ambient_t


class Engine(Simulator):
    """The engine alone: u fuel command lbm/s through a valve's lag of 0.1 s, everything read directly.

    d: altitude ft, Mach number, deviation from the standard day R. p: multipliers on each component's efficiency and flow
    capacity. Surge margins are (PRs/PR)(W/Ws) - 1 at the same speed, in percent. Valid from idle (about 0.55 lbm/s at sea
    level) up; below it the maps end.
    """

    names = Names(
        x=("N1", "N2", "P21", "P24", "P3", "P45", "P5", "Rf", "Rl", "Rh", "Wf"),
        u=("FUEL",), d=("ALT", "MACH", "DT"), p=HEALTH,
        y=(
            "N1_true", "N2_true", "T24_true", "P24_true", "T3_true", "Ps3_true", "T45_true", "T5_true", "Wf_true",
            "FN", "T4", "SM_FAN", "SM_LPC", "SM_HPC", "BPR", "W2", "W31", "P3",
        ),
    )  # fmt: skip
    time_unit_s = 1.0
    step_s = 0.0025
    # A hot day at sea level, 30,000 lbf: 60 % of take-off.
    u0 = (2.73,)
    d0 = (0.0, 0.0, 27.0)
    p0 = (1.0,) * len(HEALTH)
    x0 = (3059.626, 7511.1, 19.9559, 36.88178, 194.4234, 66.91428, 18.21333, 1.773312, 1.695417, 2.170324, 2.73)
    d_range = {"ALT": (-1000.0, 40000.0), "MACH": (0.0, 0.9), "DT": (-60.0, 60.0)}  # noqa: RUF012
    p_range = {name: (0.8, 1.05) for name in HEALTH}  # noqa: RUF012
    valve_lag_s = 0.1

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return (*self._engine(self._path(x, d, p, xp), x, xp), (u[0] - x[10]) / self.valve_lag_s)

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return self._true(self._path(x, d, p, xp), x, xp)

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        """In states alone, for it is asked at every step: where shafts, R-lines and pressures leave the maps."""
        root = xp.sqrt(inlet(d)[0] * (1.0 / T_STD))
        return {
            "low-pressure shaft below its maps": x[0] / root - 1600.0,
            "high-pressure shaft below its maps": x[1] / root - 5500.0,
            "a compressor past its surge line": xp.minimum(xp.minimum(x[7], x[8]), x[9]) - 0.9,
            "a compressor choked beyond its map": 3.1 - xp.maximum(xp.maximum(x[7], x[8] + 0.4), x[9]),
            "flame-out": x[10] - 0.003 * x[4],
            "reverse flow": xp.minimum(xp.minimum(x[3] - x[2], x[4] - x[3]), xp.minimum(x[5] - x[6], x[4] - x[5])),
        }

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        """The steady states; `SpecError` where there is none."""
        return at_rest(u, d, p)

    def _path(self, x: Components, d: Components, p: Components, xp: Namespace) -> Path:
        n1, n2, r_fan, r_lpc, r_hpc, fuel = x[0], x[1], x[7], x[8], x[9], x[10]
        p21, p24, p3, p45, p5 = (xp.maximum(x[i], _LEAST) for i in range(2, 7))
        t2, p2, ambient_p, ambient_t = inlet(d)
        air = Gas.of(0.0)
        fan = compress("fan", n1, r_fan, t2, p2, p[0:2], air, xp)
        lpc = compress("lpc", n1, r_lpc, fan.temperature, p21 * _DUCT_LPC, p[2:4], air, xp)
        hpc = compress("hpc", n2, r_hpc, lpc.temperature, p24 * _DUCT_HPC, p[4:6], air, xp)
        bypass, bypass_thrust = nozzle(
            fan.temperature, p21 * _DUCT_BYPASS, ambient_p, _AREA_BYPASS, _CV_BYPASS, air, xp
        )

        h3 = air.enthalpy(hpc.temperature)
        burnt = (1.0 - _COOL_41 - _COOL_45) * hpc.flow
        far4 = xp.minimum(fuel / burnt, _STOICHIOMETRIC)
        gas4, gas41 = Gas.of(far4), Gas.of(far4 * ((1.0 - _COOL_41 - _COOL_45) / (1.0 - _COOL_45)))
        gas45 = Gas.of(far4 * (1.0 - _COOL_41 - _COOL_45))
        h4 = (h3 + far4 * _FUEL_HEAT) / (1.0 + far4)
        guess = hpc.temperature + (h4 - gas4.enthalpy(hpc.temperature)) / gas4.cp(hpc.temperature + 600.0)
        t4 = gas4.temperature(h4, guess, 2)

        p4 = p3 * _BURNER
        hpt_flow, efficiency = expand("hpt", n2, t4, p4, p4 / p45, xp)
        hpt_flow, efficiency = hpt_flow * p[7], efficiency * p[6]
        w41 = hpt_flow + _COOL_41 * hpc.flow
        h41 = (hpt_flow * h4 + _COOL_41 * hpc.flow * h3) / w41
        t41 = gas41.temperature(h41, t4, 2)
        ideal = gas41.isentropic(t41, xp.log(p45 / p4), xp)
        high_work = efficiency * (h41 - gas41.enthalpy(ideal))
        w45 = w41 + _COOL_45 * hpc.flow
        h45 = (w41 * (h41 - high_work) + _COOL_45 * hpc.flow * h3) / w45
        t45 = gas45.temperature(h45, ideal, 2)

        p48 = p45 * _DUCT_LPT
        lpt_flow, efficiency = expand("lpt", n1, t45, p48, p48 / p5, xp)
        lpt_flow, efficiency = lpt_flow * p[9], efficiency * p[8]
        ideal = gas45.isentropic(t45, xp.log(p5 / p48), xp)
        h_ideal = gas45.enthalpy(ideal)
        low_work = efficiency * (h45 - h_ideal)
        t5 = gas45.temperature(h45 - low_work, ideal, 2)
        core, core_thrust = nozzle(t5, p5 * _DUCT_CORE, ambient_p, _AREA_CORE, _CV_CORE, gas45, xp)
        speed = d[1] * xp.sqrt(1.4 * R_FT * G_C * ambient_t)
        return Path(
            fan=fan, lpc=lpc, hpc=hpc, bypass=bypass, core=core, hpt_flow=hpt_flow, lpt_flow=lpt_flow,
            t4=t4, t45=t45, t5=t5,
            high_power=w41 * high_work - hpc.flow * hpc.work,
            low_power=lpt_flow * low_work - fan.flow * fan.work - lpc.flow * lpc.work,
            net_thrust=bypass_thrust + core_thrust - fan.flow * speed / G_C,
        )  # fmt: skip

    def _engine(self, path: Path, x: Components, xp: Namespace) -> tuple:
        """Rates of the ten states of shafts, plenums and R-lines."""
        fan, lpc, hpc = path.fan, path.lpc, path.hpc
        burnt, cooling = (1.0 - _COOL_41 - _COOL_45) * hpc.flow, (_COOL_41 + _COOL_45) * hpc.flow
        return (
            path.low_power * (_SHAFT / _J_LOW) / xp.maximum(x[0], 1.0),
            path.high_power * (_SHAFT / _J_HIGH) / xp.maximum(x[1], 1.0),
            _PLENUM / _VOLUME["P21"] * fan.temperature * (fan.flow - lpc.flow - path.bypass),
            _PLENUM / _VOLUME["P24"] * lpc.temperature * (lpc.flow - hpc.flow),
            _PLENUM / (_VOLUME["P3"] * _BURNER) * path.t4 * (burnt + x[10] - path.hpt_flow),
            _PLENUM / _VOLUME["P45"] * path.t45 * (path.hpt_flow + cooling - path.lpt_flow),
            _PLENUM / _VOLUME["P5"] * path.t5 * (path.lpt_flow - path.core),
            (fan.ratio * fan.inlet / xp.maximum(x[2], _LEAST) - 1.0) / _TAU_R_S,
            (lpc.ratio * lpc.inlet / xp.maximum(x[3], _LEAST) - 1.0) / _TAU_R_S,
            (hpc.ratio * hpc.inlet / xp.maximum(x[4], _LEAST) - 1.0) / _TAU_R_S,
        )

    @staticmethod
    def _sensed(path: Path, x: Components) -> tuple:
        """The true values of what is measured: the first components of `y`."""
        return (
            x[0], x[1], path.lpc.temperature, x[3], path.hpc.temperature, _STATIC_3 * x[4], path.t45, path.t5, x[10],
        )  # fmt: skip

    def _true(self, path: Path, x: Components, xp: Namespace) -> tuple:
        """The components of `y`."""
        fan, lpc, hpc = path.fan, path.lpc, path.hpc
        margins = (surge_margin(name, c, xp) for name, c in (("fan", fan), ("lpc", lpc), ("hpc", hpc)))
        return (
            *self._sensed(path, x),
            path.net_thrust, path.t4, *margins, path.bypass / lpc.flow, fan.flow, _COOL_41 * hpc.flow, x[4],
        )  # fmt: skip


def at_rest(u: Array, d: Array, p: Array) -> Array:
    """Steady states of `Engine` (batch x 11), each distinct member solved once: from the working line in corrected
    quantities, or where that is too far off, led there from the line. `SpecError` where there is none."""
    rows, back = np.unique(np.concatenate([u, d, p], 1), axis=0, return_inverse=True)
    u, d, p = rows[:, :1], rows[:, 1:4], rows[:, 4:]
    engine = Engine()
    theta, delta = inlet_ratios(d)
    line_u, line_x = _working_line()
    corrected = np.clip(u[:, 0] / (delta * np.sqrt(theta)), line_u[0], line_u[-1])
    x = np.stack([np.interp(corrected, line_u, column) for column in line_x.T], 1)
    x[:, :2] *= np.sqrt(theta)[:, None]
    x[:, 2:7] *= delta[:, None]
    x[:, 10] = u[:, 0]
    found, converged = newton(engine, {}, u, d, p, x)
    if not converged.all():
        far = np.flatnonzero(~converged)
        found[far] = _led(engine, x[far], u[far], d[far], p[far])
    return found[back.ravel()]


def inlet_ratios(d: Array) -> tuple[Array, Array]:
    """theta and delta (batch,) at the fan: total temperature and pressure over the standard day's."""
    t2, p2 = inlet(d.T)[:2]
    return t2 / T_STD, p2 / P_STD


def _led(engine: Engine, x: Array, u: Array, d: Array, p: Array) -> Array:
    """From the healthy engine at sea level to where each member is, in even steps."""
    clean = np.tile(Engine.p0, (len(x), 1))
    begin_u, begin_d = np.full_like(u, 3.0), np.zeros_like(d)
    x = np.tile(_working_line()[1][len(_LINE_FUEL) // 2], (len(x), 1))
    for share in np.linspace(0.0, 1.0, 13):
        x = steady_state(
            engine, begin_u + share * (u - begin_u), begin_d + share * (d - begin_d), clean + share * (p - clean), x
        )
    return x


@cache
def _working_line() -> tuple[Array, Array]:
    """Corrected fuel flow, rising, and states at sea level on the standard day, pressures over delta (n,), (n x 11)."""
    engine = Engine()
    d, p = np.zeros((1, 3)), np.array([Engine.p0])
    x, states = np.array([_TAKE_OFF]), []
    for fuel in _LINE_FUEL:
        x = steady_state(engine, np.array([[fuel]]), d, p, x)
        states.append(x[0].copy())
    line = np.array(states[::-1])
    line[:, 2:7] /= _INLET
    return np.array(_LINE_FUEL[::-1]) / _INLET, line
