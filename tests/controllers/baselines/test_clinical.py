"""The clinical baselines: doses by hand, limits, suspension, missing CGMs, and short closed loops."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.clinical import TUNED, BasalBolus, Clinical, PdGains, PdInsulinFeedback
from controllers.contracts import Observation, Targets
from controllers.evaluation.glucose import live
from plant.errors import ControlError
from plant.spec import load_spec
from simulators.glucose.meals import Announcing, meals
from simulators.glucose.patients import Cohort, Therapy, draw

_SPEC = load_spec("glucose")
_THERAPY = Therapy(*(np.array([v, v]) for v in (1.2, 60.0, 10.0, 30.0)))
_LOW, _HIGH = np.array([0.0]), np.array([90.0])


def _ask(
    controller: Clinical, cgm: float, announced: float = 0.0, applied: float = 1.2, high: np.ndarray = _HIGH
) -> float:
    """The rate for the first of two plants, U/h; the second sees 140 mg/dL and no meal."""
    measured = np.array([[cgm, 2.0], [140.0, 2.0]])
    observation = Observation(0.0, measured, np.array([[announced], [0.0]]), np.array([[applied], [1.2]]))
    decision = controller.decide(observation, Targets(np.full((2, 1, 1), 140.0), _LOW, high))
    assert decision.moves.shape == (2, 1)
    return float(decision.moves[0, 0])


def test_bolus_by_hand_and_at_the_pump_s_speed() -> None:
    controller = BasalBolus(_SPEC, _THERAPY)
    rates = [_ask(controller, 200.0, 60.0)] + [_ask(controller, 200.0) for _ in range(5)]
    assert sum(rates) / 12.0 == pytest.approx(60.0 / 10.0 + 60.0 / 30.0 + 6 * 0.1, abs=1e-6)
    assert rates[0] == pytest.approx(90.0)
    assert rates[2:] == pytest.approx([1.2] * 4)


def test_no_correction_near_the_target_and_none_without_a_meal() -> None:
    controller = BasalBolus(_SPEC, _THERAPY)
    assert _ask(controller, 149.0, 20.0) / 12.0 == pytest.approx(2.1)
    assert _ask(controller, 300.0) == pytest.approx(1.2)


def test_operator_limits_hold() -> None:
    assert _ask(BasalBolus(_SPEC, _THERAPY), 200.0, 60.0, high=np.array([5.0])) == 5.0


def test_predicted_low_suspends_the_basal() -> None:
    controller = BasalBolus(_SPEC, _THERAPY, suspend_below=80.0)
    rates = [_ask(controller, cgm) for cgm in (140.0, 130.0, 120.0, 110.0)]
    assert rates[0] > 0.0
    assert rates[-1] == 0.0
    assert _ask(BasalBolus(_SPEC, _THERAPY, 80.0), 79.0) == 0.0


def test_without_a_cgm_the_programmed_basal_runs() -> None:
    controller = PdInsulinFeedback(_SPEC, _THERAPY, TUNED[Cohort.ADULT])
    assert _ask(controller, 300.0) > 5.0
    rates = [_ask(controller, np.nan) for _ in range(6)]
    assert rates[0] > 5.0  # the last reading counts for 12 min
    assert rates[-1] == pytest.approx(1.2)
    assert _ask(PdInsulinFeedback(_SPEC, _THERAPY, TUNED[Cohort.ADULT]), np.nan) == pytest.approx(1.2)


def test_pd_by_hand_and_its_insulin_feedback() -> None:
    gains = PdGains(lead_min=30.0, feedback=1.0, within_h=1.0, most=5.0)
    controller = PdInsulinFeedback(_SPEC, _THERAPY, gains)
    assert _ask(controller, 170.0) == pytest.approx(1.2 + 1.0, abs=0.6)  # a whole pump step is 0.6 U/h
    assert _ask(PdInsulinFeedback(_SPEC, _THERAPY, gains), 600.0) <= 6.0 + 1e-9
    fed = PdInsulinFeedback(_SPEC, _THERAPY, gains)
    first = _ask(fed, 230.0)
    for _ in range(12):
        rate = _ask(fed, 230.0, applied=5.0)  # 3.2 U above basal in the hour
    assert rate < first - 1.5
    fed.reset()
    assert _ask(fed, 230.0) == pytest.approx(first)


def test_a_plant_without_insulin() -> None:
    with pytest.raises(ControlError, match="CGM"):
        BasalBolus(load_spec("reactor"), _THERAPY)


@pytest.mark.parametrize("announced", [True, False])
def test_a_day_of_meals(announced: bool) -> None:
    """Twelve held-out adults: the baselines do clearly better than the basal alone, and stay inside the pump's limits."""
    patients = draw("adult", "held_out", 12)
    how = Announcing(told=announced)
    eaten = meals("S2", 1, 12, announcing=how)
    controller: Clinical = (
        BasalBolus(_SPEC, patients.therapy, 80.0)
        if announced
        else PdInsulinFeedback(_SPEC, patients.therapy, TUNED[Cohort.ADULT])
    )
    day = live(_SPEC, controller, patients.p, eaten, seed=2, target_mg_dL=110.0)
    alone = live(
        _SPEC, BasalBolus(_SPEC, patients.therapy), patients.p, meals("S2", 1, 12, announcing=Announcing(False))
    )
    assert day.metrics.means()["tir"] > alone.metrics.means()["tir"] + 10.0
    assert day.metrics.means()["tbr54"] < 2.0
    assert not day.ended.any()
    assert day.runs.moves.min() >= 0.0
    assert day.runs.moves.max() <= 90.0
    again = live(_SPEC, controller, patients.p, eaten, seed=2, target_mg_dL=110.0)
    np.testing.assert_array_equal(again.runs.moves, day.runs.moves)
