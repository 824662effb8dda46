"""The deployed model's k-step error over that of the recipe before there were candidates: the world model from scratch, window 8,
4,000 steps, on the same runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.outcomes import Outcome, shown
from benchmarks.site.bench import Bench
from benchmarks.site.errors import asked
from benchmarks.world_model_scores import STEPS, nrmse
from models.config import ModelConfig
from models.rivals.latent import LatentForecaster
from models.training import train

TITLE = "k-step error of the deployed model over the world model from scratch"
FOLD = 0


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    hours = bench.settings.most
    return {f"{plant}, {hours:g} h": lambda plant=plant: case(bench, plant, hours) for plant in bench.plants}


def case(bench: Bench, plant: str, hours: float) -> list[Outcome]:
    """One fold of one plant's history."""
    spec, parts = bench.spec(plant), bench.split(plant, hours, FOLD)
    world = train(spec, parts.training, parts.validation, ModelConfig(), bench.training())
    std = np.nanstd(np.concatenate([r.measured for r in bench.runs(plant, hours, FOLD)]), axis=0)
    questions = asked(bench.runs(plant, hours, FOLD, held=True))
    models = {"deployed": bench.model(plant, hours, FOLD).model, "scratch": world}
    found = {name: np.array(nrmse(LatentForecaster(m).eval(), questions, std)).mean(1) for name, m in models.items()}
    ratios = found["deployed"] / found["scratch"]
    said = ", ".join(f"k {k}: {r:.3f}" for k, r in zip(STEPS, ratios, strict=True))
    return [shown("at k = 15", float(ratios[STEPS.index(15)]), said)]
