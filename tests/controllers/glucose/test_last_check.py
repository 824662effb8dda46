"""The last check: doses it lets through, cuts and stops, a missing CGM, its adaptation, and a hostile policy for a day."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.contracts import Observation, Targets
from controllers.evaluation.glucose import live
from controllers.glucose.last_check import LastCheck, Limits, on_board
from plant.spec import load_spec
from simulators.glucose.meals import Announcing, meals
from simulators.glucose.patients import Therapy, draw
from tests.controllers.glucose.hostile import AlwaysMost

_SPEC = load_spec("glucose")
_THERAPY = Therapy(*(np.array([v]) for v in (1.2, 60.0, 8.0, 30.0)))
_TARGETS = Targets(np.full((1, 1, 1), 110.0), np.array([0.0]), np.array([90.0]))


def _ask(check: LastCheck, cgm: float, applied: float = 1.2) -> float:
    observation = Observation(0.0, np.array([[cgm, 2.0]]), np.zeros((1, 1)), np.array([[applied]]))
    return float(check.decide(observation, _TARGETS).moves[0, 0])


def _check(**limits: float) -> LastCheck:
    return LastCheck(_SPEC, AlwaysMost(_SPEC, 1), _THERAPY, Limits(**limits))


def test_insulin_on_board_falls_from_all_to_none() -> None:
    left = on_board(np.arange(0.0, 400.0, 5.0))
    assert left[0] == pytest.approx(1.0)
    assert (np.diff(left) <= 1e-12).all()
    assert (left[60:] == 0.0).all()
    action = -np.diff(left)
    assert abs(5.0 * action.argmax() - 75.0) <= 5.0


def test_the_dose_is_what_the_correction_factor_leaves_room_for() -> None:
    # (220 - 100) / (2 * 30) = 2 U at once and the basal of 5 min, in whole steps of 0.05 U
    assert _ask(_check(rise=0.0, strength=2.0), 220.0) == pytest.approx(12.0 * 2.1, abs=0.61)
    assert _ask(_check(rise=0.0, strength=2.0, most_basal=4.0), 220.0) == pytest.approx(4.8, abs=0.61)


def test_what_is_on_board_counts() -> None:
    check = _check(rise=0.0, strength=2.0)
    first = _ask(check, 220.0)
    assert _ask(check, 220.0, applied=first) <= 1.2 + 1e-9


@pytest.mark.parametrize("readings", [(70.0,), (150.0, 135.0, 120.0, 105.0)])
def test_suspends_on_a_low_and_on_a_predicted_one(readings: tuple[float, ...]) -> None:
    check = _check()
    assert [_ask(check, g) for g in readings][-1] == 0.0


def test_nothing_is_asked_for_while_the_pump_suspends_by_itself() -> None:
    """The plant's own interlock stops the pump at 75 mg/dL until 95: a dose at 90 was refused, and the loop gave up."""
    (own,) = [i for i in _SPEC.regulatory.interlocks if i.tag == "CGM"]
    assert (own.trip, own.reset) == (75.0, 95.0)
    rising = (80.0, 90.0, 94.0, 96.0)
    check = _check(leave_mg_dL=60.0, suspend_mg_dL=70.0)
    assert [_ask(check, g) > 0 for g in rising] == [True] * 4, "it has not tripped"
    check.reset()
    assert _ask(check, 74.0) == 0.0
    assert [_ask(check, g) > 0 for g in rising] == [False, False, False, True]


def test_without_a_cgm_the_basal_is_the_most() -> None:
    check = _check()
    rates = [_ask(check, g) for g in (250.0, np.nan, np.nan, np.nan, np.nan)]
    assert rates[0] > 10.0
    assert rates[-1] <= 1.2


def test_lows_strengthen_and_their_absence_relaxes() -> None:
    check = _check()
    _ask(check, 120.0)
    relaxed = float(check.strength[0])
    assert relaxed < Limits().strength
    _ask(check, 60.0)
    once = float(check.strength[0])
    assert once > relaxed
    _ask(check, 50.0)
    assert check.strength[0] / once > once / relaxed
    check.reset()
    assert check.strength[0] == Limits().strength


def test_a_hostile_policy_for_a_day() -> None:
    patients = draw("child", "training", 8, seed=3)
    eaten = meals("S2", 1, 8, announcing=Announcing(told=False))
    check = LastCheck(_SPEC, AlwaysMost(_SPEC, 8), patients.therapy, Limits(strength=2.0))
    kept = live(_SPEC, check, patients.p, eaten, seed=1)
    assert kept.metrics.tbr54.max() < 1.0
    bare = live(_SPEC, AlwaysMost(_SPEC, 8), patients.p, eaten, seed=1)
    assert bare.ended.all()
