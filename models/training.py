"""Training of a world model from runs, in one phase (joint) or two (decoupled)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import ranks
from models.bounded import bounded
from models.config import ModelConfig, TrainingConfig
from models.descent import Descent
from models.objectives import Losses, MaskedPrediction, label_scale, losses
from models.resume import TrainingState, restore
from models.windows import Run, WindowSet, channel_scale, constant_scale, usual_of
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

_LEAST = 5  # horizons of samples
_KEEP_EVERY = 250  # steps between two states kept on disk
_DANGER = 0.6  # of the squashed margin: within about two thirds of a margin_scale, or beyond the limit

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class _Phase:
    """`steps` steps on `objective(data, starts, usual) -> Losses`, moving `parameters`; `extra` lives only as long as the phase.
    `passive`: whether runs without moves have something to teach in it."""

    steps: int
    parameters: list[nn.Parameter]
    objective: Callable[[WindowSet, Tensor, Tensor], Losses]
    extra: nn.Module
    passive: bool = True


class _WithPassive(WindowSet):
    """`labelled` windows and, behind them, those of runs whose moves nobody knows: they are half of every batch, so that few
    labelled windows are not lost among many."""

    def __init__(self, labelled: WindowSet, runs: Sequence[Run], passive: Sequence[Run], *of: Any, **more: Any) -> None:
        super().__init__([*runs, *passive], *of, **more)
        self._labelled, self._passive = labelled, WindowSet(passive, *of, **more)
        self.danger = labelled.danger

    def draw(self, batch: int, steady_share: float, danger_share: float, generator: torch.Generator) -> Tensor:
        beside = batch // 2
        starts = self._passive.draw(beside, steady_share, 0.0, generator) + len(self._labelled.rows)
        # As many dangerous ones as usual, and last, as in any batch.
        hot = min(danger_share * batch / (batch - beside), 1.0 - steady_share)
        return torch.cat([starts, self._labelled.draw(batch - beside, steady_share, hot, generator)])


def train(
    spec: PlantSpec,
    runs: Sequence[Run],
    validation: Sequence[Run],
    config: ModelConfig,
    training: TrainingConfig,
    report: Report | None = None,
    state: Path | None = None,
    folder: Path | None = None,
    passive: Sequence[Run] = (),
) -> WorldModel:
    """Train a world model on `runs`; `validation` runs choose nothing, they are reported.

    `joint`: encoder, predictor and heads together. `decoupled`: the encoder by masked latent prediction in the first half of
    the steps; then, frozen, the predictor and the heads. Deterministic from `training.seed` on one machine. With `state`, a
    file, a run that was killed goes on from there to the result it would have had. Under `torchrun` the processes share each
    batch and end with the same weights. With `folder` the windows live in files there instead of in memory. `passive` runs,
    whose moves nobody knows, teach what can be learned without them. Raises `ModelError` when there is too little to learn
    from.
    """
    hours = sum(len(r) for r in runs) * spec.sample_time_s / 3600
    if sum(len(r) for r in runs) < _LEAST * config.horizon:
        raise ModelError(
            f"only {hours:.2f} plant-hours of training data", f"plant {spec.name}", "Record more, or run `excite`."
        )
    _, processes = ranks.join()
    if training.batch % processes:
        raise ModelError(
            f"a batch of {training.batch} cannot be shared by {processes} processes", "training", "Choose a multiple."
        )
    torch.manual_seed(training.seed)
    rng = torch.Generator().manual_seed(training.seed)
    sampler = torch.Generator().manual_seed(training.seed + 1)  # of its own: every process draws the same batches
    scale = channel_scale(spec, usual_of([*runs, *passive]))
    constant = constant_scale(spec, [*runs, *passive])
    places = (None, None) if folder is None else (folder / "training", folder / "validation")
    data, held = (
        WindowSet(some, scale, config.window, config.horizon, folder=place, constant=constant)
        for some, place in zip((runs, validation), places, strict=True)
    )
    model = WorldModel(spec, config, scale, constant)
    if spec.guardrails:
        data.danger = endangered(model, data)
    whole = data
    if passive:
        whole = _WithPassive(data, runs, passive, scale, config.window, config.horizon, constant=constant)
    target = copy.deepcopy(model).requires_grad_(False) if training.anti_collapse == "ema" else model
    model.start_limits()
    saved = TrainingState(state, config, training, whole)
    kept, done = saved.load(), 0
    for number, phase in enumerate(_phases(model, target, training, rng)):
        if kept is None or kept["phase"] <= number:
            here = kept if kept is not None and kept["phase"] == number else None
            seen = whole if phase.passive else data
            _run_phase(
                phase, number, spec, model, target, seen, held, training, sampler, rng, done, report, saved, here
            )
        done += phase.steps
    saved.forget()
    model = bounded(model, whole)
    model.finish_limits()
    return model.eval()


def endangered(model: WorldModel, data: WindowSet) -> Tensor:
    """The starts of `data` over whose horizon the labelled fallback ends near a guardrail, or beyond it."""
    return data.endangered(lambda labels: label_scale(model, labels).nan_to_num(1.0) < _DANGER)


def _phases(model: WorldModel, target: WorldModel, training: TrainingConfig, rng: torch.Generator) -> Iterable[_Phase]:
    if training.order == "joint":
        yield _Phase(
            training.steps,
            list(model.parameters()),
            lambda data, starts, usual: losses(model, data, starts, training, rng, target, usual=usual),
            nn.Identity(),
        )
        return
    first = training.steps // 2
    masked = MaskedPrediction(model, tuple(k for k in (1, 2, 4, 8) if k <= model.config.horizon))
    yield _Phase(
        first,
        [*model.encoder.parameters(), *masked.parameters()],
        lambda data, starts, usual: masked(model, target, data, starts, training, rng),
        masked,
    )
    encoder = {id(p) for p in model.encoder.parameters()}
    yield _Phase(
        training.steps - first,
        [p for p in model.parameters() if id(p) not in encoder],
        lambda data, starts, usual: losses(model, data, starts, training, rng, frozen=True, usual=usual),
        nn.Identity(),
        passive=False,
    )


def _run_phase(
    phase: _Phase, number: int, spec: PlantSpec, model: WorldModel, target: WorldModel, data: WindowSet, held: WindowSet,
    training: TrainingConfig, sampler: torch.Generator, rng: torch.Generator, done: int, report: Report | None, saved: TrainingState,
    kept: dict[str, Any] | None,
) -> None:  # fmt: skip
    descent = Descent(
        phase.parameters, nn.ModuleList([model, phase.extra]), training, phase.steps, f"training {spec.name}"
    )
    rank, processes = ranks.join()
    parts = {"model": model, "target": target, "extra": phase.extra, "descent": descent}
    usual = torch.ones(training.batch)
    if len(data.danger):
        usual[training.batch - round(training.batch * training.danger_share) :] = 0.0  # drawn last
    first = 0
    if kept is not None:
        restore(kept, parts, {"sampler": sampler, "own": rng})
        first = kept["step"]
    for step in range(first, phase.steps):
        if step % _KEEP_EVERY == 0 and step > first and rank == 0:
            saved.keep(number, step, parts, {"sampler": sampler, "own": rng})
        starts = data.draw(training.batch, training.steady_share, training.danger_share, sampler)
        loss = phase.objective(data, starts[rank::processes], usual[rank::processes]).total(training)
        descent.step(loss, done + step)
        if target is not model:
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 1.0 - training.momentum)
        if report and (step % 100 == 0 or step == phase.steps - 1):
            with torch.no_grad():
                check = phase.objective(held, held.draw(512, 1.0, 0.0, rng), torch.ones(512))
            report(done + step, training.steps, {n: float(getattr(check, n)) for n in check.__dataclass_fields__})
