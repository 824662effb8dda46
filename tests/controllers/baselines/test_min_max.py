"""The min-max selector on the engine: it gets there, keeps its limits, and forgets nothing it should remember."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.min_max import MinMaxController, MinMaxGains
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from plant.errors import ControlError
from plant.spec import load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant
from simulators.turbofan import HEALTH, Engine

SPEC = load_spec("turbofan").model_copy(update={"sample_time_s": 0.02, "scan_time_s": 0.02})
IDLE, TAKE_OFF = (0.745, 1818.0), (4.99, 3762.0)  # lbm/s, rpm on a hot day: 15 and 100 % of take-off thrust


def _step(start: tuple[float, float], end: tuple[float, float], seconds: float) -> Trajectories:
    """A new engine and one whose core compressor lost 2 %, on a hot day, told to change speed at once."""
    p = np.tile(Engine.p0, (2, 1))
    p[1, [HEALTH.index("hpc_eff"), HEALTH.index("hpc_flow")]] = 0.98
    d = np.tile(Engine.d0, (2, 1))
    plant = SimulatedPlant(SPEC, 4, 2, Schedule(np.zeros(1), d[None], p), moves=np.full((2, 1), start[0]))
    targets = np.full((round(seconds / 0.02), 1), end[1])
    low, high = limits_of(SPEC)
    runs = close_loop(
        MinMaxController(SPEC), plant, targets, preview=False, move_low=low, move_high=high,
        first_move=np.array([start[0]]), scans=1,
    )  # fmt: skip
    assert not plant.ended.any()
    return runs


def test_acceleration_keeps_every_limit_and_arrives() -> None:
    true = _step(IDLE, TAKE_OFF, 5.0).true
    assert (true["FN"][:, 250] > 0.95 * 50013.0).all(), "15 to 95 % within 5 s"
    assert true["T45_true"].max() < 2200.0
    for compressor in ("SM_FAN", "SM_LPC", "SM_HPC"):
        assert true[compressor].min() > 10.0
    assert true["N1_true"].max() < 1.005 * TAKE_OFF[1]


def test_deceleration_neither_surges_nor_starves() -> None:
    true = _step(TAKE_OFF, IDLE, 6.0).true
    assert (true["FN"][:, -1] < 0.2 * 50013.0).all()
    assert true["Ps3_true"].min() > 75.0
    assert min(true[c].min() for c in ("SM_FAN", "SM_LPC", "SM_HPC")) > 10.0
    assert true["N1_true"].min() > 0.97 * IDLE[1]


def _decide(controller: MinMaxController, n1: float, applied: float = 2.73, **other: float) -> float:
    seen = {t.name: t.nominal for t in SPEC.measured} | {"N1": n1} | other
    observation = Observation(0.0, np.array([list(seen.values())]), np.array([[0.0, 0.0, 27.0]]), np.array([[applied]]))
    decision = controller.decide(observation, Targets(np.full((1, 1, 1), 3060.0), np.array([0.55]), np.array([5.5])))
    assert decision.plan.shape == (1, 1, 1)
    return float(decision.moves[0, 0])


def test_the_least_asked_wins_and_the_move_is_limited() -> None:
    low_n1 = 2900.0
    assert _decide(MinMaxController(SPEC), low_n1) == pytest.approx(2.73 + 0.1), "no more than the rate limit"
    free = _decide(MinMaxController(SPEC), 3055.0)
    assert 2.73 < free < 2.78
    for hot in ({"N2": 8400.0}, {"T45": 2300.0}):
        assert _decide(MinMaxController(SPEC), 3055.0, **hot) < free
    assert (
        _decide(MinMaxController(SPEC), 3055.0, 5.4, PS3=340.0)
        < 5.4
        < _decide(MinMaxController(SPEC), 3055.0, 5.4, PS3=310.0)
    )
    assert _decide(MinMaxController(SPEC), low_n1, PS3=80.0) < 2.73, "the acceleration schedule at low pressure"
    starved = _decide(MinMaxController(SPEC, MinMaxGains(decelerate=1.0)), 3900.0)
    assert starved == pytest.approx(2.73, abs=0.05), "the deceleration schedule"


def test_an_operators_limits_are_kept() -> None:
    """Inside the spec's, and inside the rate: a slower engine asks for more fuel than the operator allows."""
    seen = np.array([[{t.name: t.nominal for t in SPEC.measured}[t.name] for t in SPEC.measured]])
    for low, high, wanted in ((0.55, 2.74, 3900.0), (2.72, 5.5, 2000.0)):
        controller, applied = MinMaxController(SPEC), np.array([[2.73]])
        for _ in range(10):
            targets = Targets(np.full((1, 1, 1), wanted), np.array([low]), np.array([high]))
            applied = controller.decide(Observation(0.0, seen, np.array([[0.0, 0.0, 27.0]]), applied), targets).moves
        assert applied[0, 0] == pytest.approx(high if wanted > 3060 else low)


def test_a_missing_reading_keeps_its_last_value() -> None:
    controller, whole = MinMaxController(SPEC), MinMaxController(SPEC)
    for c in (controller, whole):
        _decide(c, 3000.0)
    assert _decide(controller, np.nan) == _decide(whole, 3000.0)
    controller.reset()
    observation = Observation(0.0, np.full((1, 9), np.nan), np.full((1, 3), np.nan), np.array([[2.73]]))
    limits = np.array([0.55]), np.array([5.5])
    assert controller.decide(observation, Targets(np.full((1, 1, 1), 3060.0), *limits)).status == (Status.INFEASIBLE,)


def test_another_plant_is_refused() -> None:
    with pytest.raises(ControlError, match="not a turbofan"):
        MinMaxController(load_spec("reactor"))
