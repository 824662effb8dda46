"""Controllers beside each other: paired conditions, scores worked out by hand, differences that are zero for twins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Controller, Status
from controllers.evaluation.closed_loop import Trajectories
from controllers.evaluation.evaluation import Row, compared, evaluate, half_interval, scores, stepped_targets
from homeostat.evaluate import Held
from homeostat.evaluation_report import write
from plant.spec import PlantSpec, load_spec
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
    measured[1, 10:] = np.nan
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
    np.testing.assert_array_equal(found["ended"], [0, 1])


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
