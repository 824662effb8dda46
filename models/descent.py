"""Minimising a training loss: Muon on the matrices of hidden layers, AdamW on everything else, one cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models import ranks
from models.config import TrainingConfig
from models.world_model import Mlp
from plant.errors import ModelError

_WARM_UP = 100  # steps
_LAST = 0.02  # of the rate, at the end


class Descent:
    """`steps` steps on `parameters` of `module`. Matrices that feed hidden layers take orthogonalised steps (Muon; Jordan
    2024, torch.optim.Muon) at `matrix_rate`, the rest AdamW's at `learning_rate`; both rise for 100 steps and fall along a
    cosine. Under torchrun gradients are means over the processes."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], module: nn.Module, training: TrainingConfig, steps: int, where: str
    ) -> None:
        self.steps, self._where = steps, where
        self._parameters = list(parameters)
        moved = {id(p) for p in self._parameters}
        matrices = [p for p in hidden_matrices(module) if id(p) in moved]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self._parameters if id(p) not in chosen]
        self._optimisers: list[torch.optim.Optimizer] = []
        if rest:
            self._optimisers.append(
                torch.optim.AdamW(rest, lr=training.learning_rate, weight_decay=training.weight_decay)
            )
        if matrices:
            self._optimisers.append(
                torch.optim.Muon(
                    matrices,
                    lr=training.matrix_rate,
                    weight_decay=training.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(o, self._rate) for o in self._optimisers]

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / _WARM_UP)
        return warm * (_LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def step(self, loss: Tensor, number: int) -> None:
        """One step down the gradient of `loss`. Raises `ModelError` when it is not finite; `number` is the step's."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        ranks.share(self._parameters)
        if not torch.isfinite(nn.utils.clip_grad_norm_(self._parameters, 1.0)):
            raise ModelError(
                f"the loss is not finite at step {number}", self._where, "Lower learning_rate, or check the data."
            )
        for part in (*self._optimisers, *self._schedules):
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate((*self._optimisers, *self._schedules))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, part in enumerate((*self._optimisers, *self._schedules)):
            part.load_state_dict(state[str(i)])


def hidden_matrices(module: nn.Module) -> list[Tensor]:
    """The weights of layers whose outputs are hidden units: of every `Mlp` and every recurrent cell inside `module`."""
    found: list[Tensor] = []
    for part in module.modules():
        if isinstance(part, Mlp):
            found += [part.first.weight, part.second.weight]
        elif isinstance(part, nn.GRUCell):
            found += [part.weight_ih, part.weight_hh]
    return found
