"""What `benchmarks.planner` measures with: the clock, the paired difference, the fast NMPC."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.fast_nmpc import RtiNmpcController, SqpNmpcController
from benchmarks.planner import Bench, Timed, closed_loop, deadlines, drive, over, paired
from benchmarks.report import Report
from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Observation, Targets
from controllers.evaluation.closed_loop import limits_of
from homeostat.checkpoints import shipped
from models.checkpoint import load
from plant.spec import load_spec
from simulators.reactor import BareReactor


@pytest.fixture(scope="module")
def bench() -> Bench:
    spec = load_spec("reactor_bare")
    return Bench(spec, load(shipped("reactor_bare"), spec), Report("planner"))


def test_the_first_decision_of_a_run_is_not_counted(bench: Bench) -> None:
    timed = Timed(bench.jepa(iterations=1))
    drive(bench, timed, 3)
    drive(bench, timed, 2)
    assert len(timed.cpu_s) == len(timed.wall_s) == 5
    assert min(timed.cpu_s) > 0.0


def test_late_plans_are_counted(bench: Bench) -> None:
    assert drive(bench, bench.jepa(deadline_s=0.0), 3) == 1.0
    assert drive(bench, bench.jepa(batch=2, iterations=1), 2, batch=2) == 0.0


def test_paired_difference() -> None:
    mean, half = paired(np.array([1.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(1.96)
    assert math.isnan(paired(np.array([1.0]))[1])


@pytest.mark.parametrize(("kind", "within"), [(SqpNmpcController, 0.5), (RtiNmpcController, 2.0)])
def test_fast_nmpc_comes_to_ipopts_plan(kind: type[NmpcController], within: float) -> None:
    """Standing still and asked for the same again and again, its steps go on where the last ones ended."""
    spec = load_spec("reactor_bare")
    low, high = limits_of(spec)
    seen = Observation(0.0, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
    targets = Targets(np.full((1, 1, 1), 0.88), low, high)
    moves = []
    for which in (NmpcController, kind):
        controller = which(spec, BareReactor(), horizon=8, guardrails=False, substeps=10, suppression=0.5)
        for _ in range(6):
            decision = controller.decide(seen, targets)
        assert decision.status == ("OPTIMAL",)
        moves.append(decision.moves[0, 0])
    assert abs(moves[0] - 300.0) > 0.5, "there is something to do"
    assert abs(moves[1] - moves[0]) < within


def test_one_pass_fills_the_tables(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.planner.PLANNERS", {"second-order shooting": {"iterations": 1}, "iCEM": {"name": "icem", "candidates": 16}, "MPPI": {"name": "mppi", "candidates": 16}})  # fmt: skip
    median = closed_loop(bench, 1)
    deadlines(bench, median, 5)
    (_, columns, rows), (_, _, late) = bench.report.tables
    assert len(rows) == 6
    assert all(len(r) == len(columns) for r in rows)
    assert [r[0] for r in late] == ["second-order shooting", "iCEM", "MPPI"]
    assert len(bench.report.bars) == 4
    score, runs = bench.run(bench.jepa(iterations=1), 0)
    assert score == pytest.approx(rows[0][1]), "the same seed, the same run"
    assert over(bench.spec, runs) == 0.0
