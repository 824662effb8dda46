"""Diagnostics tell a sound world model from one that has collapsed."""

from __future__ import annotations

import copy

import torch

from models.diagnostics import diagnose, effective_rank, suspicions
from models.windows import Run


def test_a_sound_model_is_not_suspect_and_a_collapsed_one_is(trained, recorded: list[Run]) -> None:
    facts = diagnose(trained.model, recorded[::3], (1, 5))
    assert 1.0 <= facts["measured_rank"] <= trained.model.n_measured
    assert facts["measured_rank"] < facts["effective_rank"] <= trained.model.config.latent
    assert suspicions(facts) == []
    collapsed = copy.deepcopy(trained.model)
    with torch.no_grad():  # every latent is the same but for one direction
        for layer in (collapsed.encoder.last, collapsed.encoder.linear):
            layer.weight[1:] = 0.0
        collapsed.encoder.last.bias[1:] = 0.0
    found = suspicions(diagnose(collapsed, recorded[::3], (1, 5)))
    assert any("effective rank" in text for text in found)


def test_incidents_do_not_count(trained, recorded: list[Run]) -> None:
    """The predictor is not taught them. Where there is nothing else they are better than nothing."""
    held_out = recorded[::3]
    usual, incidents = ([r for r in held_out if (r.kind == "incident") == is_one] for is_one in (False, True))
    assert diagnose(trained.model, held_out, (1, 5)) == diagnose(trained.model, usual, (1, 5))
    assert diagnose(trained.model, incidents, (1, 5)) != diagnose(trained.model, usual, (1, 5))


def test_one_measurement_has_rank_one() -> None:
    assert abs(effective_rank(torch.randn(50, 1)) - 1.0) < 1e-6
