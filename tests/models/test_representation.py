"""The small JEPA: it learns what a random encoder does not show, does not collapse, and repeats itself from a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.diagnostics import effective_rank
from models.representation import JepaConfig, Probe, train_jepa
from plant.errors import ModelError

SMALL = JepaConfig(
    window=16, target_window=4, horizons=(4, 8), width=48, latent=4, steps=150, batch=128, sigreg_slices=32
)  # fmt: skip


def run_of(seed: int, samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Five noisy tags over two slow states (n x 2), which are what a probe should find."""
    rng = np.random.default_rng(seed)
    states = np.zeros((samples, 2))
    for t in range(1, samples):
        states[t] = np.array([0.98, 0.95]) * states[t - 1] + 0.2 * rng.standard_normal(2)
    mix = np.random.default_rng(99).standard_normal((2, 5))
    return np.tanh(0.5 * states @ mix) + 0.5 * rng.standard_normal((samples, 5)), states


def probe_r2(config: JepaConfig) -> float:
    model = train_jepa([run_of(s)[0] for s in range(6)], config)
    train, test = [run_of(s) for s in range(6)], [run_of(s) for s in range(10, 14)]
    embed = lambda rows: model.latents(model.windows(rows)).numpy().astype(float)  # noqa: E731
    probe = Probe.fit(np.concatenate([embed(r) for r, _ in train]), np.concatenate([s[:, 0] for _, s in train]), 1e-3)
    guess, truth = np.concatenate([probe(embed(r)) for r, _ in test]), np.concatenate([s[:, 0] for _, s in test])
    return float(1 - np.mean((guess - truth) ** 2) / truth.var())


def test_trained_latents_show_the_state_better_than_random_ones() -> None:
    trained, random = probe_r2(SMALL), probe_r2(SMALL.model_copy(update={"steps": 0}))
    assert trained > 0.5
    assert trained > random + 0.1


def test_sigreg_keeps_the_latent_from_collapsing() -> None:
    runs = [run_of(s)[0] for s in range(6)]

    def spread(weight: float) -> tuple[float, float]:
        model = train_jepa(runs, SMALL.model_copy(update={"sigreg": weight, "learning_rate": 3e-3}))
        z = model.latents(model.windows(runs[0]))
        return effective_rank(z), float(z.std(0).median())

    kept, left = spread(0.05), spread(0.0)
    assert kept[1] > 2 * left[1]
    assert kept[0] > 1.5


def test_a_seed_gives_the_same_encoder_and_another_seed_another() -> None:
    runs = [run_of(s)[0] for s in range(3)]
    quick = SMALL.model_copy(update={"steps": 10})
    a, b, c = (train_jepa(runs, quick.model_copy(update={"seed": s})) for s in (0, 0, 1))
    w = a.windows(runs[0])
    assert torch.equal(a.embed(w), b.embed(w))
    assert not torch.allclose(a.embed(w), c.embed(w))


def test_windows_end_at_their_sample_are_padded_and_hold_missing_values() -> None:
    rows, _ = run_of(0, 60)
    rows[30, 2] = np.nan
    model = train_jepa([rows, run_of(1)[0]], SMALL.model_copy(update={"steps": 0}))
    w = model.windows(rows)
    assert w.shape == (60, 16, 5)
    assert torch.isfinite(w).all()
    z = (rows - model.mean.numpy()) / model.std.numpy()
    np.testing.assert_allclose(w[40, -1], z[40], atol=1e-5)
    np.testing.assert_allclose(w[30, -1, 2], z[29, 2], atol=1e-5)
    np.testing.assert_allclose(w[0, 0], z[:5].mean(0), atol=1e-5)


def test_a_future_beyond_the_end_of_a_run_teaches_nothing() -> None:
    rows, _ = run_of(0, 40)
    changed = rows.copy()
    changed[0] += 1e-9
    model = train_jepa([rows], SMALL.model_copy(update={"steps": 3}))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_bad_configurations_and_short_runs_are_refused_in_words() -> None:
    with pytest.raises(ValidationError, match="overlap the context"):
        JepaConfig(target_window=16, horizons=(8, 32))
    with pytest.raises(ValidationError, match="must equal window"):
        JepaConfig(separate_target=False)
    with pytest.raises(ModelError, match="no run is longer than"):
        train_jepa([run_of(0, 4)[0]], SMALL)
    with pytest.raises(ModelError, match="labelled samples"):
        Probe.fit(np.zeros((1, 3)), np.zeros(1), 0.1)
