"""What `benchmarks.guardrails` measures: coverage of margins, at rest and in a running loop, and heads from few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.world_model_data import Asked, witnessed
from homeostat.recording import EXCITATION_SAMPLES
from models.adaptive import AdaptiveMargins, Hindsight
from models.calibration import Errors, calibrate_steps, near_at_step
from models.label_heads import Basis, fit_label_head
from models.windows import Run, Scale, WindowSet
from models.world_model import WorldModel
from plant.errors import SpecError
from plant.spec import PlantSpec
from simulators.scenario import Scenario

LEVELS = (0.9, 0.99)
LABELS = (10, 30, 100, 300, 1000)
EVERY = 20  # samples between two laboratory values
_BATCH = 50


@dataclass(frozen=True)
class Amounts:
    """Runs to calibrate on and to report, loops and samples of each shift, runs to label and how often labels are drawn."""

    runs: int
    loops: int
    samples: int
    labelled: int
    draws: int


def runs_in(
    spec: PlantSpec, scenario: Scenario, count: int, seed: int, noise: float = 1.0, samples: int = EXCITATION_SAMPLES
) -> Asked:
    """`count` runs of a scenario, recorded in small batches. A batch in which an engine finds no steady state to start from
    is drawn anew; raises `SpecError` where that is most of them."""
    parts: list[Asked] = []
    refused = 0
    while len(parts) * _BATCH < count:
        try:
            number = 1000 * seed + len(parts) + refused
            parts.append(witnessed(spec, scenario, min(_BATCH, count - len(parts) * _BATCH), number, noise, samples))
        except SpecError:
            refused += 1
            if refused > 3 + len(parts):
                raise
    return Asked(
        [r for p in parts for r in p.runs], [t for p in parts for t in p.truth],
        hidden=[h for p in parts for h in p.hidden or []],
    )  # fmt: skip


@dataclass(frozen=True)
class Watched:
    """One guardrail head's column: its name, whether a running loop can observe it."""

    name: str
    measured: bool


def watched(spec: PlantSpec) -> list[Watched]:
    """The columns of margins: limits first, then fallbacks."""
    online = {t.name for t in spec.online}
    rails = [Watched(g.name, g.tag in online) for g in spec.guardrails]
    return rails + [Watched(f"{g.name} under the fallback", False) for g in spec.guardrails if g.fallback_tag]


def margins_of(spec: PlantSpec, run: Run) -> Tensor:
    """True signed margins (n x n_constraint) as `watched` orders them: of readings, hidden values, labels."""
    names = [t.name for t in spec.measured]
    hidden = np.full_like(run.labels, np.nan) if run.hidden is None else run.hidden
    columns = [
        g.margin(run.measured[:, names.index(g.tag)] if g.tag in names else hidden[:, i])
        for i, g in enumerate(spec.guardrails)
    ]
    columns += [g.margin(run.labels[:, i]) for i, g in enumerate(spec.guardrails) if g.fallback_tag]
    return torch.tensor(np.stack(columns, 1), dtype=torch.float32)


@dataclass(frozen=True)
class Coverage:
    """Per step and head (horizon x n_constraint): share covered, half-width of its 95 % interval by run, predictions
    counted, runs they came from, margin."""

    share: Tensor
    half: Tensor
    count: Tensor
    runs: Tensor
    margin: Tensor


def coverage(covered: Tensor, known: Tensor, run: Tensor, margin: Tensor) -> Coverage:
    """From `covered`, `known` (samples x horizon x n_constraint) and the `run` (samples,) of each."""
    _, at = run.unique(return_inverse=True)
    runs = int(at.max()) + 1
    shape = (runs, *covered.shape[1:])
    hits, asked = (torch.zeros(shape).index_add(0, at, x.float()) for x in (covered & known, known))
    count = asked.sum(0)
    share = hits.sum(0) / count
    half = 1.96 * ((hits - share * asked) ** 2).sum(0).sqrt() / count
    return Coverage(share, half, count, (asked > 0).sum(0), margin)


def held_out(model: WorldModel, calibration: Errors, reported: Errors, level: float) -> Coverage:
    """Coverage of per-step margins calibrated on some runs, on others."""
    margins = calibrate_steps(model, calibration, level)
    known = near_at_step(model, reported.predicted) & torch.isfinite(reported.optimism)
    return coverage(reported.optimism <= margins, known, reported.run, margins)


def in_the_loop(
    model: WorldModel, calibration: Errors, asked: Asked, levels: Sequence[float], label_every: int
) -> dict[float, tuple[Coverage, Coverage]]:
    """By level, coverage of margins left as calibrated and of adapting ones over the second half of each run of `asked`,
    every run a loop that adapts from its start: to readings at each sample, to hidden quantities every `label_every`
    samples. The margin of the adapted is the median one in force."""
    spec, horizon, window = model.spec, model.config.horizon, model.config.window
    plants, samples = len(asked.runs), max(map(len, asked.runs))
    channels = model.n_measured + model.n_dv + model.n_mv
    rows = torch.full((plants, window - 1 + samples, channels), torch.nan)
    true = torch.full((plants, samples, len(watched(spec))), torch.nan)
    for i, r in enumerate(asked.runs):
        rows[i, window - 1 : window - 1 + len(r)] = torch.tensor(np.concatenate([r.measured, r.dvs, r.applied], 1))
        true[i, : len(r)] = margins_of(spec, r)
    adaptive = {level: AdaptiveMargins.of(model, calibration, level, plants) for level in levels}
    some = next(iter(adaptive.values()))
    hindsight = Hindsight(model, horizon, plants)
    measured = torch.tensor([w.measured for w in watched(spec)])
    in_force = {
        level: torch.full((horizon, *some.margins.shape), torch.nan) for level in levels
    }  # issued k samples ago
    margins: dict[float, list[Tensor]] = {level: [] for level in levels}
    errors, known = [], []
    steps = torch.arange(horizon)
    for t in range(samples):
        predicted = hindsight.update(rows[:, t : t + window])
        error = predicted - (some.scale * torch.tanh(true[:, t] / some.scale))[:, None]
        if counts := t >= samples // 2:
            errors.append(error)
            known.append(torch.isfinite(error) & (predicted.abs() < some.near))
        observed = torch.where(measured | (t % label_every == 0), true[:, t], torch.nan)
        for level, a in adaptive.items():
            if counts:
                margins[level].append(in_force[level][steps, :, steps].movedim(0, 1))
            in_force[level] = torch.cat([a.update(predicted, observed)[None], in_force[level][:-1]])
    error, counted = torch.cat(errors), torch.cat(known)
    loop = torch.arange(plants).repeat(len(errors))
    found = {}
    for level, a in adaptive.items():
        margin = torch.cat(margins[level])
        usual = torch.where(counted, margin, torch.nan).nanmedian(0).values
        found[level] = (
            coverage(error <= a.base, counted, loop, a.base), coverage(error <= margin, counted, loop, usual),
        )  # fmt: skip
    return found


def hidden_values(spec: PlantSpec, asked: Asked) -> dict[str, Tensor]:
    """Every hidden quantity, one value a sample of all runs; a fallback's label by its tag."""
    values = {tag: np.concatenate([h[tag] for h in asked.hidden or []]) for tag in (asked.hidden or [{}])[0]}
    for i, g in enumerate(spec.guardrails):
        if g.fallback_tag:
            values[g.fallback_tag] = np.concatenate([r.labels[:, i] for r in asked.runs])
    return {tag: torch.tensor(v) for tag, v in values.items()}


def features(model: WorldModel, runs: Sequence[Run], raw: bool = False) -> tuple[Tensor, Tensor]:
    """Latents (or normalised windows and masks as they are) of every full window of `runs`, and which samples have one."""
    scale = Scale(model.channel_mean.double().numpy(), model.channel_std.double().numpy())
    data = WindowSet(runs, scale, model.config.window, 1)
    index = torch.arange(len(data.rows))
    full = index - data.first >= model.config.window - 1
    values, mask = data.gather(index[full])
    with torch.inference_mode():
        made = (values * mask).flatten(1) if raw else model.encode_normalised(values, mask)
    return made, full


def label_curve(
    learn: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], basis: Basis, draws: int, seed: int
) -> list[float]:
    """R2 on `test` of heads from 10, 30, ... and all labels of `learn` (features, values each); means of `draws` draws."""
    (x, y), (x_test, y_test) = learn, test
    curve = []
    for n in (*LABELS, len(y)):
        scores = []
        for draw in range(draws if n < len(y) else 1):
            some = torch.randperm(len(y), generator=torch.Generator().manual_seed(1000 * seed + draw))[:n]
            head = fit_label_head(x[some], y[some], basis)
            scores.append(float(1 - (head(x_test) - y_test).square().mean() / y_test.var(unbiased=False)))
        curve.append(float(np.mean(scores)))
    return curve
