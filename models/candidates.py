"""Several models of one plant, and the one that errs least on held-out time: persistence, ARX, subspace, the trunk, and the world
model from scratch. A linear winner is a world model like any other, whose networks have learned nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.bench import LINEAR, Bench, Candidate, steps_of
from models.bounded import REACH, bounded, reach
from models.config import ModelConfig, TrainingConfig
from models.folds import FOLDS, held_out, in_time
from models.rivals.contract import Forecaster
from models.rivals.latent import LatentForecaster
from models.rivals.stretches import Stretches, k_step, some_of, whole
from models.training import Report, endangered, train
from models.trunk import learn_heads
from models.windows import Run, WindowSet, usual_of
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

SCRATCH = "scratch"
_SCRATCH_FROM = 50_000  # samples: with fewer the world model from scratch has never been the best
_ALIKE = 0.005  # a smaller difference is none
_FOLDED_BELOW = 20_000  # samples: with fewer each fold of them is held out once
_STARTS = 3000  # held-out starts that errors are measured from
_AHEAD = 10  # horizons over which a roll-out must stay within the data's reach


@dataclass(frozen=True)
class Choice:
    """The model chosen, all that were tried, simplest first, and why in words."""

    model: WorldModel
    name: str
    said: str
    tried: tuple[Candidate, ...]

    @property
    def inverse(self) -> bool:
        """Whether it learned to tell moves from latents: only the one from scratch needs to."""
        return self.name.startswith(SCRATCH)

    def facts(self, test: Sequence[Run]) -> dict[str, Any]:
        """For a checkpoint: who won, and what each erred on held-out time and, so many samples ahead, on `test` runs, which
        chose nothing: in shares of a standard deviation, mean over tags."""
        steps = steps_of(test)
        rows = []
        for c in self.tried:
            errors = errors_of(LatentForecaster(c.model.eval()), test, steps).nanmean(1)
            said = "; ".join(text for text in (c.said, c.out and f"out: {c.out}") if text)
            rows.append(
                {
                    "name": c.name,
                    "held_out": round(c.score, 4),
                    "test": [round(float(v), 4) for v in errors],
                    "seconds": round(c.seconds, 1),
                    "said": said,
                }
            )
        return {"winner": self.name, "said": self.said, "steps": list(steps), "candidates": rows}


def choose(
    spec: PlantSpec,
    runs: Sequence[Run],
    validation: Sequence[Run],
    config: ModelConfig,
    training: TrainingConfig,
    report: Report | None = None,
    stage: Callable[[str], None] = lambda text: None,
    state: Path | None = None,
    folder: Path | None = None,
) -> Choice:
    """Train every candidate and choose by the error on held-out time. Where there are few data, each fold of `runs` and
    `validation` runs is held out once, and what was best is trained again on all of them; else `validation` runs are held
    out. Simulated incidents among `runs` teach the guardrail heads alone. From scratch is tried, with windows as configured
    and twice as long, where there are data enough for it. Raises `ModelError` when nobody can be trained, or every model
    leaves what the data know."""
    torch.manual_seed(training.seed)
    usual, held = in_time(usual_of(runs)), in_time(usual_of(validation))
    size = sum(map(len, usual))
    names = training.candidates or (*LINEAR, *(["scratch"] if size >= _SCRATCH_FROM else []))
    folded = size < _FOLDED_BELOW and "scratch" not in names
    pool = in_time([*usual, *held]) if folded else usual
    splits = [held_out(pool, spec.sample_time_s, f) for f in range(FOLDS)] if folded else [(usual, held)]
    splits = [([r for r in a if len(r) > 2], [r for r in b if len(r) > 2]) for a, b in splits]
    splits = [(a, b) for a, b in splits if a and b] or [(usual, held)]
    tried: list[Candidate] = []
    refused: list[str] = []
    if any(name in LINEAR for name in names):
        shape = config.model_copy(update={"window": 2 * config.window})
        bench = Bench(spec, shape, training, pool, splits, folded, folder, stage)
        tried += [c for c in bench.candidates(refused) if c.name in names]
    if "scratch" in names:
        for window in (config.window, 2 * config.window):
            stage(f"trying {SCRATCH}, window {window}")
            began, shape = time.perf_counter(), config.model_copy(update={"window": window})
            place = None if folder is None else folder / f"scratch{window}"
            kept = None if state is None else state.with_name(f"{state.name}.{window}")
            world = train(spec, runs, validation, shape, training, report, kept, place)
            errors = (errors_of(LatentForecaster(world), b, steps_of(b)).nanmean() for _, b in splits)
            scores = [float(e.nan_to_num(torch.inf)) for e in errors]
            tried.append(Candidate(f"{SCRATCH}, window {window}", world, tuple(scores), time.perf_counter() - began))
    everything = [*runs, *(validation if folded else ())]
    return _chosen(spec, tried, refused, everything, config, training, folder)


def compared(facts: dict[str, Any]) -> str:
    """`Choice.facts` as a table in Markdown, with who was chosen and why above it."""
    ahead = " | ".join(f"{k} ahead" for k in facts["steps"])
    rows = [
        f"| {c['name']}{' (chosen)' if c['name'] == facts['winner'] else ''} | {c['held_out']:.3f} | "
        + " | ".join(f"{v:.3f}" for v in c["test"])
        + f" | {c['said']} |"
        for c in facts["candidates"]
    ]
    head = f"| model | held-out time | {ahead} | |\n|---|{'---|' * (len(facts['steps']) + 2)}"
    note = "Errors as shares of a standard deviation, mean over tags: held-out time chose, test runs report (samples ahead)."
    return "\n".join([f"Chosen: {facts['said']}. {note}", "", head, *rows])


def _chosen(
    spec: PlantSpec, tried: list[Candidate], refused: list[str], runs: Sequence[Run], config: ModelConfig,
    training: TrainingConfig, folder: Path | None,
) -> Choice:  # fmt: skip
    """The best of those that stay within the reach of the data, with heads and bounds."""
    done = list(tried)
    while left := [c for c in done if not c.out and math.isfinite(c.score)]:
        best = _best(left)
        model, place = best.model, None if folder is None else folder / f"chosen{len(left)}"
        data = WindowSet(
            runs, model.scale(), model.config.window, config.horizon, folder=place, constant=model.constant_scale()
        )
        if not best.name.startswith(SCRATCH):
            model.start_limits()
            if spec.guardrails:
                data.danger = endangered(model, data)
            learn_heads(model, data, training)
            model = bounded(model, data)
            model.finish_limits()
        far = reach(LatentForecaster(model.eval()), data, _AHEAD * config.horizon)
        at = done.index(best)
        if far <= REACH + 1e-3:
            done[at] = replace(best, model=model)
            return Choice(model, best.name, _said(done[at], done), tuple(done))
        done[at] = replace(best, out=f"its roll-outs span {far:.3g} times the range of the data")
    raise ModelError(
        "; ".join([*(f"{c.name}: {c.out or 'no number'}" for c in done), *refused]) or "nothing was tried",
        f"training of {spec.name}",
        "Record more, with moves, or longer runs.",
    )


def _best(tried: Sequence[Candidate]) -> Candidate:
    """The one that errs least; a simpler one where the difference is none, or goes the other way on a part of what was held out."""
    best = tried[0]
    for other in tried[1:]:
        wins = sum(a < b for a, b in zip(other.scores, best.scores, strict=True))
        if other.score < (1 - _ALIKE) * best.score and wins >= 0.75 * len(best.scores):
            best = other
    return best


def _said(best: Candidate, tried: Sequence[Candidate]) -> str:
    others = sorted((c for c in tried if c.name != best.name and not c.out), key=lambda c: c.score)
    if not others:
        return f"{best.name}: the only one"
    ratio = best.score / max(others[0].score, 1e-12)
    if ratio > 1 - _ALIKE:
        return f"{best.name}: there is nothing between it and {others[0].name}"
    return f"{best.name}: errs {100 * (1 - ratio):.1f} % less than {others[0].name}"


@torch.no_grad()
def errors_of(model: Forecaster, runs: Sequence[Run], steps: Sequence[int]) -> Tensor:
    """Root mean square error of each tag `steps` ahead (steps x n_measured) on `runs`, as a share of its deviation in training;
    NaN where nobody read it then, inf for a model that runs away."""
    data = WindowSet(runs, model.scale(), model.config.window, max(steps), constant=model.constant)
    return k_step(model, Stretches.of(data, some_of(whole(data), _STARTS)), steps)
