"""Component maps: tensor-Chebyshev polynomials of corrected speed and R-line (compressors) or pressure ratio (turbines),
fitted to the maps of NASA T-MATS' public JT9D deck (Apache-2.0)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from simulators.contract import Namespace

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Map:
    """One component. `x`, `y` are the ranges of the fit, `scale_*` the deck's scalars, the tables powers of the
    normalised x (rows) and y. Outside `x_kept`, `y_kept` the maps are held at that edge."""

    x: tuple[float, float]
    y: tuple[float, float]
    tables: dict[str, Table]
    scale_flow: float
    scale_pressure: float
    scale_efficiency: float
    scale_speed: float

    def at(self, names: tuple[str, ...], x: Any, y: Any, xp: Namespace) -> tuple:
        """The named tables at (x, y)."""
        s, t = _normal(x, self.x, xp), _normal(y, self.y, xp)
        return tuple(_horner([_horner(row, t) for row in self.tables[name]], s) for name in names)


# How far outside its fit a map is believed, in half widths: the deck's own idle points reach 1.24 (low-pressure turbine).
BEYOND = 1.35


# Scalars trimmed by less than a thousandth, which takes out part of the fits' mean error over the deck's 176 points: without
# it the means are thrust 0.450 %, N2 0.314 %, T45 1.24 R; with it 0.434 %, 0.271 %, 1.19 R (benchmarks/validation).
_TRIM = {
    ("fan", "flow"): 1.0002,
    ("fan", "efficiency"): 1.0005,
    ("lpc", "speed"): 0.9992,
    ("hpc", "speed"): 0.9995,
    ("hpt", "flow"): 1.0004,
}


def _normal(v: Any, bounds: tuple[float, float], xp: Namespace) -> Any:
    low, high = bounds
    half = 0.5 * (high - low)
    return xp.minimum(xp.maximum((v - (low + half)) * (1.0 / half), -BEYOND), BEYOND)


def _horner(coefficients: Any, x: Any) -> Any:
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


@dataclass(frozen=True)
class Data:
    """What the data file holds."""

    cp: tuple[float, ...]
    maps: dict[str, Map]


@cache
def data() -> Data:
    """The engine's maps and gas polynomial, read once."""
    raw = json.loads((resources.files("simulators.turbofan") / "jt9d_maps.json").read_text(encoding="utf-8"))
    maps = {}
    for name, m in raw["maps"].items():
        tables = {k: _powers(np.array(v)) for k, v in m.items() if k not in "xy"}
        s = {k: v * _TRIM.get((name, k), 1.0) for k, v in raw["scalars"][name].items()}
        scales = s["flow"], s["pressure"], s["efficiency"], s["speed"]
        maps[name] = Map(tuple(m["x"]), tuple(m["y"]), tables, *scales)
    return Data(tuple(raw["cp_BTU_per_lbm_R"]), maps)


def _powers(coefficients: np.ndarray) -> Table:
    """Chebyshev coefficients (x rows, y columns) as powers: of degree 5 on [-1, 1], nothing is lost."""
    by_y = np.array([chebyshev.cheb2poly(row) for row in coefficients])
    both = np.array([chebyshev.cheb2poly(column) for column in by_y.T]).T
    return tuple(tuple(float(c) for c in row) for row in both)
