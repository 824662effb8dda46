"""The world model's surprise: the same sample by sample as run by run, quiet on normal runs, loud on a fault, named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from controllers.planning.problem import Constraints
from controllers.runtime.surprised import surprised
from homeostat.lockstep import excitation_run
from models.calibration import Calibration
from models.checkpoint import FILES, load, save
from models.manifest import seal
from models.plant_surprise import PlantSurprise, Verdict, Watch, follow
from models.windows import Run
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

from .conftest import one_thread, runs_of

RATE = 0.002


@pytest.fixture(scope="module")
def normal(spec: PlantSpec) -> list[Run]:
    return runs_of(spec, excitation_run(spec, 90, 60, seed=7))


@pytest.fixture(scope="module")
def surprise(trained: Any, normal: list[Run]) -> PlantSurprise:
    with one_thread():
        return PlantSurprise.fit(trained.model, normal[:20]).calibrated(trained.model, normal[20:60], RATE)


def judged(surprise: PlantSurprise, model: WorldModel, runs: list[Run]) -> list[Verdict]:
    return [surprise.judge(*f) for f in follow(model, runs, surprise.steps)]


def test_sample_by_sample_is_as_run_by_run(surprise: PlantSurprise, trained: Any, normal: list[Run]) -> None:
    run = normal[61]
    gap = run.measured.copy()
    gap[30:33, 1] = np.nan
    run = replace(run, measured=gap)
    (whole,) = judged(surprise, trained.model, [run])
    watch = Watch(trained.model, surprise)
    for _ in range(2):  # a watch that was reset has forgotten everything
        seen = [watch.see(*(p[t : t + 1] for p in (run.measured, run.dvs, run.applied))) for t in range(len(run))]
        for name in ("residual", "density"):
            got = np.concatenate([getattr(v, name) for v in seen])
            np.testing.assert_allclose(got, getattr(whole, name), rtol=1e-4, atol=1e-5)
            assert (got[: surprise.settle] == 0).all()
            assert (got[surprise.settle :] > 0).all()
        watch.reset()


def test_several_plants_are_watched_at_once_as_each_alone(
    surprise: PlantSurprise, trained: Any, normal: list[Run]
) -> None:
    runs = [normal[62], replace(normal[63], measured=normal[63].measured + np.array([0.0, 4.0, 0.0]))]
    watch, alone = Watch(trained.model, surprise, batch=2), [Watch(trained.model, surprise) for _ in runs]
    for t in range(min(map(len, runs))):
        rows = [[getattr(r, p)[t : t + 1] for p in ("measured", "dvs", "applied")] for r in runs]
        together = watch.see(*(np.concatenate(part) for part in zip(*rows, strict=True)))
        each = [one.see(*row) for one, row in zip(alone, rows, strict=True)]
        for name in ("residual", "density", "blame"):
            single = np.concatenate([getattr(v, name) for v in each])
            np.testing.assert_allclose(getattr(together, name), single, rtol=1e-4, atol=1e-5)


def test_normal_runs_pass_the_limit_about_as_often_as_promised(
    surprise: PlantSurprise, trained: Any, normal: list[Run]
) -> None:
    found = judged(surprise, trained.model, normal[60:])
    for name in ("residual", "density"):
        scores = np.concatenate([getattr(v, name)[surprise.settle :] for v in found])
        assert np.mean(scores > 1) < 10 * RATE
    assert surprise.rate == RATE


@pytest.mark.parametrize("tag", ["AI101", "TI101", "TI102"])
def test_a_wrong_sensor_passes_the_limit_and_is_named(
    surprise: PlantSurprise, trained: Any, normal: list[Run], spec: PlantSpec, tag: str
) -> None:
    j = [t.name for t in spec.measured].index(tag)
    low, high = trained.model.channel_std[j] * 5, 35
    wrong = []
    for run in normal[60:70]:
        measured = run.measured.copy()
        measured[high:, j] += float(low)
        wrong.append(replace(run, measured=measured))
    found = judged(surprise, trained.model, wrong)
    assert np.mean([v.residual[high:].max() > 1 for v in found]) > 0.9
    first = [v.blame[high].argmax() == j for v in found]
    assert np.mean(first) > 0.7
    np.testing.assert_allclose([v.blame[high].sum() for v in found], 1.0, atol=1e-6)


def test_moves_that_were_not_made_are_seen(surprise: PlantSurprise, trained: Any, normal: list[Run]) -> None:
    lied = [replace(run, applied=normal[i].applied) for i, run in enumerate(normal[60:70])]
    usual, found = (judged(surprise, trained.model, runs) for runs in (normal[60:70], lied))
    median = [np.median(np.concatenate([v.residual[surprise.settle :] for v in runs])) for runs in (usual, found)]
    assert median[1] > 2 * median[0]


def test_a_state_never_seen_is_dense_nowhere(surprise: PlantSurprise, trained: Any, normal: list[Run]) -> None:
    far = [replace(run, measured=run.measured + 10 * trained.model.channel_std[:3].numpy()) for run in normal[60:65]]
    assert all((v.density[surprise.settle :] > 1).all() for v in judged(surprise, trained.model, far))


def test_a_state_never_seen_is_told_by_the_tag_that_is_farthest(
    surprise: PlantSurprise, trained: Any, normal: list[Run]
) -> None:
    run, watch = normal[60], Watch(trained.model, surprise)
    far = run.measured.copy()
    far[:, 1] += 10 * float(trained.model.channel_std[1])
    for t in range(len(run)):
        verdict = watch.see(far[t : t + 1], run.dvs[t : t + 1], run.applied[t : t + 1])
    assert verdict.density[0] > 1
    told = surprised(replace(verdict, residual=np.zeros(1)), watch.tags).text
    assert f"{watch.tags[1]} is farthest" in told


def test_an_unknown_move_leaves_nothing_to_compare(trained: Any, normal: list[Run]) -> None:
    applied = normal[0].applied.copy()
    applied[30] = np.nan
    ((errors, z),) = follow(trained.model, [replace(normal[0], applied=applied)], (1, 5))
    n = normal[0].measured.shape[1]
    assert np.isnan(errors[30]).all()
    assert np.isfinite(errors[31, :n]).all()
    assert np.isnan(errors[31:35, n:]).all()
    assert np.isfinite(z).all()


def test_limits_from_few_samples_are_wide_and_come_down_with_more(trained: Any, normal: list[Run]) -> None:
    """The promise is the same; what differs is how much must be allowed for."""
    fitted = PlantSurprise.fit(trained.model, normal[:20])
    few, many = (fitted.calibrated(trained.model, normal[20 : 20 + n], 1e-3) for n in (4, 60))
    assert few.rate == many.rate == 1e-3
    for which in (0, 1):
        assert few.limits[which] > many.limits[which]
    with pytest.raises(ModelError, match="no normal run"):
        PlantSurprise.fit(trained.model, [])
    with pytest.raises(ModelError, match="no normal run"):
        fitted.calibrated(trained.model, [])


def test_few_runs_both_fit_and_limit(trained: Any, normal: list[Run]) -> None:
    """Six runs: each is scored by what was fitted to others, and fresh ones pass no more often than promised."""
    surprise = PlantSurprise.of_runs(trained.model, normal[:2], normal[2:6])
    assert surprise is not None
    fresh = judged(surprise, trained.model, normal[30:])
    for name in ("residual", "density"):
        assert max(getattr(v, name).max() for v in fresh) <= 1
    assert PlantSurprise.of_runs(trained.model, normal[:1]) is None


def test_it_comes_back_from_a_checkpoint_and_a_damaged_one_is_refused(
    surprise: PlantSurprise, trained: Any, spec: PlantSpec, normal: list[Run], tmp_path: Path
) -> None:
    model = trained.model
    calibration = Calibration.none(model.config.horizon, len(Constraints(model)))
    save(tmp_path, model, calibration, {}, "card", surprise)
    back = load(tmp_path, spec)
    assert back.surprise is not None
    (one,), (other,) = (judged(s, model, normal[61:62]) for s in (surprise, back.surprise))
    for name in ("residual", "density", "blame"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["surprise.tails"][0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    seal(tmp_path, FILES)
    with pytest.raises(ModelError, match="surprise"):
        load(tmp_path, spec)
