"""Training on a little plant data: losses fall, seeds decide, and no term reads the answer off its input."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from models.config import TrainingConfig
from models.training import label_scale, losses, train
from models.windows import Run, Scale, WindowSet
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

from .conftest import QUICK, TINY, Trained

BRIEF = QUICK.model_copy(update={"steps": 12})


def data_of(model: WorldModel, runs: list[Run], horizon: int = TINY.horizon) -> WindowSet:
    scale = Scale(model.channel_mean.double().numpy(), model.channel_std.double().numpy())
    return WindowSet(runs, scale, model.config.window, horizon)


def test_losses_fall(trained: Trained) -> None:
    (_, first), *_, (_, last) = trained.reports
    for name in ("prediction", "inverse", "read_out", "guardrail"):
        assert last[name] < 0.35 * first[name], name
    assert all(math.isfinite(v) for v in last.values())
    assert not trained.model.training


def test_held_out_runs_are_predicted_several_steps_ahead(trained: Trained) -> None:
    """Better than saying that nothing changes, five samples ahead."""
    model = trained.model
    data = data_of(model, trained.held_out)
    moving = data.moving[data.moving + 5 <= data.last[data.moving]]
    index, _ = data.sequence(moving)
    rows, known = data.rows[index], data.mask[index][:, 1:6].amin(-1).amin(-1) > 0
    nm, nd = data.n_measured, data.n_dv
    with torch.no_grad():
        z = model.encode_normalised(*data.gather(moving))
        for k in range(1, 6):
            z = model.advance_normalised(z, rows[:, k, nm + nd :], rows[:, k - 1, nm : nm + nd])
        error = (model.read_out_head(z) - rows[:, 5, :nm])[known].square().mean(0)
        lazy = (rows[:, 0, :nm] - rows[:, 5, :nm])[known].square().mean(0)
    assert known.sum() > 100
    assert (error < 0.5 * lazy).all()


def test_same_seed_same_weights(spec: PlantSpec, recorded: list[Run]) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        model = train(spec, recorded, recorded[:4], TINY, BRIEF.model_copy(update={"seed": seed}))
        return model.state_dict()

    one, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["encoder.first.weight"], other["encoder.first.weight"])


def test_inverse_dynamics_reads_the_answer_from_the_next_measurement(trained: Trained) -> None:
    """The move is told from what it did: shuffle y_{t+1} over the batch and nothing is left of the R^2. Were the move
    not hidden from that encoding, it would still be read off the window."""
    model = trained.model
    data = data_of(model, trained.training + trained.held_out, horizon=1)
    starts = data.starts[data.mask[data.starts + 1].amin(-1) > 0]
    nm, nd = data.n_measured, data.n_dv
    u = data.rows[starts + 1][:, nm + nd :]
    values, mask = data.gather(starts + 1)
    mask = mask.clone()
    mask[:, -1, nm + nd :] = 0.0

    def r2(values: torch.Tensor) -> float:
        with torch.no_grad():
            before, after = model.encode_normalised(*data.gather(starts)), model.encode_normalised(values, mask)
            guess = model.inverse_head(torch.cat([before, after], -1))
        return float(1 - (guess - u).square().mean() / u.var(unbiased=False))

    shuffled = values.clone()
    order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))
    shuffled[:, -1, : nm + nd] = values[order, -1, : nm + nd]
    assert r2(values) > 0.6
    assert r2(shuffled) < 0.1


def noise_runs(spec: PlantSpec, count: int, n: int) -> list[Run]:
    """Runs in which no measurement depends on any move."""
    rng = np.random.default_rng(0)

    def part(tags) -> np.ndarray:
        return np.stack([t.nominal + 0.05 * (t.range[1] - t.range[0]) * rng.standard_normal(n) for t in tags], 1)

    labels = np.full((n, len(spec.guardrails)), np.nan)
    return [Run("record", 0.0, part(spec.measured), part(spec.dvs), part(spec.mvs), labels) for _ in range(count)]


def test_inverse_dynamics_cannot_read_the_move_off_its_input(spec: PlantSpec) -> None:
    """On data in which moves do nothing, a leak would drive the loss to zero; without one it stays at their variance."""
    reports: list[dict[str, float]] = []
    only = QUICK.model_copy(update={"inverse": 1.0, "prediction": 0.0, "sigreg": 0.0, "guardrail": 0.0, "padding": 0.0})
    runs = noise_runs(spec, 60, 60)
    train(spec, runs[:50], runs[50:], TINY, only, lambda step, total, terms: reports.append(terms))
    assert reports[-1]["inverse"] > 0.8


def test_terms_are_weighted_as_configured(spec: PlantSpec, trained: Trained) -> None:
    data = data_of(trained.model, trained.training)
    rng = torch.Generator().manual_seed(0)
    terms = losses(trained.model, data, data.starts[:64], QUICK, rng)
    names = [f.name for f in dataclasses.fields(terms)]
    weights = QUICK.model_copy(update={n: float(10**i) for i, n in enumerate(names)})
    expected = sum(10**i * getattr(terms, n) for i, n in enumerate(names))
    torch.testing.assert_close(terms.total(weights), expected)
    nothing = QUICK.model_copy(update=dict.fromkeys(names, 0.0))
    assert terms.total(nothing) == 0.0


def test_unlabelled_runs_train_too(spec: PlantSpec, recorded: list[Run]) -> None:
    """History of a real plant has no fallback labels: only the heads they would have taught go without."""
    bare = [dataclasses.replace(r, labels=np.full_like(r.labels, np.nan)) for r in recorded]
    model = train(spec, bare, bare[:4], TINY, BRIEF)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_missing_values_do_not_reach_the_weights(spec: PlantSpec, recorded: list[Run]) -> None:
    rng = np.random.default_rng(0)

    def torn(values: np.ndarray) -> np.ndarray:
        return np.where(rng.random(values.shape) < 0.2, np.nan, values)

    holes = [
        dataclasses.replace(r, measured=torn(r.measured), dvs=torn(r.dvs), applied=torn(r.applied)) for r in recorded
    ]
    reports: list[dict[str, float]] = []
    model = train(spec, holes, holes[:6], TINY, BRIEF, lambda step, total, terms: reports.append(terms))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(math.isfinite(v) for terms in reports for v in terms.values())


def test_labels_become_squashed_margins(trained: Trained) -> None:
    limit = trained.model.spec.guardrails[0].limit
    worst = torch.tensor([limit - 1.0, limit, limit + 1.0, limit + 500.0, torch.nan])
    labels = worst[:, None].expand(-1, len(trained.model.spec.guardrails))
    scaled = label_scale(trained.model, labels)[:, 0] * trained.model.margin_scale[0]
    torch.testing.assert_close(scaled[:3], torch.tensor([1.0, 0.0, -1.0]), rtol=1e-2, atol=1e-4)
    assert scaled[3] == -trained.model.margin_scale[0]
    assert torch.isnan(scaled[4])


def test_too_little_data_is_refused(spec: PlantSpec, recorded: list[Run]) -> None:
    with pytest.raises(ModelError, match=r"plant-hours of training data.*excite"):
        train(spec, recorded[:2], recorded[:2], TINY, BRIEF)


def test_a_guardrail_on_a_tag_that_is_not_measured_is_refused(spec: PlantSpec, recorded: list[Run]) -> None:
    rail = spec.guardrails[0].model_copy(update={"tag": "TI100"})
    other = spec.model_copy(update={"guardrails": (rail,)})
    with pytest.raises(ModelError, match=r"high_temperature watches TI100, which is not a measured"):
        train(other, recorded, recorded[:4], TINY, BRIEF)


def test_a_loss_that_explodes_is_an_error(spec: PlantSpec, recorded: list[Run]) -> None:
    wild = TrainingConfig(steps=60, batch=32, learning_rate=1e30, sigreg_slices=8)
    with pytest.raises(ModelError, match=r"not finite at step \d+.*learning_rate"):
        train(spec, recorded, recorded[:4], TINY, wild)
