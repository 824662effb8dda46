"""Muon for hidden layers, AdamW for the rest, and a schedule that both keep to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.config import TrainingConfig
from models.descent import Descent, hidden_matrices
from models.world_model import Mlp
from plant.errors import ModelError


def test_matrices_that_feed_hidden_layers() -> None:
    mlp, cell = Mlp(3, 8, 2), nn.GRUCell(3, 8)
    found = hidden_matrices(nn.ModuleList([mlp, cell, nn.Linear(8, 2)]))
    wanted = (mlp.first.weight, mlp.second.weight, cell.weight_ih, cell.weight_hh)
    assert {id(p) for p in found} == {id(p) for p in wanted}


def test_a_function_is_fitted_and_the_steps_shrink() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 128)[:, None]
    mlp = Mlp(1, 32, 1)
    descent = Descent(mlp.parameters(), mlp, TrainingConfig(), 400, "a test")
    loss, moved = torch.ones(()), []
    for number in range(400):
        loss = (mlp(x) - torch.sin(2 * x)).square().mean()
        before = [p.detach().clone() for p in mlp.parameters()]
        descent.step(loss, number)
        moved.append(max((p - b).detach().abs().max().item() for p, b in zip(mlp.parameters(), before, strict=True)))
    assert loss.item() < 0.02
    assert max(moved[-5:]) < 0.1 * moved[100]


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    mlp = Mlp(1, 4, 1)
    descent = Descent(mlp.parameters(), mlp, TrainingConfig(), 10, "a test")
    with pytest.raises(ModelError, match="not finite at step 7"):
        descent.step(mlp(torch.full((1, 1), torch.nan)).sum(), 7)
