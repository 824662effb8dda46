"""`Gains`: what every MV does to every reading in the end, how sure that is, and what nobody can know from the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.9
_NOTHING = (0.02, 0.05)  # of a reading's range over a whole MV's: an effect surely below is none (grade A, B)
_SURE = (0.2, 0.5)  # half widths, of the gain (grade A, B)
_AGAINST = 0.2  # of a gain: a model whose own is that large and of the other sign contradicts it
_PARALLEL = 0.98  # cosine of two MVs' scaled gains


@dataclass(frozen=True)
class Point:
    """A usual operating point: its name, its share of the samples, and the means of readings, disturbances and moves there."""

    name: str
    share: float
    measured: Array
    dvs: Array
    moves: Array


@dataclass(frozen=True)
class Gains:
    """Of `cvs` (every reading) to `mvs`, at `points`: `gain`, `low`, `high` (n_point x n_cv x n_mv), in the CV's unit a unit of
    the MV; of an `integrating` CV (n_cv) the slope an hour, a unit. The interval holds the true gain in `LEVEL` of cases; it is
    without end where nothing can be known. `model` (same shape, NaN: none): the deployed model's own.

    `dead_s`, `settling_s` (n_cv x n_mv, NaN: not known; settling of an integrating CV is infinite); `response` (n_cv x n_mv x k)
    follows a unit step, `response_s` (n_cv) is its length. `cv_span`, `mv_span`: what gains are scaled by. `wanted` (n_cv): CVs
    that targets, zones or guardrails want something of. `unknown`: what nobody can know, `together` and `parallel`: pairs of
    MVs, each a sentence."""

    mvs: tuple[str, ...]
    cvs: tuple[str, ...]
    points: tuple[Point, ...]
    gain: Array
    low: Array
    high: Array
    model: Array
    integrating: NDArray[np.bool_]
    dead_s: Array
    settling_s: Array
    response: Array
    response_s: Array
    cv_span: Array
    mv_span: Array
    wanted: NDArray[np.bool_]
    unknown: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def against(self) -> NDArray[np.bool_]:
        """Where the model's own gain contradicts the sign that the data tell (n_point x n_cv x n_mv)."""
        known = (self.low > 0) | (self.high < 0)
        with np.errstate(invalid="ignore"):
            return known & (self.model * self.gain < 0) & (np.abs(self.model) > _AGAINST * np.abs(self.gain))

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Where the sign is known (n_point x n_cv x n_mv): the interval excludes zero, and no model says otherwise."""
        return ((self.low > 0) | (self.high < 0)) & ~self.against

    @property
    def scaled(self) -> Array:
        """Gains as shares of the CV's range over the MV's (n_point x n_cv x n_mv), 0 where the sign is not known."""
        with np.errstate(invalid="ignore"):
            return np.where(self.sure, self.gain, 0.0) * self.mv_span / self.cv_span[:, None]

    @property
    def grades(self) -> list[list[str]]:
        """A to D, at the first point (n_cv x n_mv): A and B are as sure as a controller needs them, or surely nothing; of C
        only the sign is known, of D nothing."""
        out = []
        for i in range(len(self.cvs)):
            row = []
            for j in range(len(self.mvs)):
                g, low, high = (float(a[0, i, j]) for a in (self.gain, self.low, self.high))
                half = (high - low) / 2 / max(abs(g), 1e-300)
                most = max(abs(low), abs(high)) * self.mv_span[j] / self.cv_span[i]
                grade = "D"
                if not self.against[0, i, j]:
                    if self.sure[0, i, j]:
                        grade = "A" if half <= _SURE[0] else "B" if half <= _SURE[1] else "C"
                    if not self.integrating[i] and most <= _NOTHING[1]:
                        grade = "A" if most <= _NOTHING[0] else min(grade, "B")
                row.append(grade)
            out.append(row)
        return out

    @property
    def rga(self) -> Array:
        """Relative gains of the wanted CVs (all, where none is) to the MVs (n x n_mv; Bristol 1966, by the pseudo-inverse)."""
        g = self.scaled[0][self._rows]
        return g * np.linalg.pinv(g, rcond=1e-6).T

    @property
    def _rows(self) -> NDArray[np.bool_]:
        return self.wanted if self.wanted.any() else np.ones(len(self.cvs), bool)

    @property
    def rga_cvs(self) -> tuple[str, ...]:
        """The CVs of `rga`."""
        return tuple(c for c, w in zip(self.cvs, self._rows, strict=True) if w)

    @property
    def condition(self) -> float:
        """Condition number of the same gains, scaled by ranges; infinite where some direction moves nothing, NaN without any."""
        g = self.scaled[0][self._rows]
        g = g[np.abs(g).sum(1) > 0][:, np.abs(g).sum(0) > 0]
        if not g.size:
            return math.nan
        values = np.linalg.svd(g, compute_uv=False)
        return float(values[0] / values[-1]) if values[-1] > 1e-9 * values[0] else math.inf

    @property
    def parallel(self) -> tuple[tuple[str, str], ...]:
        """Pairs of MVs that do the same, up to a factor, to everything that is known."""
        g, out = self.scaled[0][self._rows], []
        for a in range(len(self.mvs)):
            for b in range(a + 1, len(self.mvs)):
                x, y = g[:, a], g[:, b]
                size = float(np.linalg.norm(x) * np.linalg.norm(y))
                if min((x != 0).sum(), (y != 0).sum()) >= 2 and abs(float(x @ y)) > _PARALLEL * size:
                    out.append((self.mvs[a], self.mvs[b]))
        return tuple(out)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person should know, one line each."""
        said = [*self.unknown, *self.together]
        said += [
            f"{a} and {b} do the same to everything known of them: they cannot be told apart in what they reach"
            for a, b in self.parallel
        ]
        said += [
            f"{c} integrates: its gains are slopes an hour"
            for c, i in zip(self.cvs, self.integrating, strict=True)
            if i
        ]
        for i, j in np.argwhere(self.against.any(0)):
            said.append(
                f"the model's gain of {self.cvs[i]} to {self.mvs[j]} has the wrong sign: {self.model[0, i, j]:.3g} against"
                f" {self.low[0, i, j]:.3g} to {self.high[0, i, j]:.3g} in the data"
            )
        return tuple(said)

    def at(self, measured: Array, moves: Array) -> int:
        """The operating point nearest to `measured` (n_cv) and `moves` (n_mv), in shares of the tags' ranges; NaN counts not."""
        far = []
        for p in self.points:
            gap = np.concatenate([(measured - p.measured) / self.cv_span, (moves - p.moves) / self.mv_span])
            far.append(float(np.nansum(gap**2)))
        return int(np.argmin(far))

    def facts(self) -> dict[str, Any]:
        """As JSON has it: None for what is NaN, or where an interval has no end."""
        return {
            "mvs": list(self.mvs), "cvs": list(self.cvs), "level": LEVEL,
            "points": [
                {"name": p.name, "share": round(p.share, 4)}
                | {k: _plain(getattr(p, k)) for k in ("measured", "dvs", "moves")}
                for p in self.points
            ],
            **{k: _plain(getattr(self, k)) for k in _ARRAYS},
            "integrating": self.integrating.tolist(), "wanted": self.wanted.tolist(),
            "unknown": list(self.unknown), "together": list(self.together), "pairs": [list(p) for p in self.pairs],
            "grades": self.grades, "condition": _plain(np.array(self.condition)), "rga": _plain(self.rga),
        }  # fmt: skip

    @staticmethod
    def of_facts(facts: dict[str, Any]) -> Gains | None:
        """The gains in a checkpoint's facts; None where there are none."""
        found = facts.get("gains")
        if not found:
            return None
        arrays = {k: _array(found[k]) for k in _ARRAYS}
        arrays["low"] = np.where(np.isnan(arrays["low"]), -np.inf, arrays["low"])
        arrays["high"] = np.where(np.isnan(arrays["high"]), np.inf, arrays["high"])
        integrating = np.array(found["integrating"], bool)
        arrays["settling_s"] = np.where(integrating[:, None], np.inf, arrays["settling_s"])
        return Gains(
            tuple(found["mvs"]), tuple(found["cvs"]),
            tuple(
                Point(p["name"], p["share"], *(_array(p[k]) for k in ("measured", "dvs", "moves")))
                for p in found["points"]
            ),
            integrating=integrating, wanted=np.array(found["wanted"], bool), unknown=tuple(found["unknown"]),
            together=tuple(found["together"]), pairs=tuple((a, b) for a, b in found["pairs"]), **arrays,
        )  # fmt: skip


_ARRAYS = ("gain", "low", "high", "model", "dead_s", "settling_s", "response", "response_s", "cv_span", "mv_span")


def _plain(a: Array) -> Any:
    """Nested lists of five figures, None where there is no finite number."""
    if a.ndim == 0:
        return float(f"{float(a):.5g}") if np.isfinite(a) else None
    return [_plain(v) for v in a]


def _array(values: Any) -> Array:
    return np.array(values, dtype=float)  # None becomes NaN
