"""The PID baseline: it settles without offset, does not wind up, does not bump, and runs batches."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Observation, Status, Targets
from plant.errors import ControlError
from plant.spec import load_spec

LOW, HIGH = np.array([290.0]), np.array([310.0])


@pytest.fixture
def controller():
    return PidController(load_spec("reactor"), (PidLoop(pv="AI101", mv="TC101", gain=-60.0, integral_s=120.0),))


def ask(controller, value, applied, target):
    """One decision for a batch whose AI101 is `value`."""
    value, applied = np.atleast_1d(value), np.reshape(applied, (-1, 1))
    measured = np.stack([value, np.full_like(value, 325.0), np.full_like(value, 300.0)], axis=1)
    observation = Observation(0.0, measured, np.zeros((len(value), 2)), applied)
    return controller.decide(observation, Targets(np.full((len(value), 1, 1), target), LOW, HIGH))


def run(controller, x, u, target, samples, disturbance=0.0):
    """A first-order plant, x in mol/L falling with u in K, in place of the analyser."""
    for _ in range(samples):
        u = ask(controller, x, u, target).moves[:, 0]
        x = x + 0.3 * (0.87 - 0.01 * (u - 300.0) + disturbance - x)
    return x, u


def test_settles_on_target_under_a_disturbance_for_a_batch(controller):
    x, _ = run(controller, np.array([0.80, 0.87, 0.95]), np.array([300.0, 295.0, 305.0]), 0.88, 400, 0.02)
    assert np.abs(x - 0.88).max() < 1e-4


def test_first_move_starts_from_the_move_in_force(controller):
    decision = ask(controller, 0.85, 296.5, 0.87)
    assert decision.moves[0, 0] == pytest.approx(296.5, abs=1e-9)
    assert decision.status == (Status.FEASIBLE,)
    assert np.isnan(decision.predicted).all()


def test_does_not_wind_up_at_a_limit(controller):
    x, u = run(controller, np.array([0.87]), np.array([300.0]), 0.5, 200)
    assert u[0] == 310.0
    samples = 0
    while u[0] > 308.0:
        x, u = run(controller, x, u, 0.90, 1)
        samples += 1
    assert samples <= 3


def test_follows_a_move_it_did_not_ask_for(controller):
    run(controller, np.array([0.87]), np.array([300.0]), 0.87, 5)
    decision = ask(controller, 0.87, 294.0, 0.87)
    assert decision.moves[0, 0] == pytest.approx(294.0, abs=0.5)


def test_holds_without_its_measurement_and_gives_up_without_its_read_back(controller):
    run(controller, np.array([0.87]), np.array([300.0]), 0.87, 5)
    assert ask(controller, np.nan, 301.0, 0.87).moves[0, 0] == 301.0
    assert np.isfinite(ask(controller, 0.87, 301.0, 0.87).moves).all()
    assert ask(controller, 0.87, np.nan, 0.87).status == (Status.INFEASIBLE,)
    assert np.isfinite(ask(controller, 0.87, 301.0, 0.87).moves).all()


def test_a_loop_that_fits_nothing_is_refused():
    for pv, mv in (("TI101", "TC101"), ("AI101", "TI101")):
        with pytest.raises(ControlError, match="a loop from"):
            PidController(load_spec("reactor"), (PidLoop(pv=pv, mv=mv, gain=1.0, integral_s=10.0),))
