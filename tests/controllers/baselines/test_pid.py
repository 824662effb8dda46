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


INNER = PidLoop(pv="TI101", mv="TC101", gain=2.0, integral_s=120.0)
OUTER = PidLoop(pv="AI101", mv="TI101", gain=-60.0, integral_s=180.0, limits=(300.0, 335.0))


def test_cascade_settles_without_offset_under_an_unmeasured_feed_step(stepped):
    spec = load_spec("reactor")
    runs = stepped(
        spec, PidController(spec, (INNER, OUTER)), {"Caf": 1.03}, {"AI101": 0.88}, samples=140, at=60, batch=2
    )
    assert np.abs(runs.true["AI101"][:, 55:61] - 0.88).max() < 1e-3
    assert np.abs(runs.true["AI101"][:, 62:66] - 0.88).max() > 5e-3
    assert np.abs(runs.true["AI101"][:, -3:] - 0.88).max() < 1e-3


def test_cascade_starts_without_a_bump_and_starts_again_after_a_hand_move():
    spec = load_spec("reactor")
    cascade = PidController(spec, (OUTER, INNER))
    assert ask(cascade, 0.80, 296.5, 0.87).moves[0, 0] == pytest.approx(296.5, abs=1e-9)
    for _ in range(5):
        ask(cascade, 0.80, 296.5, 0.87)  # somebody holds the MV where it is
    assert ask(cascade, 0.80, 296.5, 0.87).moves[0, 0] == pytest.approx(296.5, abs=2.5)
    alone = PidController(spec, (OUTER, INNER))
    u = 296.5
    for _ in range(7):
        u = ask(alone, 0.80, u, 0.87).moves[0, 0]
    assert u == 290.0


def test_the_outer_loop_of_a_cascade_does_not_wind_up():
    spec = load_spec("reactor")
    cascade = PidController(spec, (OUTER.model_copy(update={"limits": None}), INNER))
    u = np.array([300.0])
    for _ in range(200):  # concentration stays high: the outer loop asks for heat, the inner one is at its limit
        u = ask(cascade, 0.95, u, 0.87).moves[:, 0]
    assert u[0] == 310.0
    samples = 0
    while u[0] > 308.0:
        u = ask(cascade, 0.80, u, 0.87).moves[:, 0]
        samples += 1
    assert samples <= 3


def test_feed_forward_halves_what_a_measured_disturbance_does(stepped):
    spec = load_spec("reactor")
    loop = PidLoop(pv="AI101", mv="TC101", gain=-40.0, integral_s=180.0)
    worst = []
    for feed_forward in ({}, {"TI100": -0.48}):
        pid = PidController(spec, (loop.model_copy(update={"feed_forward": feed_forward}),))
        runs = stepped(spec, pid, {"Ti": 358.0}, {"AI101": 0.877}, samples=90, at=30, hide_dvs=False)
        worst.append(np.abs(runs.true["AI101"][0, 30:] - 0.877).max())
        assert abs(runs.true["AI101"][0, -1] - 0.877) < 2e-3
    assert worst[1] < 0.5 * worst[0]


def test_feed_forward_outlives_a_missing_reading():
    spec = load_spec("reactor")
    pid = PidController(
        spec, (PidLoop(pv="AI101", mv="TC101", gain=0.0, integral_s=1.0, feed_forward={"TI100": -0.5}),)
    )
    asked = []
    for feed in (np.nan, 350.0, 354.0, np.nan):
        dvs, applied = np.array([[feed, 100.0]]), np.array([asked[-1] if asked else [300.0]])
        observation = Observation(0.0, np.array([[0.87, 325.0, 300.0]]), dvs, applied)
        asked.append(pid.decide(observation, Targets(np.full((1, 1, 1), 0.87), LOW, HIGH)).moves[0])
    assert np.ravel(asked).tolist() == [300.0, 300.0, 298.0, 298.0]


def test_a_cascade_that_leads_nowhere_is_refused():
    spec = load_spec("reactor")
    around = PidLoop(pv="TI101", mv="AI101", gain=1.0, integral_s=10.0)
    for loops in ((OUTER,), (OUTER, around), (OUTER, INNER, INNER), (INNER,)):
        with pytest.raises(ControlError, match="a loop from"):
            PidController(spec, loops)
    with pytest.raises(ControlError, match="feed forward from"):
        PidController(spec, (OUTER, INNER.model_copy(update={"feed_forward": {"TC101": 1.0}})))
