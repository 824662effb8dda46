"""Gains: true ones lie in their intervals, what nobody can know is said by name, and all of it survives a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.site.linear_plants import SAMPLE_S, Believer, archive, plant_of
from models.gain_estimate import gains_of
from models.gains import Gains
from models.windows import Run

PLANT = plant_of(11)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return archive(PLANT, 100, 11)


@pytest.fixture(scope="module")
def gains(runs: list[Run]) -> Gains:
    return gains_of(PLANT.spec, runs)


def test_intervals_hold_the_true_gains_and_no_sign_is_wrong(gains: Gains) -> None:
    held = (gains.low[0] <= PLANT.gain) & (PLANT.gain <= gains.high[0])
    assert held.mean() >= 0.75, "nine of ten on average; the benchmark counts over many plants"
    assert not (gains.sure[0] & (PLANT.gain != 0) & (np.sign(gains.gain[0]) != np.sign(PLANT.gain))).any()
    assert (gains.sure[0] & (PLANT.gain != 0)).sum() >= 0.6 * (PLANT.gain != 0).sum()


def test_what_integrates_is_named_and_never_settles(gains: Gains) -> None:
    assert gains.integrating.tolist() == PLANT.integrating.tolist()
    assert np.isinf(gains.settling_s[-1]).any()
    assert "Y5 integrates: its gains are slopes an hour" in gains.sentences


def test_dead_time_and_settling_are_those_of_the_lag(gains: Gains) -> None:
    known = gains.sure[0] & ~gains.integrating[:, None] & (np.abs(PLANT.gain) > 0.5)
    late = gains.dead_s[known] / SAMPLE_S - PLANT.delay[known]
    share = gains.settling_s[known] / SAMPLE_S / (PLANT.delay + 3 * PLANT.lag)[known]
    assert abs(np.nanmedian(late)) < 3
    assert 0.7 < np.nanmedian(share) < 1.6


def test_runs_cut_in_pieces_say_the_same_as_the_whole(gains: Gains, runs: list[Run]) -> None:
    run, size = runs[0], 180
    pieces = [
        Run(
            run.kind, at * SAMPLE_S, *(p[at : at + size] for p in (run.measured, run.dvs, run.applied, run.labels))
        )
        for at in range(0, len(run), size)
    ]  # fmt: skip
    np.testing.assert_allclose(gains_of(PLANT.spec, pieces[::-1]).gain, gains.gain)


def test_what_nobody_can_know_is_said_by_name_and_is_never_sure() -> None:
    still = gains_of(PLANT.spec, archive(PLANT, 60, 3, still=(3,)))
    assert "U3 never moved: nobody can know its gains; test it" in still.sentences
    both = gains_of(PLANT.spec, archive(PLANT, 60, 3, together=(2, 3)))
    assert both.pairs == (("U2", "U3"),)
    assert any(s.startswith("U2 and U3 only ever moved together") for s in both.sentences)
    for some, blind in ((still, [3]), (both, [2, 3])):
        assert not some.sure[:, :, blind].any()
        assert np.isinf(some.low[:, :, blind]).all()
        assert {some.grades[i][j] for i in range(6) for j in blind} == {"D"}
    assert still.sure[0, :, :3].any()


def test_an_mv_that_only_follows_a_disturbance_is_named() -> None:
    run = archive(PLANT, 60, 3)[0]
    follows = np.concatenate([run.applied[:, :3], 0.7 * run.dvs], 1)
    found = gains_of(PLANT.spec, [replace(run, applied=follows)])
    assert "U3 only ever moved as D0 did: nobody can know its own gains; test it alone" in found.together
    assert not found.sure[..., 3].any()


def test_one_mv_alone_and_hardly_any_data_are_no_error() -> None:
    run = archive(PLANT, 60, 3, still=(0, 1, 3))[0]
    one = gains_of(PLANT.spec, [run])
    assert len(one.unknown) >= 3
    assert one.sure[0, :, 2].any()
    few = gains_of(
        PLANT.spec, [Run("recorded", 0.0, *(p[:40] for p in (run.measured, run.dvs, run.applied, run.labels)))]
    )
    assert not few.sure.any()
    assert "Y0 has too few readings in a row: nobody can know what moves it" in few.sentences


def test_a_model_with_a_wrong_sign_is_found_and_not_believed(gains: Gains, runs: list[Run]) -> None:
    i, j = (int(k) for k in np.argwhere(gains.sure[0] & (np.abs(PLANT.gain) > 0.5))[0])
    found = gains_of(PLANT.spec, runs, Believer(PLANT, runs, [(i, j)]))
    assert np.argwhere(found.against[0]).tolist() == [[i, j]]
    assert not found.sure[0, i, j]
    assert found.grades[i][j] == "D"
    assert any(s.startswith(f"the model's gain of Y{i} to U{j} has the wrong sign") for s in found.sentences)


def test_gains_survive_a_checkpoint(gains: Gains) -> None:
    back = Gains.of_facts(json.loads(json.dumps({"gains": gains.facts()}, allow_nan=False)))
    assert back is not None
    for name in ("gain", "low", "high", "settling_s", "response"):
        np.testing.assert_allclose(getattr(back, name), getattr(gains, name), rtol=1e-4)
    assert back.grades == gains.grades
    assert Gains.of_facts({}) is None


def test_relative_gains_and_condition_of_a_known_matrix(gains: Gains) -> None:
    """Skogestad and Postlethwaite 2005, example 3.11: the LV configuration, RGA about 35, condition number 141.7."""
    g = np.array([[[0.878, -0.864], [1.082, -1.096]]])
    point = replace(gains.points[0], measured=np.zeros(2), moves=np.zeros(2))
    lv = replace(
        gains, mvs=("L", "V"), cvs=("top", "bottom"), points=(point,), gain=g, low=g - 0.01, high=g + 0.01,
        model=np.full_like(g, np.nan), integrating=np.zeros(2, bool), cv_span=np.ones(2), mv_span=np.ones(2),
        wanted=np.ones(2, bool),
    )  # fmt: skip
    np.testing.assert_allclose(lv.rga, [[35.07, -34.07], [-34.07, 35.07]], atol=0.1)
    assert lv.condition == pytest.approx(141.7, rel=0.01)
    assert lv.parallel == (("L", "V"),)


def test_a_plant_that_bends_has_more_than_one_operating_point() -> None:
    rng = np.random.default_rng(5)
    run = archive(PLANT, 100, 5)[0]
    t = np.arange(len(run))
    u = np.where(t * 4 // len(t) % 2, 8.0, -8.0) + rng.uniform(-2, 2, len(t))[t // 20]
    y = np.zeros(len(u))
    for t in range(1, len(u)):
        y[t] = 0.8 * y[t - 1] + 0.2 * 0.05 * u[t] ** 2
    bent = replace(
        run, applied=np.concatenate([run.applied[:, :3], u[:, None]], 1),
        measured=np.concatenate([run.measured[:, :5], y[:, None] + 0.05 * rng.standard_normal((len(u), 1))], 1),
    )  # fmt: skip
    found = gains_of(PLANT.spec, [bent])
    assert len(found.points) >= 2
    signs = {np.sign(found.gain[p, 5, 3]) for p in range(len(found.points)) if found.sure[p, 5, 3]}
    assert signs == {-1.0, 1.0}
    assert found.at(found.points[1].measured, found.points[1].moves) == 1


def test_a_reading_too_slow_for_the_data_keeps_the_signs_of_its_gains() -> None:
    """A lag of 30 h in 40 h of data: the way back cannot be seen, what a move begins can."""
    rng = np.random.default_rng(7)
    run = archive(PLANT, 40, 7)[0]
    u, drift = run.applied, rng.standard_normal(len(run)).cumsum() * 0.002
    y = np.zeros(len(u))
    for t in range(1, len(u)):
        y[t] = y[t - 1] + (3.0 * u[t, 2] - 3.0 * u[t, 3] - y[t - 1]) / 1800
    measured = np.concatenate([run.measured[:, :5], (y + drift + 0.005 * rng.standard_normal(len(u)))[:, None]], 1)
    found = gains_of(PLANT.spec, [replace(run, measured=measured)])
    if not found.integrating[5]:
        assert found.low[0, 5, 2] <= 3.0 <= found.high[0, 5, 2]
    assert found.low[0, 5, 2] > 0 > found.high[0, 5, 3]
