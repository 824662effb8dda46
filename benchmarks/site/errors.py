"""How far the deployed model is off k samples ahead on time it never saw, over the better of the two linear models that an engineer would
fit to the same data, and what margin each of them would have to keep.

Errors are of what instruments read, mean over tags, each in the deviations of the training data; only moves that are known count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.outcomes import Outcome, shown
from benchmarks.site.bench import LINEAR, Bench
from benchmarks.world_model_scores import STEPS, Questions, answers, plain, squared_errors
from models.rivals.contract import Forecaster
from models.rivals.latent import LatentForecaster
from models.windows import Run
from plant.errors import ModelError

Array = NDArray[np.float64]
TITLE = "k-step error of the deployed model over the better of ARX and subspace"
WORST, MEAN_15, MARGIN = 1.01, 0.97, 0.8
# What a margin is asked of: the limit that each plant lives with.
LIMITED = {
    "reactor": ("operating_temperature",),
    "vandevusse": ("high_temperature",),
    "tanks_minimum": ("overflow_1", "overflow_2"),
    "tanks_nonminimum": ("overflow_1", "overflow_2"),
    "column": ("distillate", "bottoms"),
}
MARGIN_STEP, MARGIN_SHARE = 15, 0.99
_AT_15 = "mean over folds at k = 15"
_WINDOW = 24  # samples of history that every model may look back


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {
        f"{plant}, {hours:g} h": lambda plant=plant, hours=hours, folds=folds: case(bench, plant, hours, folds)
        for hours, folds in bench.settings.folds
        for plant in bench.plants
    }


def overall(found: Mapping[str, list[Outcome]]) -> list[Outcome]:
    """Over all plants and amounts."""
    values = [o.value for outcomes in found.values() for o in outcomes if o.what == _AT_15]
    return [Outcome(_AT_15, float(np.mean(values)), MEAN_15)] if values else []


def case(bench: Bench, plant: str, hours: float, count: int) -> list[Outcome]:
    """So many folds of one plant's history of so many hours."""
    folds = [Fold(bench, plant, hours, fold) for fold in range(count)]
    ratios = np.array([f.ratio for f in folds])  # folds x steps
    at = STEPS.index(15)
    per_step = ", ".join(f"k {k}: {r:.3f}" for k, r in zip(STEPS, np.nanmean(ratios, 0), strict=True))
    winners = ", ".join(dict.fromkeys(f.winner for f in folds))
    said = "; ".join(f"{name} {np.mean([f.errors[name][at] for f in folds]):.3g}" for name in folds[0].errors)
    outcomes = [
        Outcome("worst fold and step", float(np.nanmax(ratios)), WORST, note=f"{count} folds, means {per_step}"),
        shown(_AT_15, float(np.nanmean(ratios[:, at])), f"errors {said}; chosen: {winners}"),
    ]
    for name in LIMITED[plant]:
        margins = np.array([f.margins[name] for f in folds])  # folds x (deployed, ARX)
        mine, arx = margins.mean(0)
        note = f"{mine:.3g} against {arx:.3g}"
        outcomes.append(Outcome(f"99 % margin to {name} at k = 15 over ARX's", float(mine / arx), MARGIN, note=note))
    return outcomes


class Fold:
    """One fold held out: `errors` name -> a number for each of `STEPS`, `ratio` (steps,) of the deployed model's over the better linear
    one's, `margins` guardrail -> what all but a hundredth of the errors need, of the deployed model and of ARX, `winner` in words."""

    def __init__(self, bench: Bench, plant: str, hours: float, fold: int) -> None:
        checkpoint = bench.model(plant, hours, fold)
        self.winner = str(checkpoint.facts["choice"]["winner"])
        models: dict[str, Forecaster] = {"deployed": LatentForecaster(checkpoint.model).eval()}
        for name in LINEAR:
            try:
                models[name] = bench.rival(name, plant, hours, fold)
            except ModelError:  # too few whole windows for it
                continue
        spec, runs = bench.spec(plant), bench.runs(plant, hours, fold, held=True)
        learned = np.concatenate([r.measured for r in bench.runs(plant, hours, fold)])
        std = np.nanstd(learned, axis=0)
        questions = asked(runs)
        found = {name: answers(model, questions) for name, model in models.items()}
        self.errors = {
            name: [float((squared_errors(guess, questions, k).sqrt().numpy() / std).mean()) for k in STEPS]
            for name, guess in found.items()
        }
        rivals = np.array([self.errors[name] for name in LINEAR if name in self.errors])
        self.ratio = np.array(self.errors["deployed"]) / (rivals.min(0) if len(rivals) else np.nan)
        names = [t.name for t in spec.measured]
        self.margins = {}
        for guard in spec.guardrails:
            if guard.name in LIMITED[plant]:
                column = names.index(guard.tag)
                pair = [needed(found[m], questions, column, guard.sign) for m in ("deployed", "arx") if m in found]
                self.margins[guard.name] = [*pair, np.nan][:2]


def asked(runs: list[Run]) -> Questions:
    """What every model is asked of `runs`."""
    return Questions.of(plain(runs), _WINDOW)


def needed(guess: torch.Tensor, questions: Questions, column: int, sign: float) -> float:
    """By how much (tag's unit) all but a hundredth of the readings came nearer to the limit than foretold `MARGIN_STEP` samples before."""
    k = MARGIN_STEP - 1
    error = sign * (questions.truth[:, k, column] - guess[:, k, column])[questions.counted[:, k]]
    return float(np.nanquantile(error.numpy(), MARGIN_SHARE))
