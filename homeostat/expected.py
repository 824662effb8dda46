"""What an identification test should do to the CVs before anything is moved: from a trained model, else from history, else unknown."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from historian import Historian
from homeostat.checkpoints import load_checkpoint
from homeostat.identification import MvTest, move_of
from models.dataset import iter_runs
from models.windows import Run
from models.world_model import WorldModel
from plant.errors import HistorianError, ModelError
from plant.spec import PlantSpec

Array = NDArray[np.float64]
log = logging.getLogger(__name__)
_SETTLED = 4  # time constants
_MOST_SAMPLES = 20_000  # of history
_FEWEST_SAMPLES = 200
_EXPLAINED = 0.1  # share of the changes that a line through history must explain before it is believed
_AHEAD = 3  # holds that a level may last


@dataclass(frozen=True)
class Expected:
    """`source` says where it comes from, 'unknown' where nobody knows. `travel`: (MV, CV) -> how far the CV goes at most from
    where it is while the MV is a step away (the CV's unit). `settling_s`: MV -> plant seconds, as history shows it."""

    source: str = "unknown"
    travel: dict[tuple[str, str], float] = field(default_factory=dict)
    settling_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lag:
    """A first-order response of one CV to one MV, as history shows it: steady `gain` (CV's unit an MV's) and time constant."""

    gain: float
    constant_s: float


def lags(spec: PlantSpec, historian: Path) -> dict[tuple[str, str], Lag]:
    """(MV, CV) -> response, fitted to what a historian holds by least squares; only pairs in which history shows one."""
    try:
        with Historian(historian, spec.name, read_only=True) as store:
            runs, size = [], 0
            for run in iter_runs(store, spec):
                runs.append(run)
                size += len(run)
                if size > _MOST_SAMPLES:
                    break
    except (HistorianError, ModelError) as e:
        log.debug("no gains from history: %s", e)
        return {}
    found = {}
    for i, cv in enumerate(spec.measured):
        for (mv, gain), constant_s in _fitted(spec, runs, i):
            found[mv, cv.name] = Lag(gain, constant_s)
    return found


def _fitted(spec: PlantSpec, runs: list[Run], i: int) -> list[tuple[tuple[str, float], float]]:
    """The first-order response of measured tag `i` to each MV that matters to it."""
    rows, changes = [], []
    for run in runs:
        y = run.measured[:, i]
        rows.append(np.column_stack([y[:-1], run.applied[1:], run.dvs[:-1], np.ones(len(y) - 1)]))
        changes.append(np.diff(y))
    x, dy = (np.concatenate(rows), np.concatenate(changes)) if rows else (np.empty((0, 1)), np.empty(0))
    usable = np.isfinite(x).all(1) & np.isfinite(dy)
    x, dy = x[usable], dy[usable]
    if len(dy) < _FEWEST_SAMPLES:
        return []
    scale = np.maximum(x.std(0), 1e-300)
    scale[-1] = 1.0
    fit, *_ = np.linalg.lstsq(x / scale, dy, rcond=None)
    left = dy - x / scale @ fit
    if not dy.var() > 0 or 1 - left.var() / dy.var() < _EXPLAINED:
        return []
    pull = fit[0] / scale[0]
    if not -1 < pull < 0:
        return []
    constant_s = -spec.sample_time_s / math.log(1 + pull)
    unsure = left.std() / math.sqrt(len(dy))
    return [
        ((mv.name, -fit[1 + j] / scale[1 + j] / pull), constant_s)
        for j, mv in enumerate(spec.mvs)
        if abs(fit[1 + j]) > 4 * unsure
    ]


def settling(found: dict[tuple[str, str], Lag]) -> dict[str, float]:
    """MV -> how long the slowest CV it moves takes to settle, plant seconds."""
    settled: dict[str, float] = {}
    for (mv, _), lag in found.items():
        settled[mv] = max(settled.get(mv, 0.0), _SETTLED * lag.constant_s)
    return settled


def expected(
    spec: PlantSpec, tests: tuple[MvTest, ...], found: dict[tuple[str, str], Lag], data_dir: Path | None
) -> Expected:
    """What `tests` should do, by the model in `data_dir` or the shipped one, else by the responses found in history."""
    try:
        checkpoint = load_checkpoint(spec, None, data_dir)
        return Expected("the trained model's roll-out", _rolled(spec, checkpoint.model, tests), settling(found))
    except ModelError as e:
        log.debug("no roll-out of a model: %s", e)
    if not found:
        return Expected()
    travel = {
        (test.mv, cv): abs(lag.gain) * _step(spec, test) * (1 - math.exp(-_AHEAD * test.hold_s / lag.constant_s))
        for test in tests
        for (mv, cv), lag in found.items()
        if mv == test.mv
    }
    return Expected("responses found in history", travel, settling(found))


def _step(spec: PlantSpec, test: MvTest) -> float:
    """How far an MV goes from its usual value at most."""
    start = spec.tag(test.mv).nominal
    return max(abs(test.towards(start, move_of(spec.tag(test.mv)), side) - start) for side in (-1.0, 1.0))


@torch.inference_mode()
def _rolled(spec: PlantSpec, model: WorldModel, tests: tuple[MvTest, ...]) -> dict[tuple[str, str], float]:
    """How far each CV goes when one MV after another stands a step to either side of its usual value, from rest."""
    usual = [[t.nominal for t in tags] for tags in (spec.measured, spec.dvs, spec.mvs)]
    row = torch.tensor([*usual[0], *usual[1], *usual[2]], dtype=torch.float32)
    rest, dvs = torch.tensor([usual[2]], dtype=torch.float32), torch.tensor([usual[1]], dtype=torch.float32)
    start = model.encode(row.repeat(1, model.config.window, 1))
    travel = {}
    for test in tests:
        count = min(max(1, round(_AHEAD * test.hold_s / spec.sample_time_s)), 200)
        j = [t.name for t in spec.mvs].index(test.mv)
        most = torch.zeros(len(spec.measured))
        for side in (-1.0, 1.0):
            moved = rest.clone()
            moved[0, j] = test.towards(usual[2][j], move_of(spec.tag(test.mv)), side)
            z, still = start, start
            for _ in range(count):
                z, still = model.advance(z, moved, dvs), model.advance(still, rest, dvs)
                most = torch.maximum(most, (model.read_out(z) - model.read_out(still))[0].abs())
        travel |= {(test.mv, cv.name): float(v) for cv, v in zip(spec.measured, most, strict=True)}
    return travel
