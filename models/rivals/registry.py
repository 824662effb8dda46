"""Rivals by name, each trained on the runs, splits and windows of the world model, with as many steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.config import ModelConfig, TrainingConfig
from models.folds import in_time
from models.objectives import losses
from models.rivals.arx import Arx
from models.rivals.contract import Forecaster
from models.rivals.gru import Gru
from models.rivals.latent import LatentForecaster
from models.rivals.linear import refine
from models.rivals.persistence import Persistence
from models.rivals.reconstruction import Reconstruction
from models.rivals.stretches import Report, Stretches, cut, descend, robust
from models.rivals.subspace import Subspace
from models.windows import Run, WindowSet, channel_scale, constant_scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

RIVALS = ("persistence", "arx", "subspace", "gru", "reconstruction", "random_encoder")


def train_rival(
    name: str,
    spec: PlantSpec,
    runs: Sequence[Run],
    validation: Sequence[Run],
    config: ModelConfig,
    training: TrainingConfig,
    report: Report | None = None,
) -> Forecaster:
    """Train the rival `name` on `runs`. Linear ones choose order and ridge on folds of `runs` over time, and how far descent
    takes them from there on the `validation` runs.

    `random_encoder` is a control: the world model with an encoder that never learned. Deterministic from
    `training.seed` on one machine. Raises `ModelError` for an unknown name or too little data.
    """
    if name not in RIVALS:
        raise ModelError(f"no rival is called {name!r}", "rivals", f"Choose from {', '.join(RIVALS)}.")
    torch.manual_seed(training.seed)
    rng = torch.Generator().manual_seed(training.seed)
    scale = channel_scale(spec, runs)
    constant = constant_scale(spec, runs)
    data = WindowSet(in_time(runs), scale, config.window, config.horizon, constant=constant)
    if name == "persistence":
        return Persistence(spec, config, scale, constant)
    if name in ("arx", "subspace"):
        linear: Arx | Subspace = (Arx if name == "arx" else Subspace)(spec, config, scale, constant)
        held = WindowSet(validation, scale, config.window, config.horizon, constant=constant)
        linear.learn(data)
        refine(linear, data, held, training, report)
        return linear.eval()
    world = WorldModel(spec, config, scale, constant)
    if name == "random_encoder":
        moved = [p for n, p in world.named_parameters() if not n.startswith("encoder.")]
        descend(
            world, lambda starts: losses(world, data, starts, training, rng, frozen=True).total(training), data, training,
            rng, report, moved,
        )  # fmt: skip
        return LatentForecaster(world).eval()
    budget = sum(p.numel() for p in world.parameters())
    rival = (
        Gru(spec, config, scale, budget, constant) if name == "gru" else Reconstruction(spec, config, scale, constant)
    )

    def objective(starts: torch.Tensor) -> torch.Tensor:
        part = Stretches.of(data, starts, cut(data, len(starts), training.padded_share, rng))
        if isinstance(rival, Gru):
            return robust(rival.roll(part.values, part.mask, part.u, part.d), part.y, part.counted)
        guess = rival.now_and_ahead(part.values, part.mask, part.u, part.d)
        now, seen = (v[:, -1:, : data.n_measured] for v in (part.values, part.mask))
        return robust(guess, torch.cat([now, part.y], 1), torch.cat([seen, part.counted], 1))

    descend(rival, objective, data, training, rng, report)
    return rival.eval()
