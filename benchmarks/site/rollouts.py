"""Roll-outs of every deployed model over ten times its horizon, from all corners of its data, with moves and disturbances at their
limits: where do they end?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from benchmarks.outcomes import Outcome, none, shown
from benchmarks.site.bench import Bench
from benchmarks.site.errors import asked
from models.rivals.latent import LatentForecaster

TITLE = "Roll-outs over ten horizons with moves at their limits"
TIMES, RANGES, STARTS = 10, 3.0, 256


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {
        f"{plant}, {hours:g} h": lambda plant=plant, hours=hours, folds=folds: case(bench, plant, hours, folds)
        for hours, folds in bench.settings.folds
        for plant in bench.plants
    }


def case(bench: Bench, plant: str, hours: float, folds: int) -> list[Outcome]:
    """The models of so many folds of one plant's history; the windows are those of its held-out time."""
    left = worst = 0.0
    for fold in range(folds):
        model = bench.model(plant, hours, fold).model
        spec, steps = bench.spec(plant), TIMES * model.config.horizon
        rng = np.random.default_rng(fold)
        questions = asked(bench.runs(plant, hours, fold, held=True))
        chosen = rng.permutation(len(questions.u))[:STARTS]
        windows = questions.window[torch.tensor(chosen)]
        low, high = np.array([t.move.limits for t in spec.mvs if t.move]).T
        held = low + (high - low) * rng.integers(0, 2, (len(chosen), 1, len(low)))  # a third stays in one corner
        jumps = low + (high - low) * rng.integers(0, 2, (len(chosen), steps, len(low)))
        third = (np.arange(len(chosen)) % 3 == 0)[:, None, None]
        u = torch.tensor(np.where(third, np.repeat(held, steps, 1), jumps))
        data = bench.runs(plant, hours, fold)
        d = np.concatenate([r.dvs for r in data])
        ends = np.stack([np.nanmin(d, 0), np.nanmax(d, 0)]) if d.shape[1] else np.zeros((2, 0))
        side = rng.integers(0, 2, (len(chosen), 1, d.shape[1]))
        d = torch.tensor(np.repeat(np.where(side == 1, ends[1], ends[0]), steps, 1))
        with torch.inference_mode():
            y = LatentForecaster(model).eval().rollout(windows, u, d).double().numpy()
        seen = np.concatenate([r.measured for r in data])
        least, most = np.nanmin(seen, 0), np.nanmax(seen, 0)
        away = np.abs(y - (least + most) / 2) / ((most - least) / 2)  # 1: at an end of the range
        away = np.where(np.isfinite(away), away, np.inf)
        left += int((away.max((1, 2)) > RANGES * (1 + 1e-3)).sum())
        worst = max(worst, float(away.max()))
    return [
        none("roll-outs that leave 3 x the range of their data", left),
        shown("farthest, in ranges", worst),
    ]
