"""Training on a little plant data: losses fall, seeds decide, and no term reads the answer off its input."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from models.config import TrainingConfig
from models.objectives import label_scale, losses
from models.training import train
from models.windows import Run, Scale, WindowSet
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec, Role

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
    keys = ["sigreg" if n == "spread" else n for n in names]
    weights = QUICK.model_copy(update={n: float(10**i) for i, n in enumerate(keys)})
    expected = sum(10**i * getattr(terms, n) for i, n in enumerate(names))
    torch.testing.assert_close(terms.total(weights), expected)
    nothing = QUICK.model_copy(update=dict.fromkeys(keys, 0.0))
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
        train(spec, recorded[:2], recorded[:2], TINY.model_copy(update={"horizon": 30}), BRIEF)


def test_a_guardrail_on_a_tag_that_is_not_measured_is_refused(spec: PlantSpec, recorded: list[Run]) -> None:
    rail = spec.guardrails[0].model_copy(update={"tag": "TI100"})
    other = spec.model_copy(update={"guardrails": (rail,)})
    with pytest.raises(ModelError, match=r"high_temperature watches TI100, which is not a measured"):
        train(other, recorded, recorded[:4], TINY, BRIEF)


def test_a_loss_that_explodes_is_an_error(spec: PlantSpec, recorded: list[Run]) -> None:
    wild = TrainingConfig(steps=60, batch=32, learning_rate=1e30, sigreg_slices=8)
    with pytest.raises(ModelError, match=r"not finite at step \d+.*learning_rate"):
        train(spec, recorded, recorded[:4], TINY, wild)


@pytest.mark.parametrize("order", ["joint", "decoupled"])
@pytest.mark.parametrize("anti_collapse", ["sigreg", "vicreg", "ema"])
def test_every_order_and_every_guard_against_collapse_learns(
    order: str, anti_collapse: str, spec: PlantSpec, recorded: list[Run]
) -> None:
    """In a few steps of either phase its loss falls, and the latent still tells plants apart."""
    reports: list[tuple[int, dict[str, float]]] = []
    config = QUICK.model_copy(update={"order": order, "anti_collapse": anti_collapse, "steps": 302, "inverse": 0.0})
    model = train(spec, recorded, recorded[:6], TINY, config, lambda step, total, terms: reports.append((step, terms)))
    assert not model.training
    assert [step for step, _ in reports][-1] == 301
    key = "prediction" if order == "joint" else "read_out"
    assert reports[-1][1][key] < 0.8 * max(t[key] for _, t in reports)
    data = data_of(model, recorded)
    with torch.no_grad():
        z = model.encode_normalised(*data.gather(data.starts))
    assert float(z.std(0).max()) > 1e-2


def test_the_second_phase_leaves_the_encoder_alone(spec: PlantSpec, recorded: list[Run]) -> None:
    """What the first half of the steps made of it is what the whole training has, and the predictor has moved."""
    config = BRIEF.model_copy(update={"order": "decoupled", "weight_decay": 0.0})
    seen: list[torch.Tensor] = []
    import models.training as training

    run = training._run_phase

    def spy(phase, number, spec, model, *rest):
        run(phase, number, spec, model, *rest)
        seen.append(model.encoder.first.weight.detach().clone())
        seen.append(model.predictor.last.weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_run_phase", spy)
        train(spec, recorded, recorded[:4], TINY, config)
    encoder_first, predictor_first, encoder_last, predictor_last = seen
    assert torch.equal(encoder_first, encoder_last)
    assert torch.equal(predictor_first, torch.zeros_like(predictor_first)), "no move was looked at in the first phase"
    assert not torch.equal(predictor_first, predictor_last)


def test_a_hidden_quantity_is_learned_from_its_record(spec: PlantSpec, recorded: list[Run]) -> None:
    """A guardrail on a quantity no sensor shows is labelled by its recorded value; unknown values teach nothing."""
    tag = spec.tags[0].model_copy(
        update={"name": "SECRET", "role": Role.HIDDEN, "node_id": None, "critical": False, "move": None}
    )
    measured = spec.measured[0]
    rail = spec.guardrails[0].model_copy(update={"tag": "SECRET", "fallback_tag": None, "recording_limit": None,
                                                 "max": measured.nominal, "min": None})  # fmt: skip
    secret = spec.model_copy(
        update={"tags": (*spec.tags, tag.model_copy(update={"range": measured.range})), "guardrails": (rail,)}
    )
    rng = np.random.default_rng(0)
    runs = []
    for r in recorded:
        value = np.where(rng.random(len(r)) < 0.5, r.measured[:, 0], np.nan)[:, None]  # half of them known
        runs.append(dataclasses.replace(r, labels=np.full((len(r), 1), np.nan), hidden=value))
    model = train(secret, runs, runs[:4], TINY, QUICK)
    data = data_of(model, runs)
    with torch.no_grad():
        margin = model.limit_margins(model.encode_normalised(*data.gather(data.starts)))[:, 0]
    truth = model.squash(
        measured.nominal - torch.tensor(np.concatenate([r.measured[:, 0] for r in runs]), dtype=torch.float32)
    )[data.starts]
    known = torch.isfinite(truth)
    assert float(torch.corrcoef(torch.stack([margin[known], truth[known]]))[0, 1]) > 0.6


def test_what_is_not_usual_teaches_the_guardrail_heads_alone(trained: Trained) -> None:
    model, data = trained.model, data_of(trained.model, trained.held_out)
    starts = data.starts[:64]
    parts = losses(
        model, data, starts, QUICK.model_copy(update={"padded_share": 0.0}), torch.Generator().manual_seed(0),
        usual=torch.zeros(64),
    )  # fmt: skip
    assert parts.prediction == parts.read_out == parts.inverse == 0.0
    assert parts.guardrail > 0.0
