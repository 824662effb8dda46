"""The second controller answers where, and only where, the first has no answer."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController, PidLoop
from controllers.baselines.standby import Standby
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from plant.spec import PlantSpec
from simulators.reactor import BareReactor


@pytest.fixture(scope="module")
def standby(bare: PlantSpec) -> Standby:
    pid = PidController(bare, (PidLoop(mv="Tc", pv="Ca", gain=-120.0, integral_s=90.0),))
    return Standby(NmpcController(bare, BareReactor(), horizon=6, substeps=10), pid)


def question(bare: PlantSpec, temperature: list[float], applied: float = 300.0) -> tuple[Observation, Targets]:
    low, high = limits_of(bare)
    measured = np.array([[0.87, t] for t in temperature])
    batch = len(temperature)
    observation = Observation(0.0, measured, np.full((batch, 1), 350.0), np.full((batch, 1), applied))
    return observation, Targets(np.full((batch, 1, 1), 0.88), low, high)


def test_takes_over_the_plants_without_a_plan(standby: Standby, bare: PlantSpec):
    standby.reset()
    decision = standby.decide(*question(bare, [324.5, np.nan]))
    assert decision.status == (Status.OPTIMAL, Status.FALLBACK)
    assert decision.moves[1, 0] == pytest.approx(300.0, abs=1e-9)  # bumpless: the PID starts from the move in force
    assert (decision.plan[1] == decision.moves[1]).all()
    assert np.isnan(decision.predicted[1]).all()
    assert np.isfinite(decision.predicted[0]).all()
    moved = standby.decide(*question(bare, [324.5, np.nan]))
    assert moved.moves[1, 0] < 300.0
    assert standby.decide(*question(bare, [324.5, 324.5])).status == (Status.OPTIMAL, Status.OPTIMAL)


def test_neither_has_an_answer(standby: Standby, bare: PlantSpec):
    standby.reset()
    assert standby.decide(*question(bare, [324.5], np.nan)).status == (Status.INFEASIBLE,)
