"""The turbofan against NASA's public JT9D deck, its recorded acceleration table, NASA C-MAPSS' degradation, and under its
min-max controller.

    python -m benchmarks.plants --only turbofan --data ../shared/data
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.report import Report
from controllers.baselines.min_max import MinMaxController, MinMaxGains
from controllers.evaluation.closed_loop import close_loop, limits_of
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.namespaces import NumpyNamespace
from simulators.plant import SimulatedPlant
from simulators.steady import steady_moves
from simulators.stepping import stepper_of
from simulators.turbofan import HEALTH, Engine

Array = NDArray[np.float64]

TAKE_OFF_LBF = 50013.0
_ENGINE = Engine()
_HOT_R = 27.0
# name, output, column of the deck, relative in %, bar of the mean, bar of the largest
_DECK = (
    ("thrust Fn, %", "FN", "Fn", True, 0.45, 2.3),
    ("P3, %", "P3", "s3_Pt", True, 0.2, None),
    ("N1, %", "N1_true", "LP_Shaft_N", True, 0.41, None),
    ("N2, %", "N2_true", "HP_Shaft_N", True, 0.31, None),
    ("T45, R", "T45_true", "s45_Tt", False, 1.2, None),
    ("T4, R", "T4", "T4", False, 1.6, None),
    ("T3, R", "T3_true", "s3_Tt", False, None, None),
    ("flow W, %", "W2", "W", True, None, None),
    ("bypass ratio, %", "BPR", "BPR", True, None, None),
    ("fan surge margin, points", "SM_FAN", "Fan_SMN", False, None, None),
    ("LPC surge margin, points", "SM_LPC", "LPC_SMN", False, None, None),
    ("HPC surge margin, points", "SM_HPC", "HPC_SMN", False, None, None),
)
# k -> seconds to 95 % of take-off thrust, highest T45 R, least surge margin of the HPC %: the table to be met.
_RAMPS = {
    1.1: (np.inf, 1939.0, 19.0), 1.2: (4.80, 2179.0, 14.7), 1.3: (3.17, 2203.0, 13.0), 1.4: (2.46, 2229.0, 11.4),
    1.8: (1.54, 2352.0, 5.3),
}  # fmt: skip
_BARRED, _RAMP_S, _RAMP_BAR = (1.2, 1.4), 10.0, 0.02
# Sensor of C-MAPSS, output, change in % of the prototype this table was first made with and of FD001 at the end of its life.
_WORN = (
    ("T30", "T3_true", 0.91, 0.97), ("T50", "T5_true", 1.76, 1.86), ("P30", "P3", -0.18, -0.44),
    ("Nc", "N2_true", 0.23, 0.46), ("BPR", "BPR", 1.03, 1.21), ("W31", "W31", -0.92, -1.25),
)  # fmt: skip
_SAMPLE_S = 0.02
_DEVELOPMENT = ((-20.0, 1.0), (0.0, 1.0), (0.0, 0.98), (15.0, 0.98), (35.0, 1.0), (20.0, 0.98))  # dT R, health


def validate(report: Report, data: Path, quick: bool) -> None:
    """Add the turbofan's tables and bars. `data` holds `jt9d_npss_points.csv`; `quick` leaves the tuning table out."""
    _deck(report, data)
    _ramps(report)
    _wear(report)
    _controller(report)
    if not quick:
        _tuning(report)


def _deck(report: Report, data: Path) -> None:
    points = pl.read_csv(data / "jt9d_npss_points.csv", infer_schema_length=None).filter(pl.col("conv") == 1)
    points = points.unique(["alt", "MN", "dT", "Wfuel"], maintain_order=True)
    u, d = points.select("Wf").to_numpy(), points.select("alt", "MN", "dT").to_numpy()
    p = np.tile(Engine.p0, (len(u), 1))
    x = _ENGINE.initial(u, d, p)
    y, rows, bars = _outputs(x, u, d, p), [], []
    for name, output, column, relative, mean_bar, max_bar in _DECK:
        true = points[column].to_numpy()
        error = (y[output] / true - 1.0) * 100.0 if relative else y[output] - true
        worst = int(np.abs(error).argmax())
        mean, largest = float(np.abs(error).mean()), float(np.abs(error).max())
        where = f"{d[worst, 0]:.0f} ft, M {d[worst, 1]:.2f}, dT {d[worst, 2]:.0f}, {u[worst, 0]:.2f} lbm/s"
        rows.append([name, mean, float(error.mean()), largest, where])
        bars += [(f"mean {name}", mean, mean_bar)] if mean_bar else []
        bars += [(f"max {name}", largest, max_bar)] if max_bar else []
    report.table(
        f"turbofan: {len(u)} unique converged points of the JT9D deck, at the deck's fuel flow",
        ["quantity", "mean |error|", "bias", "largest |error|", "where"],
        rows,
    )
    report.note(
        "turbofan: five of the maps' scalars are trimmed by less than 0.1 % on these points (untrimmed, the mean errors are "
        "0.450 % of thrust, 0.314 % of N2, 1.24 R of T45). Surge margins carry no bar: the fits' surge lines differ from the deck's by the biases shown."
    )
    report.bar("turbofan: deck points solved", int(np.isfinite(x).all(axis=1).sum()), 176, at_least=True)
    for what, value, limit in bars:
        report.bar(f"turbofan: {what}", value, limit, at_least=False)


def _outputs(x: Array, u: Array, d: Array, p: Array) -> dict[str, Array]:
    return dict(zip(Engine.names.y, _ENGINE.outputs(x.T, u.T, d.T, p.T, NumpyNamespace()), strict=True))


def _at_thrust(share: float, d: Array) -> tuple[Array, Array]:
    """States and fuel of healthy engines at a share of take-off thrust."""
    p, guess = np.tile(Engine.p0, (len(d), 1)), np.full((len(d), 1), max(5.0 * share, 0.75))
    return steady_moves(
        _ENGINE, {"FN": np.full(len(d), share * TAKE_OFF_LBF)}, guess, d, p, _ENGINE.initial(guess, d, p)
    )


def _ramps(report: Report) -> None:
    """Open loop, hot day: fuel k times the steady fuel-pressure ratio of a standard day, from 15 % to take-off fuel."""
    k, n = np.array(list(_RAMPS)), len(_RAMPS)
    fuel = np.linspace(0.55, 5.4, 100)[:, None]
    steady = _ENGINE.initial(fuel, np.zeros((100, 3)), np.tile(Engine.p0, (100, 1)))
    pressure, ratio = steady[:, 4], fuel[:, 0] / steady[:, 4]
    d, p = np.tile([0.0, 0.0, _HOT_R], (n, 1)), np.tile(Engine.p0, (n, 1))
    x, top = _at_thrust(0.15, d)[0], float(_at_thrust(1.0, d[:1])[1][0, 0])
    stepper, history = stepper_of(Engine), []
    for _ in range(round(_RAMP_S / Engine.step_s)):
        u = np.minimum(top, k * np.interp(x[:, 4], pressure, ratio) * x[:, 4])[:, None]
        x, ended = stepper.advance(x, u, d, p, Engine.step_s)
        assert not ended.any(), "an engine left the envelope"
        history.append(x)
    many = np.concatenate(history)
    held = [np.tile(v, (len(history), 1)) for v in (np.full((n, 1), top), d, p)]
    y = {name: v.reshape(len(history), n) for name, v in _outputs(many, *held).items()}
    arrived = _first(y["FN"] >= 0.95 * TAKE_OFF_LBF, Engine.step_s)
    rows = []
    for i, (factor, wanted) in enumerate(_RAMPS.items()):
        got = (float(arrived[i]), float(y["T45_true"][:, i].max()), float(y["SM_HPC"][:, i].min()))
        shown = [f"{g:.4g} ({w:.4g})" if np.isfinite(g) else f"> {_RAMP_S:g}" for g, w in zip(got, wanted, strict=True)]
        rows.append([factor, *shown])
        if factor in _BARRED:
            worst = max(abs(g / w - 1.0) for g, w in zip(got, wanted, strict=True))
            report.bar(f"turbofan: ramp k = {factor}, worst relative error", worst, _RAMP_BAR, at_least=False)
    report.table(
        "turbofan: fuel-ratio ramp, hot day, 15 to 95 % of take-off thrust, new engine (in brackets: the table to be met)",
        ["k", "t95 s", "max T45 R", "min HPC surge margin %"],
        rows,
    )
    report.note(
        "turbofan: the ramp's steady ratio is that of the standard day at the same P3, and the volume behind the high-"
        "pressure compressor is the burner's, filled with gas at T4 and P4: with these two the table is met."
    )


def _first(reached: NDArray[np.bool_], step_s: float) -> Array:
    """Seconds until the first True along the first axis; infinite where there is none."""
    return np.where(reached.any(axis=0), (reached.argmax(axis=0) + 1) * step_s, np.inf)


def _worn(health: float) -> Array:
    """Parameters of an engine whose high-pressure compressor keeps `health` of its efficiency and flow."""
    p = np.array(Engine.p0)
    p[[HEALTH.index("hpc_eff"), HEALTH.index("hpc_flow")]] = health
    return p


def _wear(report: Report) -> None:
    d, p = np.array([[0.0, 0.0, _HOT_R]]), np.array([Engine.p0])
    x, u = _at_thrust(1.0, d)
    worn_x, worn_u = steady_moves(_ENGINE, {"N1_true": x[:, 0]}, u, d, _worn(0.98)[None], x)
    new, old = _outputs(x, u, d, p), _outputs(worn_x, worn_u, d, _worn(0.98)[None])
    rows, agree = [], 0
    for name, output, prototype, published in _WORN:
        change = 100.0 * float(old[output][0] / new[output][0] - 1.0)
        agree += bool(change * published > 0.0)
        rows.append([name, change, prototype, published])
    report.table(
        "turbofan: HPC efficiency and flow x 0.98 at the same N1, take-off, hot day, change in %",
        ["quantity", "here", "prototype", "C-MAPSS FD001, end of life"],
        rows,
    )
    report.bar("turbofan: degradation signs that agree", agree, len(_WORN), at_least=True)


@dataclass(frozen=True)
class Response:
    """What steps between 15 and 100 % of take-off thrust did, (batch,) each."""

    t95_s: Array  # until 95 % of the way: thrust above 95 % of take-off's, or below 20 % of it on the way down
    t45_R: Array
    hot_s: Array  # above 2150 R
    surge: Array  # least margin of any compressor, %
    overshoot: Array  # of N1 past the target, %
    ps3: Array
    restless: Array  # standard deviation of the fuel over the last 2 s, lbm/s
    end_lbf: Array


def respond(
    gains: MinMaxGains,
    days: Array,
    health: Array,
    seconds: float,
    *,
    up: bool = True,
    noise: float = 1.0,
    seed: int = 1,
) -> Response:
    """Engines (batch,) on days of `days` dT with HPCs of `health`, under the controller with sensors, lags and delay."""
    spec: PlantSpec = load_spec("turbofan").model_copy(update={"sample_time_s": _SAMPLE_S, "scan_time_s": _SAMPLE_S})
    d = np.stack([0.0 * days, 0.0 * days, days], 1)
    p = np.stack([_worn(h) for h in health])
    low, high = _at_thrust(0.15, d), _at_thrust(1.0, d)
    begin, end = (low, high) if up else (high, low)
    guess = _ENGINE.initial(begin[1], d, p)
    _, fuel = steady_moves(_ENGINE, {"N1_true": begin[0][:, 0]}, begin[1], d, p, guess)
    plant = SimulatedPlant(spec, seed, len(d), Schedule(np.zeros(1), d[None], p), noise, moves=fuel)
    limits = limits_of(spec)
    target = end[0][:, 0]
    runs = close_loop(
        MinMaxController(spec, gains), plant, np.tile(target[:, None, None], (1, round(seconds / _SAMPLE_S), 1)),
        preview=False, move_low=limits[0], move_high=limits[1], first_move=fuel.mean(0), scans=1,
    )  # fmt: skip
    assert not plant.ended.any(), "an engine left the envelope"
    y = runs.true
    arrived = (y["FN"] >= 0.95 * TAKE_OFF_LBF) if up else (y["FN"] <= 0.2 * TAKE_OFF_LBF)
    past = y["N1_true"].max(1) / target - 1.0 if up else 1.0 - y["N1_true"].min(1) / target
    return Response(
        t95_s=_first(arrived.T, _SAMPLE_S) - _SAMPLE_S,
        t45_R=y["T45_true"].max(1),
        hot_s=_SAMPLE_S * (y["T45_true"] > 2150.0).sum(1),
        surge=np.min([y[name].min(1) for name in ("SM_FAN", "SM_LPC", "SM_HPC")], axis=0),
        overshoot=100.0 * past,
        ps3=y["Ps3_true"].min(1),
        restless=y["Wf_true"][:, -100:].std(1),
        end_lbf=y["FN"][:, -250:].mean(1),
    )


def _controller(report: Report) -> None:
    rows = []
    for up, day, health in product((True, False), (0.0, _HOT_R), (1.0, 0.98)):
        r = respond(MinMaxGains(), np.array([day]), np.array([health]), 60.0 if up else 10.0, up=up)
        name = f"{'15 to 100 %' if up else '100 to 15 %'}, dT {day:.0f} R, {'new' if health == 1.0 else 'worn'}"
        values = (r.t95_s, r.t45_R, r.hot_s, r.surge, r.overshoot, r.ps3, r.end_lbf)
        rows.append([name, *(float(v[0]) for v in values)])
    report.table(
        "turbofan: min-max controller, step of the N1 target, sensors with noise and lag, delay, 20 ms (worn: HPC x 0.98)",
        ["step", "s to 95 % (down: 20 %) of take-off thrust", "max T45 R", "s above 2150 R", "min surge margin %",
         "overshoot of N1 %", "min Ps3 psia", "thrust at the end lbf"],
        rows,
    )  # fmt: skip
    report.table(
        "turbofan: min-max gains", ["gain", "value"], [[name, value] for name, value in vars(MinMaxGains()).items()]
    )
    report.note(
        "turbofan: T45 may pass through 2150..2200 R for 30 s; near its limit the regulator, fed by a noisy derivative, holds "
        "a few R below it."
    )


def tune() -> list[tuple[MinMaxGains, dict[str, float]]]:
    """108 gain sets on the development days, new and worn engines: each with what counts, the best first."""
    grid = product((1.4, 1.5, 1.6), (0.6, 0.9, 1.2), (0.3, 0.4), (0.2, 0.3, 0.45), (0.1, 0.2))
    names = ("accelerate", "speed", "speed_integral_s", "temperature", "temperature_integral_s")
    sets = [dict(zip(names, values, strict=True)) for values in grid]
    days, n = np.array(_DEVELOPMENT), len(_DEVELOPMENT)
    wide = MinMaxGains(**{name: np.repeat([s[name] for s in sets], n) for name in names})
    r = respond(wide, np.tile(days[:, 0], len(sets)), np.tile(days[:, 1], len(sets)), 16.0)
    by = {name: v.reshape(len(sets), n) for name, v in vars(r).items()}
    found = []
    for i, values in enumerate(sets):
        score = {
            "mean t95 s": by["t95_s"][i].mean(), "worst t95 s": by["t95_s"][i].max(), "max T45 R": by["t45_R"][i].max(),
            "min surge margin %": by["surge"][i].min(), "overshoot %": by["overshoot"][i].max(),
            "restless lbm/s": by["restless"][i].max(),
        }  # fmt: skip
        found.append((MinMaxGains(**values), {name: float(v) for name, v in score.items()}))
    return sorted(found, key=lambda f: (not _allowed(f[1]), f[1]["mean t95 s"]))


def _allowed(score: dict[str, float]) -> bool:
    return (
        score["max T45 R"] < 2190.0
        and score["min surge margin %"] > 11.0
        and score["overshoot %"] < 0.3
        and score["restless lbm/s"] < 0.02
    )


def _tuning(report: Report) -> None:
    found = tune()
    rows = [
        [g.accelerate, g.speed, g.speed_integral_s, g.temperature, g.temperature_integral_s, *score.values(),
         "chosen" if g == MinMaxGains() else ""]
        for g, score in found[:4]
    ]  # fmt: skip
    report.table(
        f"turbofan: the best four of {len(found)} gain sets on days of dT -20..35 R, new and worn",
        ["accelerate", "speed", "its integral s", "T45", "its integral s ", *found[0][1], ""],
        rows,
    )
