"""Linear programmes one after another: none gives up what the ones before have kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog

from controllers.contracts import Array

_KEEPS = 1e-7  # scales by which what was kept may be given up: rounding
_SHORT = 1e-4  # scales: less is not missed
_HOLDS = 1e-6  # of the largest multiplier
_STILL = 1e-3  # of the largest price over an MV's limits: what any move costs beside prices, so that nothing moves for nothing


@dataclass(frozen=True)
class Row:
    """low <= slope @ x <= high, softly: what is missing counts in units of `scale`. `name` in words, `tag` what it is of ('': none)."""

    name: str
    tag: str
    slope: Array
    low: float
    high: float
    scale: float


@dataclass(frozen=True)
class Answer:
    """`x` (n), its `cost` above that of x = 0; `fights`: rows that are not kept, by how much of their tag's unit, and beside what;
    `shadows`: rows and limits that hold the cost, and what a unit of room at each gives."""

    x: Array
    cost: float
    fights: list[tuple[Row, float, tuple[str, ...]]]
    shadows: list[tuple[Row, float]]


@dataclass
class Programme:
    """In moves x (n) between `least` and `most`, each with a span and a name; rows by rank, the lowest first."""

    least: Array
    most: Array
    span: Array
    names: list[str]
    _rows: list[tuple[int, Row]] = field(default_factory=list)
    _more: Array = field(default_factory=lambda: np.zeros(0))
    _less: Array = field(default_factory=lambda: np.zeros(0))
    _rest: Array = field(default_factory=lambda: np.zeros(0))

    def add(self, rank: int, row: Row) -> None:
        """One more row."""
        self._rows.append((rank, row))

    def price(self, more: Array, less: Array) -> None:
        """What a unit up and a unit down of each x costs; both may cost, where nobody knows which way pays."""
        self._more, self._less = more, less

    def rests(self, rest: Array) -> None:
        """Where x would be if nothing asked it to be elsewhere (n), NaN: at 0."""
        self._rest = rest

    def solve(self) -> Answer:
        """The ranks in order, then the prices, then the distance to where x rests."""
        n, rows = len(self.least), [r for _, r in self._rows]
        ranks = sorted({k for k, _ in self._rows})
        # Unknowns: x = span * (up - down), and what is missing below and above each row, in its scales.
        size, m = 2 * n + 2 * len(rows), len(rows)
        room = np.maximum(np.concatenate([self.most, -self.least]), 0.0) / np.tile(self.span, 2)
        bounds = [*((0.0, float(v)) for v in room), *[(0.0, None)] * (2 * m)]
        a, b, which = [], [], []
        for k, row in enumerate(rows):
            for side, end in ((1.0, row.high), (-1.0, -row.low)):
                if np.isfinite(end):
                    line = np.zeros(size)
                    slope = side * row.slope * self.span / row.scale
                    line[:n], line[n : 2 * n] = slope, -slope
                    line[2 * n + k + (m if side > 0 else 0)] = -1.0
                    a.append(line)
                    b.append(end / row.scale)
                    which.append((k, side))
        fights: list[tuple[Row, float, tuple[str, ...]]] = []
        for rank in ranks:
            cost = np.zeros(size)
            mine = [k for k, (r, _) in enumerate(self._rows) if r == rank]
            for k in mine:
                cost[[2 * n + k, 2 * n + m + k]] = 1.0
            found = linprog(cost, np.array(a) if a else None, b or None, bounds=bounds, method="highs")
            if found.x is None:
                break
            missing = found.x[2 * n : 2 * n + m] + found.x[2 * n + m :]
            for k in mine:
                if missing[k] > _SHORT:
                    beside = self._beside(found, which, rows, k, n)
                    fights.append((rows[k], float(missing[k] * rows[k].scale), beside))
            a.append(cost)
            b.append(float(cost @ found.x) + _KEEPS)
            which.append((-1, 0.0))
        more, less = self._more, self._less
        cost = np.concatenate([more * self.span, less * self.span, np.zeros(2 * m)])
        biggest = float(np.abs(cost).max(initial=0.0))
        if biggest > 0:
            cost[: 2 * n] += _STILL * biggest
        shadows, x = [], np.zeros(n)
        found = linprog(cost, np.array(a) if a else None, b or None, bounds=bounds, method="highs")
        if found.x is not None and biggest > 0:
            shadows = self._shadows(found, which, rows, n, biggest)
            a.append(cost)
            b.append(float(cost @ found.x) + _KEEPS * biggest)
        if found.x is not None:
            found = self._nearest(a, b, bounds, n, size)
        if found.x is not None:
            x = (found.x[:n] - found.x[n : 2 * n]) * self.span
        return Answer(x, float(more @ np.maximum(x, 0) + less @ np.maximum(-x, 0)), fights, shadows)

    def _nearest(self, a: list[Array], b: list[float], bounds: list, n: int, size: int):
        """The last programme: of what is left, the x nearest to where it rests, in spans."""
        rest = np.where(np.isfinite(self._rest), self._rest, 0.0)
        rest = np.clip(rest, self.least, self.most) / self.span
        wide = np.zeros((2 * n, size + n))  # one more unknown an x: its distance
        limits = np.zeros(2 * n)
        for j in range(n):
            for s, side in enumerate((1.0, -1.0)):
                row = 2 * j + s
                wide[row, j], wide[row, n + j], wide[row, size + j] = side, -side, -1.0
                limits[row] = side * rest[j]
        before = np.array(a) if a else np.zeros((0, size))
        table = np.concatenate([np.pad(before, ((0, 0), (0, n))), wide])
        cost = np.concatenate([np.zeros(size), np.ones(n)])
        return linprog(cost, table, [*b, *limits], bounds=[*bounds, *[(0.0, None)] * n], method="highs")

    def _beside(self, found, which: list, rows: list[Row], k: int, n: int) -> tuple[str, ...]:
        """What a row of the programme just solved cannot be kept beside: other rows and limits whose multipliers are not 0."""
        weights = np.abs(found.ineqlin.marginals)
        names = [rows[i].name for (i, _), w in zip(which, weights, strict=True) if i >= 0 and i != k and w > _HOLDS]
        lower, upper = np.abs(found.upper.marginals[:n]), np.abs(found.upper.marginals[n : 2 * n])
        for j, name in enumerate(self.names):
            if self.most[j] > 0 or self.least[j] < 0:
                names += [f"the high limit of {name}"] if lower[j] > _HOLDS else []
                names += [f"the low limit of {name}"] if upper[j] > _HOLDS else []
        return tuple(dict.fromkeys(names))

    def _shadows(self, found, which: list, rows: list[Row], n: int, biggest: float) -> list[tuple[Row, float]]:
        """What holds the cost: each row at an end, each limit, with what a unit of room gives."""
        out = []
        for (k, side), weight in zip(which, -found.ineqlin.marginals, strict=True):
            if k >= 0 and weight > _HOLDS * biggest:
                end = "high" if side > 0 else "low"
                row = rows[k]
                name = row.name if row.name.startswith("guardrail") else f"the {end} of {row.name}"
                out.append((Row(name, row.tag, row.slope, row.low, row.high, row.scale), float(weight / row.scale)))
        for side, weights in (("high", found.upper.marginals[:n]), ("low", found.upper.marginals[n : 2 * n])):
            for j, weight in enumerate(-weights):
                if weight > _HOLDS * biggest and (self.most[j] > 0 or self.least[j] < 0):
                    name = f"the {side} limit of {self.names[j]}"
                    out.append((Row(name, self.names[j], np.zeros(n), 0.0, 0.0, 1.0), float(weight / self.span[j])))
        return out
