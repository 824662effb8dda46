"""Calibration: coverage as promised on exchangeable data, margins that are never negative, missing labels left out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from models.calibration import (
    Calibration,
    calibrate,
    calibrate_steps,
    conformal_quantile,
    errors_on,
    joint_margins,
    near_at_step,
    near_guardrail,
    nearest,
    step_margins,
    telling,
)
from models.windows import Run
from plant.errors import ModelError

from .conftest import TINY, Trained


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Skewed, heavy-tailed scores: nothing here may lean on a Gaussian."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_t(3, shape) + rng.exponential(1.0, shape))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_conformal_quantile_covers_a_new_score(level: float) -> None:
    """Coverage over many draws of 150 scores and one more lies between level and level + 1/(n + 1)."""
    n, trials = 150, 4000
    scores = draw(n + 1, trials)
    covered = (scores[-1] <= conformal_quantile(scores[:-1], level)).double().mean().item()
    spread = 4 * math.sqrt(level * (1 - level) / trials)
    assert level - spread <= covered <= level + 1 / (n + 1) + spread


@pytest.mark.parametrize(
    ("n", "level", "rank"), [(9, 0.9, 9), (10, 0.9, 10), (19, 0.9, 18), (99, 0.99, 99), (4, 0.25, 2)]
)
def test_conformal_quantile_takes_the_rank(n: int, level: float, rank: int) -> None:
    scores = torch.arange(1.0, n + 1)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    assert conformal_quantile(scores, level) == rank


def test_conformal_quantile_of_too_few_is_the_largest() -> None:
    assert conformal_quantile(torch.tensor([1.0, 5.0, 2.0]), 0.99) == 5.0


def test_joint_margins_hold_at_all_steps_at_once() -> None:
    """Errors that grow with the step and differ by constraint; a stretch counts as covered only if every step is."""
    n, trials, horizon = 200, 150, 6
    growth = torch.linspace(0.5, 4.0, horizon)[:, None] * torch.tensor([1.0, 20.0])
    covered = []
    for seed in range(trials):
        errors = (draw(n + 40, horizon, 2, seed=seed) + draw(n + 40, 1, 2, seed=1000 + seed)) * growth
        for j in range(2):
            margins = joint_margins(errors[:n, :, j : j + 1], 0.9)
            covered.append((errors[n:, :, j : j + 1] <= margins).all(1).double().mean().item())
    assert 0.87 < np.mean(covered) < 0.94


def test_joint_margins_follow_each_steps_own_spread() -> None:
    errors = draw(2000, 5, 1) * torch.tensor([0.1, 1.0, 1.0, 10.0, 10.0])[None, :, None]
    margins = joint_margins(errors, 0.9)[:, 0]
    ratio = margins / margins[1]
    torch.testing.assert_close(ratio, torch.tensor([0.1, 1.0, 1.0, 10.0, 10.0]).double(), rtol=0.2, atol=0)


def test_joint_margins_are_never_negative() -> None:
    """A head that is always pessimistic needs nothing in hand, and is given nothing back."""
    assert (joint_margins(-1 - draw(100, 4, 1).abs(), 0.9) == 0).all()


def test_joint_margins_leave_out_what_is_missing() -> None:
    errors = draw(400, 5, 1)
    holes = errors.clone()
    holes[::3, 3:] = torch.nan
    margins = joint_margins(holes, 0.9)
    assert torch.isfinite(margins).all()
    torch.testing.assert_close(margins, joint_margins(errors, 0.9), rtol=0.25, atol=0)


def test_stretches_of_which_nothing_is_known_promise_nothing() -> None:
    """A thousand empty samples must not thin out the large errors of the few that are known."""
    errors = draw(100, 5, 1)
    padded = torch.cat([errors, torch.full((1000, 5, 1), torch.nan)])
    torch.testing.assert_close(joint_margins(padded, 0.9), joint_margins(errors, 0.9))


def test_a_step_that_nobody_reached_gets_a_margin_all_the_same() -> None:
    errors = draw(200, 5, 1)
    errors[:, 4] = torch.nan
    margins = joint_margins(errors, 0.9)
    assert margins[4] == margins[:4].max()
    with pytest.raises(ModelError, match="no held-out sample"):
        joint_margins(torch.full((200, 5, 1), torch.nan), 0.9)


def test_errors_compare_with_what_happened(trained: Trained) -> None:
    """The first step of `errors_on`, worked out by hand for one start."""
    model, run = trained.model, trained.held_out[0]
    run = dataclasses.replace(run, dvs=np.full_like(run.dvs, 350.0))
    errors = errors_on(model, [run], 3)
    rails = model.spec.guardrails
    assert errors.predicted.shape == errors.true.shape == (len(run) - 1, 3, 3), "two limits and one fallback"
    at = next(i for i in range(4, 30) if torch.isfinite(errors.predicted[i]).all())
    window = np.concatenate([run.measured, run.dvs, run.applied], 1)[at - TINY.window + 1 : at + 1]
    with torch.no_grad():
        z = model.encode(torch.tensor(window, dtype=torch.float32)[None])
        u, d = (torch.tensor(a[None], dtype=torch.float32) for a in (run.applied[at + 1], run.dvs[at]))
        z = model.advance(z, u, d)
        torch.testing.assert_close(errors.predicted[at, 0, :2], model.limit_margins(z)[0], rtol=1e-3, atol=1e-3)
    column = [t.name for t in model.spec.measured].index(rails[0].tag)
    true = torch.tensor([g.limit - run.measured[at + 1, column] for g in rails], dtype=torch.float32)
    torch.testing.assert_close(errors.true[at, 0, :2], true, rtol=1e-3, atol=1e-3)


def test_errors_stop_where_a_plan_could_not_have_known(trained: Trained) -> None:
    """Past the end of the run, past an unknown move, and past a change of the feed."""
    calm = next(r for r in trained.training if len(r) == 40 and np.isfinite(r.applied).all())
    calm = dataclasses.replace(calm, dvs=np.full_like(calm.dvs, 350.0))
    whole = torch.isfinite(errors_on(trained.model, [calm], 6).predicted).all(-1)
    assert whole[:33].all()
    assert whole[-1].tolist() == [True, False, False, False, False, False]
    moves = calm.applied.copy()
    moves[20] = np.nan
    torn = torch.isfinite(errors_on(trained.model, [dataclasses.replace(calm, applied=moves)], 6).predicted).all(-1)
    assert torn[17].tolist() == [True, True, False, False, False, False], "the move of sample 20 is the third"
    assert torn[20:34].all()
    feed = calm.dvs.copy()
    feed[20:, 0] += 15.0
    stepped = torch.isfinite(errors_on(trained.model, [dataclasses.replace(calm, dvs=feed)], 6).predicted).all(-1)
    assert not stepped[15:20, 5].any()
    assert stepped[:14].all()
    assert stepped[20:33].all()


def test_calibrate_never_returns_a_negative_margin(trained: Trained) -> None:
    calibration = calibrate(trained.model, trained.held_out, TINY.horizon, 0.9)
    assert calibration.margins.shape == (TINY.horizon, 3)
    assert torch.isfinite(calibration.margins).all()
    assert (calibration.margins >= 0).all()
    assert (calibration.margins > 0).any(), "a model trained in seconds is optimistic somewhere"
    assert calibration.runs == sum(r.kind != "incident" for r in trained.held_out), "limit margins: no incidents"
    assert calibration.level == 0.9


def test_calibrated_margins_cover_the_stretches_they_came_from(trained: Trained) -> None:
    """Limit heads: at most 10 % of the calibration stretches near a guardrail exceed the margin at any step."""
    calibration = calibrate(trained.model, trained.held_out, TINY.horizon, 0.9)
    normal = [r for r in trained.held_out if r.kind != "incident"]
    errors = errors_on(trained.model, normal, TINY.horizon)
    near, tells = near_guardrail(trained.model, errors), telling(trained.model, errors)
    for j in range(2):
        assert near[:, j].sum() >= 100
        optimism = torch.where(tells, errors.optimism, torch.nan)[near[:, j]][..., j]
        over = (optimism.nan_to_num(-torch.inf) > calibration.margins[:, j] + 1e-6).any(1)
        assert over.double().mean() <= 0.1


def test_no_plan_that_keeps_its_margin_passes_the_limit_more_often_than_promised(trained: Trained) -> None:
    """Whatever is left out of a calibration, what it promises is that: told admissible, and beyond the limit all the same."""
    calibration = calibrate(trained.model, trained.held_out, TINY.horizon, 0.9)
    errors = errors_on(trained.model, [r for r in trained.held_out if r.kind != "incident"], TINY.horizon)
    near = near_guardrail(trained.model, errors)
    for j in range(2):
        let_past = (errors.predicted[..., j] > calibration.margins[:, j] + 1e-6) & (errors.true[..., j] < 0)
        assert let_past.any(1)[near[:, j]].double().mean() <= 0.1


def test_a_limit_that_nothing_came_near_is_calibrated_on_what_came_nearest() -> None:
    predicted = torch.linspace(50.0, 90.0, 1000)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    chosen = nearest(torch.stack([predicted, predicted + 5.0], 1))
    assert int(chosen.sum()) == 200
    assert predicted[chosen].max() < predicted[~chosen].min()
    few = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    assert nearest(few).tolist() == [True, False]


def test_a_worse_model_gets_wider_margins(trained: Trained) -> None:
    good = calibrate(trained.model, trained.held_out, TINY.horizon, 0.9)
    hot = trained.model.spec.measured
    column = [t.name for t in hot].index(trained.model.spec.guardrails[0].tag)

    def hotter(run: Run) -> Run:
        measured = run.measured.copy()
        measured[:, column] += np.linspace(0.0, 0.5 * len(run), len(run))  # drifts up while the model sees no reason
        return dataclasses.replace(run, measured=measured)

    bad = calibrate(trained.model, [hotter(r) for r in trained.held_out], TINY.horizon, 0.9)
    assert (bad.margins[:, 1] > good.margins[:, 1]).all()


def test_unlabelled_runs_calibrate_the_limits_alone(trained: Trained) -> None:
    bare = [dataclasses.replace(r, labels=np.full_like(r.labels, np.nan)) for r in trained.held_out]
    calibration = calibrate(trained.model, bare, TINY.horizon, 0.9)
    labelled = calibrate(trained.model, trained.held_out, TINY.horizon, 0.9)
    assert torch.isfinite(calibration.margins).all()
    torch.testing.assert_close(calibration.margins[:, :2], labelled.margins[:, :2])


def test_runs_shorter_than_the_horizon_leave_no_nan(trained: Trained) -> None:
    short = [
        Run(r.kind, r.start_s, *(a[:5] for a in (r.measured, r.dvs, r.applied, r.labels))) for r in trained.held_out
    ]
    calibration = calibrate(trained.model, short, TINY.horizon, 0.9)
    assert torch.isfinite(calibration.margins).all()
    assert (calibration.margins >= 0).all()
    one = [Run(r.kind, 0.0, *(a[:1] for a in (r.measured, r.dvs, r.applied, r.labels))) for r in short]
    with pytest.raises(ModelError, match="no run has more than"):
        calibrate(trained.model, one, TINY.horizon)


def test_no_calibration_keeps_nothing() -> None:
    none = Calibration.none(5, 3)
    assert none.margins.shape == (5, 3)
    assert (none.margins == 0).all()


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_step_margins_cover_each_step_of_a_new_run(level: float) -> None:
    """Samples of a run share an offset, so a run counts as one; every step and constraint is covered on its own."""
    runs, each, horizon, trials = 120, 8, 4, 60
    growth = torch.linspace(0.5, 4.0, horizon)[:, None] * torch.tensor([1.0, 20.0])
    covered = []
    for seed in range(trials):
        shared = draw(2 * runs, 1, horizon, 2, seed=seed).expand(-1, each, -1, -1)
        errors = ((shared + draw(2 * runs, each, horizon, 2, seed=1000 + seed)) * growth).flatten(0, 1)
        run = torch.arange(2 * runs).repeat_interleave(each)
        known = run < runs
        margins = step_margins(errors[known], run[known], level)
        assert margins.shape == (horizon, 2)
        covered.append((errors[~known] <= margins).double().mean(0))
    mean, spread = torch.stack(covered).mean(0), torch.stack(covered).std(0) / math.sqrt(trials)
    assert (mean >= level - 4 * spread).all()
    assert (mean <= level + 2 / runs + 4 * spread).all()


def test_step_margins_leave_out_what_is_unknown() -> None:
    errors = draw(300, 5, 2, seed=3)
    run = torch.arange(300)
    errors[:, 4] = torch.nan
    errors[:100, 1, 0] = torch.nan
    margins = step_margins(errors, run, 0.9)
    assert margins[1, 0] == step_margins(errors[100:], run[100:], 0.9)[1, 0]
    torch.testing.assert_close(margins[4], margins[:4].amax(0))
    assert (step_margins(-errors.abs(), run, 0.9) == 0).all(), "a head that is never optimistic needs no margin"
    errors[..., 1] = torch.nan
    with pytest.raises(ModelError, match="no held-out sample"):
        step_margins(errors, run, 0.9)


def test_calibrated_steps_cover_what_they_came_from_and_are_narrower_than_joint(trained: Trained) -> None:
    normal = [r for r in trained.held_out if r.kind != "incident"]
    errors = errors_on(trained.model, normal, TINY.horizon)
    margins = calibrate_steps(trained.model, errors, 0.9)
    assert margins.shape == (TINY.horizon, 3)
    close = near_at_step(trained.model, errors.predicted) & torch.isfinite(errors.optimism)
    over = ((errors.optimism > margins) & close).sum(0) / close.sum(0)
    assert (over[close.sum(0) >= 100] <= 0.1).all()
    assert (margins <= calibrate_steps(trained.model, errors, 0.99)).all()
    asked = torch.where(close, errors.optimism, torch.nan)
    each = step_margins(asked, torch.arange(len(asked)), 0.9)  # as joint margins count: every sample by itself
    assert each[:, :2].mean() < joint_margins(asked, 0.9)[:, :2].mean()
    assert (each <= margins).all(), "few runs promise less than many samples"
