"""Gains that a model believes in: what it foretells long after a small step of each move, at usual operating points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.gains import Array, Point
from models.rivals.contract import Forecaster
from models.windows import Run

_WINDOWS = 12  # real windows near an operating point, whose gains are averaged
_LOOKED_AT = 2000  # windows among which those are found
_STEP = 0.5  # of a move's deviation, to both sides
_LENGTH = (30, 240)  # samples a step is followed for, at least and at most


def model_gains(
    model: Forecaster, runs: Sequence[Run], points: Sequence[Point], integrating: NDArray[np.bool_], settling_s: float
) -> Array:  # fmt: skip
    """The gains of `model` (n_point x n_cv x n_mv), tag units, after `settling_s`; of what integrates the slope an hour. NaN
    where it has run away, or where no whole window is known."""
    spec, length, n_u = model.spec, model.config.window, len(model.spec.mvs)
    steps = int(np.clip(round(settling_s / spec.sample_time_s), *_LENGTH))
    found = _windows(runs, length)
    out = np.full((len(points), len(spec.measured), n_u), np.nan)
    if not len(found):
        return out
    mean, std = (v.double().cpu().numpy() for v in (model.channel_mean, model.channel_std))
    n_y, n_d = len(spec.measured), len(spec.dvs)
    size = _STEP * std[n_y + n_d : n_y + n_d + n_u]
    now = np.where(np.isfinite(found), found, mean[: found.shape[-1]]).mean(1)
    for p, point in enumerate(points):
        centre = np.concatenate([point.measured, point.dvs, point.moves])
        far = (((now - centre) / std[: len(centre)]) ** 2).sum(1)
        near = found[np.argsort(far, kind="stable")[:_WINDOWS]]
        last = near[:, -1]
        u = np.repeat(last[:, None, n_y + n_d :], steps, 1)
        d = np.repeat(np.where(np.isfinite(last), last, centre)[:, None, n_y : n_y + n_d], steps, 1)
        ends = np.stack([_ends(model, near, u, d, j, size[j], steps, spec.sample_time_s) for j in range(n_u)], -1)
        late, slope = ends.mean(1)
        out[p] = np.where(integrating[:, None], slope, late)
    return out


def _windows(runs: Sequence[Run], length: int) -> Array:
    """Windows (n x length x channels), spread over `runs`, whose moves are known."""
    total = sum(max(len(r) - length, 0) for r in runs)
    every, found = max(1, total // _LOOKED_AT), []
    for run in runs:
        rows = np.concatenate([run.measured, run.dvs, run.applied], 1)
        for end in range(length, len(rows), every):
            if (
                np.isfinite(run.applied[end - length : end]).all()
                and np.isfinite(run.measured[end - length : end]).any()
            ):
                found.append(rows[end - length : end])
    return np.array(found)


def _ends(
    model: Forecaster, window: Array, u: Array, d: Array, j: int, size: float, steps: int, sample_s: float
) -> Array:  # fmt: skip
    """What a unit of move `j` makes of each reading at the end, and how fast it still changes an hour (2 x batch x n_cv)."""
    ends = []
    for sign in (1, -1):
        moved = u.copy()
        moved[..., j] += sign * size
        with torch.no_grad():
            y = model.rollout(*(torch.tensor(a, dtype=torch.float32) for a in (window, moved, d)))
        ends.append(y.double().cpu().numpy())
    response = (ends[0] - ends[1]) / (2 * size)
    response[~np.isfinite(response).all(1, keepdims=True).repeat(steps, 1)] = np.nan
    half = steps // 2
    return np.stack([response[:, -1], (response[:, -1] - response[:, half - 1]) / ((steps - half) * sample_s / 3600.0)])
