"""Which MVs the data can tell anything of: those that moved, enough, and not only with another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.windows import Run
from plant.spec import PlantSpec

Array = NDArray[np.float64]

_STILL = 1e-4  # of an MV's limits: less is no move
_LITTLE = 0.01  # of an MV's limits, from the 1 % to the 99 % point
_FEW = 3  # moves
_TOGETHER = 0.97  # correlation of levels and of changes
_TELLS = 0.5  # correlation of one that is named
_CHANGE = 10  # samples over which changes are compared: an MV may follow another a little later


@dataclass(frozen=True)
class Moves:
    """`blind` (n_mv): MVs whose gains nobody can know; `left_out` (n_mv): those that a fit cannot have beside the others.
    `unknown`, `together`: sentences; `pairs`: MVs that only ever moved together."""

    blind: NDArray[np.bool_]
    left_out: NDArray[np.bool_]
    unknown: tuple[str, ...]
    together: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def moves_of(spec: PlantSpec, runs: Sequence[Run]) -> Moves:
    """What the moves of `runs` allow to be known."""
    n = len(spec.mvs)
    levels = np.concatenate([np.concatenate([r.applied, r.dvs], 1) for r in runs])
    parts = [np.concatenate([r.applied, r.dvs], 1) for r in runs if len(r) > _CHANGE]
    change = np.concatenate([p[_CHANGE:] - p[:-_CHANGE] for p in parts]) if parts else levels[:0]
    blind, left_out, unknown = np.zeros(n, bool), np.zeros(n, bool), []
    for j, tag in enumerate(spec.mvs):
        assert tag.move is not None
        u = levels[np.isfinite(levels[:, j]), j]
        steps = np.abs(np.diff(u)) > _STILL * tag.move.span
        reach = float(np.ptp(np.quantile(u, [0.01, 0.99]))) / tag.move.span if len(u) else 0.0
        why = ""
        if not steps.any():
            why = f"{tag.name} never moved"
        elif steps.sum() < _FEW:
            why = f"{tag.name} moved only {int(steps.sum())} times"
        elif reach < _LITTLE:
            why = f"{tag.name} moved by only {100 * reach:.2g} % of its limits"
        if why:
            unknown.append(f"{why}: nobody can know its gains; test it")
            blind[j] = left_out[j] = True
    together, pairs = [], []
    for a in range(n):
        for b in range(a + 1, n):
            if (
                not (left_out[a] or left_out[b])
                and min(abs(_correlation(p[:, a], p[:, b])) for p in (levels, change)) > _TOGETHER
            ):
                pairs.append((spec.mvs[a].name, spec.mvs[b].name))
                left_out[b] = blind[a] = blind[b] = True
    together += [
        f"{a} and {b} only ever moved together: nobody can know which of them does what; test one alone"
        for a, b in pairs
    ]
    names = [t.name for t in (*spec.mvs, *spec.dvs)]
    for j in range(n):
        if left_out[j]:
            continue
        others = [k for k in range(len(names)) if k != j and not (k < n and left_out[k])]
        if others and min(_explained(p[:, j], p[:, others]) for p in (levels, change)) > _TOGETHER**2:
            used = [
                names[k] for k in others if max(abs(_correlation(p[:, j], p[:, k])) for p in (levels, change)) > _TELLS
            ]
            together.append(
                f"{names[j]} only ever moved as {' and '.join(used) or 'the others'} did: nobody can know its own gains; test it alone"
            )
            left_out[j] = blind[j] = True
    return Moves(blind, left_out, tuple(unknown), tuple(together), tuple(pairs))


def _explained(y: Array, x: Array) -> float:
    """Share of the variance of `y` (n) that `x` (n x any) explains."""
    good = np.isfinite(y) & np.isfinite(x).all(1)
    y, x = y[good] - y[good].mean() if good.any() else y[good], x[good]
    if len(y) < 3 * x.shape[1] or not y.std() > 0:
        return 0.0
    x = x - x.mean(0)
    left = y - x @ np.linalg.lstsq(x, y, rcond=1e-10)[0]
    return 1.0 - float(left @ left) / float(y @ y)


def _correlation(x: Array, y: Array) -> float:
    """Of what is known of both; 0 where one of them does not change."""
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(x) < 3 or not (x.std() > 0 and y.std() > 0):
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
