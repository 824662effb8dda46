"""The rivals: what each is sure to learn, gaps in the data, and the one interface."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.config import ModelConfig, TrainingConfig
from models.rivals.arx import Arx
from models.rivals.contract import Forecaster
from models.rivals.latent import LatentForecaster
from models.rivals.registry import RIVALS, train_rival
from models.rivals.stretches import Stretches, rms, whole
from models.windows import Run, WindowSet, channel_scale, filled
from plant.errors import ModelError
from plant.spec import PlantSpec

TINY = ModelConfig(window=4, latent=8, encoder_width=32, predictor_width=32, head_width=16, horizon=6)
QUICK = TrainingConfig(steps=300, batch=64, sigreg_slices=16)


LAST = np.array([False, False, True])  # of the reactor's measured tags


def linear_system(spec: PlantSpec, count: int, alone: bool = False) -> list[Run]:
    """A stable linear system in the reactor's tags, without noise: y(t+1) from y(t), y(t-1), d(t) and u(t+1). `alone`: nothing
    depends on the last measured tag."""
    rng = np.random.default_rng(0)
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    centre, span = (np.array(v) for v in zip(*((t.nominal, (t.range[1] - t.range[0]) / 10) for t in tags), strict=True))
    nm, nd, nu = len(spec.measured), len(spec.dvs), len(spec.mvs)
    a1 = 0.6 * np.eye(nm) + 0.1 * rng.standard_normal((nm, nm))
    a2, bd, bu = (0.1 * rng.standard_normal((nm, n)) for n in (nm, nd, nu))
    if alone:
        a1[:-1, -1] = a2[:-1, -1] = 0.0
    runs = []
    for _ in range(count):
        y, d, u = rng.standard_normal((40, nm)), rng.standard_normal((40, nd)), rng.standard_normal((40, nu))
        for t in range(2, 40):
            y[t] = a1 @ y[t - 1] + a2 @ y[t - 2] + bd @ d[t - 1] + bu @ u[t]
        rows = np.concatenate([y, d, u], 1) * span + centre
        nothing = np.full((40, len(spec.guardrails)), np.nan)
        runs.append(Run("excitation", 0.0, rows[2:, :nm], rows[2:, nm : nm + nd], rows[2:, nm + nd :], nothing[2:]))
    return runs


@pytest.fixture(scope="module")
def linear_runs(spec: PlantSpec) -> list[Run]:
    return linear_system(spec, 40)


def stretch(runs: list[Run], at: int, window: int, k: int) -> tuple[torch.Tensor, ...]:
    """Window, moves, disturbances and the truth of the k samples after sample `at` of every run that has them."""
    span = slice(at - window + 1, at + k + 1)
    runs = [r for r in runs if len(r) > at + k and np.isfinite([*r.applied[span].flat, *r.measured[span].flat]).all()]

    def stacked(*parts: NDArray[np.float64]) -> torch.Tensor:
        return torch.tensor(np.stack(parts))

    rows = [np.concatenate([r.measured, r.dvs, r.applied], 1) for r in runs]
    return (
        stacked(*(r[at - window + 1 : at + 1] for r in rows)),
        stacked(*(r.applied[at + 1 : at + 1 + k] for r in runs)),
        stacked(*(r.dvs[at : at + k] for r in runs)),
        stacked(*(r.measured[at + 1 : at + 1 + k] for r in runs)),
    )


def error_of(model: Forecaster, runs: list[Run], at: int = 12, k: int = 6) -> float:
    """Root mean square error in normalised units."""
    window, u, d, y = stretch(runs, at, model.config.window, k)
    with torch.no_grad():
        error = (model.rollout(window, u, d) - y) / model.channel_std[: model.n_measured]
    return float(error.square().mean().sqrt())


@pytest.mark.parametrize("name", ["arx", "subspace"])
def test_linear_rivals_recover_a_linear_system(name: str, spec: PlantSpec, linear_runs: list[Run]) -> None:
    model = train_rival(name, spec, linear_runs[:30], linear_runs[30:35], TINY, QUICK)
    # The rows are float32: 1e-7 of their spread is as exact as the data. A ridge costs subspace some of it.
    assert error_of(model, linear_runs[35:], k=20) < {"arx": 1e-5, "subspace": 1e-2}[name]


@pytest.mark.parametrize("name", ["arx", "subspace"])
def test_a_slow_analyser_costs_the_other_tags_nothing(name: str, spec: PlantSpec) -> None:
    """Six runs with one tag read every tenth sample, which nothing else depends on: the others are learned as if it were not
    there. The samples at which all are new are far fewer than regressors."""
    runs = [
        dataclasses.replace(r, measured=np.where((np.arange(len(r)) % 10 > 0)[:, None] & LAST, np.nan, r.measured))
        for r in linear_system(spec, 16, alone=True)
    ]
    learned, asked = runs[:6], runs[8:]
    new = sum(int(np.isfinite(r.measured[TINY.window :]).all(1).sum()) for r in learned)
    model = train_rival(name, spec, learned, runs[6:8], TINY, QUICK)
    data = WindowSet(asked, channel_scale(spec, learned), TINY.window, TINY.horizon)
    part = Stretches.of(data, whole(data)).double()
    with torch.no_grad():
        error = rms(model.roll(part.values, part.mask, part.u, part.d), part)
    assert new < TINY.window * model.channels
    assert float(error[:-1].max()) < 0.05


def test_folds_choose_the_same_again(spec: PlantSpec, linear_runs: list[Run]) -> None:
    model = train_rival("arx", spec, linear_runs[:30], linear_runs[30:35], TINY, QUICK.model_copy(update={"steps": 1}))
    assert isinstance(model, Arx)
    assert model.theta.shape == (TINY.window * model.channels + model.n_mv + 1, model.n_measured)
    again = train_rival("arx", spec, linear_runs[:30], linear_runs[30:35], TINY, QUICK.model_copy(update={"steps": 1}))
    assert isinstance(again, Arx)
    assert torch.equal(model.theta, again.theta)


def test_a_tag_without_readings_is_named(spec: PlantSpec, linear_runs: list[Run]) -> None:
    """Its first reading comes before any whole window."""

    def silent(run: Run) -> Run:
        measured = run.measured.copy()
        measured[2:, 0] = np.nan
        return dataclasses.replace(run, measured=measured)

    with pytest.raises(ModelError, match=rf"{spec.measured[0].name}: no reading follows a whole window"):
        train_rival("arx", spec, [silent(r) for r in linear_runs[:8]], linear_runs[:4], TINY, QUICK)


@pytest.fixture(scope="module")
def trained_rivals(spec: PlantSpec, recorded: list[Run]) -> dict[str, Forecaster]:
    train, held = [r for i, r in enumerate(recorded) if i % 3], recorded[::3]
    return {name: train_rival(name, spec, train, held, TINY, QUICK) for name in RIVALS}


@pytest.mark.parametrize("name", [n for n in RIVALS if n != "persistence"])
def test_every_rival_beats_persistence(name: str, trained_rivals: dict[str, Forecaster], recorded: list[Run]) -> None:
    held = recorded[::3]
    assert error_of(trained_rivals[name], held) < 0.8 * error_of(trained_rivals["persistence"], held)


@pytest.mark.parametrize("name", RIVALS)
def test_gaps_are_bridged(name: str, trained_rivals: dict[str, Forecaster], recorded: list[Run]) -> None:
    model = trained_rivals[name]
    window, u, d, _ = stretch(recorded, 12, 8, 6)
    whole = model.rollout(window, u, d).detach()
    holes = window.clone()
    holes[:, 5, 0] = torch.nan
    bridged = model.rollout(holes, u, d).detach()
    assert bool(torch.isfinite(bridged).all())
    std = model.channel_std[: model.n_measured]
    assert float(((bridged - whole) / std).square().mean().sqrt()) < 0.5
    assert bool(torch.isfinite(model.rollout(torch.full_like(window, torch.nan), u, d)).all())


@pytest.mark.parametrize("name", [n for n in RIVALS if n != "persistence"])
def test_rollouts_are_differentiable_in_the_moves(
    name: str, trained_rivals: dict[str, Forecaster], recorded: list[Run]
) -> None:
    window, u, d, _ = stretch(recorded, 12, 8, 6)
    moves = u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(trained_rivals[name].rollout(window, moves, d)[:, -1].sum(), moves)
    assert float(slope.abs().amax(0).min()) > 0


def test_the_world_model_answers_as_its_own_methods_do(trained, recorded: list[Run]) -> None:
    window, u, d, _ = stretch(recorded, 12, trained.model.config.window, 3)
    model = trained.model
    z = model.encode(window.float())
    for i in range(3):
        z = model.advance(z, u[:, i].float(), d[:, i].float())
    torch.testing.assert_close(LatentForecaster(model).rollout(window, u, d)[:, -1], model.read_out(z))


@pytest.mark.parametrize("name", ["arx", "gru", "reconstruction"])
def test_a_seed_repeats(name: str, spec: PlantSpec, recorded: list[Run]) -> None:
    few = QUICK.model_copy(update={"steps": 5})
    one, two = (train_rival(name, spec, recorded[1:], recorded[:4], TINY, few) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_the_gru_keeps_to_its_budget(trained_rivals: dict[str, Forecaster], trained) -> None:
    gru = trained_rivals["gru"].size
    wide = sum(p.numel() for p in trained_rivals["random_encoder"].parameters())
    assert 0.9 * wide < gru <= 1.05 * wide


def test_an_unknown_rival_is_one_clear_error(spec: PlantSpec, recorded: list[Run]) -> None:
    with pytest.raises(ModelError, match=r"no rival is called 'oracle'.*persistence, arx"):
        train_rival("oracle", spec, recorded, recorded, TINY, QUICK)


def test_gaps_are_filled_from_before_or_else_from_after() -> None:
    values = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]]])
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    assert filled(values, mask)[0, :, 0].tolist() == [1.0, 1.0, 3.0]
    assert filled(values, mask)[0, :, 1].tolist() == [0.0, 0.0, 0.0]
    assert filled(values.flip(1), mask.flip(1) * torch.tensor([[[0.0], [1.0], [1.0]]]))[0, 0, 0] == 1.0
