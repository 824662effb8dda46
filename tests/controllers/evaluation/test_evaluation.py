"""Controllers beside each other: paired conditions, scores worked out by hand, differences that are zero for twins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Controller, Status
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from controllers.evaluation.evaluation import Row, compared, evaluate, half_interval, scheduled, scores, stepped_targets
from controllers.runtime.targets import Change
from homeostat.evaluate import Held
from homeostat.evaluation_report import write
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    return load_spec("reactor_bare")


def pid(spec: PlantSpec, gain: float = -120.0) -> Controller:
    return PidController(spec, (PidLoop(mv="Tc", pv="Ca", gain=gain, integral_s=90.0),))


@pytest.fixture(scope="module")
def rows(spec: PlantSpec) -> list[Row]:
    makers = {"PID": lambda n: pid(spec), "its twin": lambda n: pid(spec), "held": lambda n: Held(spec)}
    return evaluate(spec, makers, load_scenario("operation", spec), runs=3, seeds=(4, 5, 6))


def test_targets_are_those_of_the_seed_and_inside_their_limits(spec: PlantSpec) -> None:
    one, same, other = (stepped_targets(spec, 5, 30, seed) for seed in (1, 1, 2))
    assert one.shape == (5, 30, 1)
    assert (one == same).all()
    assert not (one == other).any()
    low, high = spec.targets[0].limits
    assert ((one > low) & (one < high)).all()
    assert all(len(np.unique(run)) == 3 for run in one)


def test_all_controllers_meet_the_same_plants(rows: list[Row]) -> None:
    for a, b in zip(rows[0].seeds, rows[2].seeds, strict=True):
        np.testing.assert_array_equal(a.targets, b.targets)
        np.testing.assert_array_equal(a.true["Ca"][:, 0], b.true["Ca"][:, 0])
        np.testing.assert_array_equal(a.dvs, b.dvs)


def test_a_twin_differs_by_nothing_and_a_worse_controller_by_something(spec: PlantSpec, rows: list[Row]) -> None:
    first, twin, held = compared(spec, rows)["error Ca"]
    assert first.difference is None
    assert twin.difference == (0.0, 0.0)
    assert held.difference is not None
    assert held.difference[0] > 0
    assert held.mean == pytest.approx(first.mean + held.difference[0])


def test_scores_by_hand(spec: PlantSpec) -> None:
    n, rail = 15, spec.guardrails[0]
    true = {"Ca": np.full((2, n + 1), 0.9), "T": np.full((2, n + 1), 324.0)}
    worst = {g.name: np.full((2, n), 324.0) for g in spec.guardrails}
    worst[rail.name][1, 7] = rail.limit + 1.0
    moves = np.full((2, n, 1), 300.0)
    moves[0, 5:] += 2.0
    measured = np.full((2, n, 2), 1.0)
    status = [(Status.OPTIMAL, Status.RECOVERY if k < 3 else Status.FEASIBLE) for k in range(n)]
    done = Trajectories(
        true, worst, measured, np.ones((2, n, 1)), moves, moves, np.full((2, n, 2), np.nan), np.ones(n), status,
        np.full((2, n, 1), 0.87),
    )  # fmt: skip
    found = scores(spec, done)
    np.testing.assert_allclose(found["error Ca"], 0.03 * n * spec.sample_time_s / 60)
    np.testing.assert_allclose(found["offset Ca"], 0.03)
    np.testing.assert_array_equal(found[f"past {rail.name}"], [0, 1])
    low, high = next(t.move.limits for t in spec.mvs if t.move)
    np.testing.assert_allclose(found["travel Tc"], [2.0 / (high - low), 0.0])
    np.testing.assert_allclose(found["unsound"], [0.0, 3 / n])
    np.testing.assert_array_equal(found["ended"], [0, 0])


def test_intervals_are_those_of_students_t() -> None:
    assert half_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
    assert np.isnan(half_interval(np.array([1.0])))


def test_the_report_holds_all_of_it_and_fetches_nothing(spec: PlantSpec, rows: list[Row], tmp_path: Path) -> None:
    text = write(tmp_path, spec, rows, {"scenario": "operation", "model": "<none>"})
    assert "| error Ca | mol/L min |" in text
    assert (tmp_path / "evaluation.md").read_text() == text
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert facts["controllers"] == ["PID", "its twin", "held"]
    assert facts["scores"]["error Ca"][1]["difference"] == [0.0, 0.0]
    page = (tmp_path / "evaluation.html").read_text()
    assert page.count("<svg") == page.count("<section>") == 1 + len(spec.guardrails) + 1
    assert "&lt;none&gt;" in page
    assert not re.search(r'(src|href)\s*=\s*"(?!#)', page)


def lasting(spec: PlantSpec, **changes) -> Trajectories:
    """Two runs of 10 samples at Ca .9, T 324, Tc 300; the second ends after the sixth where `changes` does not say otherwise."""
    n = 10
    true = {"Ca": np.full((2, n + 1), 0.9), "T": np.full((2, n + 1), 324.0)}
    ended = np.zeros((2, n), bool)
    ended[1, 6:] = True
    for value in true.values():
        value[1, 7:] = np.nan
    moves = np.full((2, n, 1), 300.0)
    moves[:, 1::2] += 1.0
    fields = {
        "true": true, "worst": {g.name: np.full((2, n), 324.0) for g in spec.guardrails}, "measured": np.ones((2, n, 2)),
        "dvs": np.ones((2, n, 1)), "applied": moves, "moves": moves, "fallback": np.full((2, n, 2), np.nan), "solve_s": np.ones(n),
        "status": [(Status.TIGHT if k < 2 else Status.OPTIMAL, Status.OPTIMAL) for k in range(n)],
        "targets": np.full((2, n, 1), 0.9), "ended": ended,
    }  # fmt: skip
    return Trajectories(**{**fields, **changes})


@pytest.fixture(scope="module")
def zoned(spec: PlantSpec) -> PlantSpec:
    wants = {
        "zones": [{"tag": "T", "low": 320.0, "high": 322.0, "limits": [300.0, 350.0], "scale": 2.0}],
        "prices": [
            {"tag": "Tc", "per_unit": -0.5, "currency": "EUR"},
            {"tag": "Ca", "per_unit": 10.0, "currency": "EUR"},
        ],
    }
    return PlantSpec.model_validate({**spec.model_dump(), **wants})


def test_zones_prices_and_tight_by_hand(zoned: PlantSpec) -> None:
    found = scores(zoned, lasting(zoned, ended=np.zeros((2, 10), bool)))
    assert found["outside T"][0] == 1.0
    assert found["beyond T"][0] == pytest.approx((324.0 - 322.0) / 2.0)
    assert found["money"][0] == pytest.approx(-0.5 * 300.5 + 10.0 * 0.9)
    assert found["tight"].tolist() == [0.2, 0.0]
    assert found["unsound"].tolist() == [0.0, 0.0], "TIGHT is sound"
    moving = np.tile([[[np.nan, 322.0]]], (10, 1, 1))
    moving[5:] = [[300.0, np.nan]]
    found = scores(zoned, lasting(zoned, zones=moving))
    assert found["outside T"][0] == 0.5
    assert found["beyond T"][0] == pytest.approx(0.5)


def test_a_run_that_ended_is_never_rewarded_for_it(zoned: PlantSpec) -> None:
    found = scores(zoned, lasting(zoned))
    assert found["ended"].tolist() == [0.0, 1.0]
    for name, (lived, ended) in found.items():
        if not name.startswith(("past", "tight", "travel")):
            assert ended > lived or (name == "outside T" and lived == ended == 1.0), name
    assert found["beyond T"][1] == pytest.approx((6 * 1.0 + 4 * zoned.tag("T").span / 2.0) / 10)
    assert found["error Ca"][1] == pytest.approx(4 * zoned.tag("Ca").span * zoned.sample_time_s / 60)
    low, high = next(t.move.limits for t in zoned.mvs if t.move)
    np.testing.assert_allclose(found["travel Tc"], [9 / (high - low), 5 / 6 * 10 / (high - low)])
    assert found["unsound"][1] == pytest.approx(0.4)


def test_a_plant_that_leaves_its_equations_is_counted_as_ended(spec: PlantSpec) -> None:
    hot = {
        **spec.model_dump(),
        "tags": [t.model_dump() | ({"nominal": 310.0} if t.name == "Tc" else {}) for t in spec.tags],
    }
    hot_spec = PlantSpec.model_validate(hot)
    plant = SimulatedPlant(hot_spec, 0, 2, noise=0.0)
    plant.ended[1] = 1
    plant.x[1] = np.nan
    low, high = limits_of(hot_spec)
    done = close_loop(
        Held(hot_spec),
        plant,
        np.full((4, 1), 0.87),
        preview=False,
        move_low=low,
        move_high=high,
        first_move=plant.moves,
    )
    assert done.ended is not None
    assert done.ended.tolist() == [[False] * 4, [True] * 4]
    assert scores(hot_spec, done)["ended"].tolist() == [0.0, 1.0]


def test_a_schedule_is_followed_from_its_first_row_by_targets_and_zones(zoned: PlantSpec) -> None:
    start, step = 1.7e9, zoned.sample_time_s
    changes = [
        Change(start, "Ca", 0.86),
        Change(start + 2 * step, "Ca", 0.88),
        Change(start + step, "T", (None, 330.0)),
    ]
    targets, zones = scheduled(zoned, changes, 4)
    assert targets[:, 0].tolist() == [0.86, 0.86, 0.88, 0.88]
    assert zones is not None
    np.testing.assert_equal(zones[:, 0], [[320.0, 322.0], *[[np.nan, 330.0]] * 3])
    seen = []

    class Sees(Held):
        def decide(self, observation, targets):
            seen.append(targets)
            return super().decide(observation, targets)

    class Ahead(Sees):
        horizon = 3

    rows = evaluate(
        zoned,
        {"held": lambda plant: Ahead(zoned)},
        load_scenario("operation", zoned),
        runs=2,
        seeds=(1,),
        preview=True,
        schedule=changes,
    )
    assert seen[0].values[:, :, 0].tolist() == [[0.86, 0.86, 0.88]] * 2
    np.testing.assert_equal(seen[1].zones, [[np.nan, 330.0]])
    assert rows[0].seeds[0].zones is not None


def test_the_report_has_zones_and_money(zoned: PlantSpec, tmp_path: Path) -> None:
    rows = [Row("one", [lasting(zoned)]), Row("other", [lasting(zoned)])]
    text = write(tmp_path, zoned, rows, {"scenario": "operation"})
    assert "| outside T | share of samples |" in text
    assert "| beyond T | zone scales |" in text
    assert "| money | EUR/h |" in text
    assert "| tight | share of samples |" in text
    assert "T: true value against its zone" in (tmp_path / "evaluation.html").read_text()
