"""The fuel-pressure schedule: what it allows, and that nothing passes it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from controllers.baselines.fuel_ratio import FuelRatio, FuelRatioCap, FuelRatioRamp
from controllers.contracts import Decision, Observation, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant

SPEC = load_spec("turbofan")
TARGETS = Targets(np.full((1, 1, 1), 3700.0), np.array([0.55]), np.array([5.5]))


class _Asks:
    horizon = 1

    def __init__(self, spec: PlantSpec, fuel: float) -> None:
        self._spec, self._fuel = spec, fuel

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        return Decision.of_moves(self._spec, np.full((1, 1), self._fuel), 0.0)

    def reset(self) -> None: ...


def _observed() -> Observation:
    plant = SimulatedPlant(SPEC, 0, 1, noise=0.0)
    reading = plant.measure()
    measured, dvs = (np.stack([reading[t.name] for t in tags], 1) for tags in (SPEC.measured, SPEC.dvs))
    return Observation(0.0, measured, dvs, plant.moves)


def test_the_steady_ratio_is_that_of_an_engine_at_rest() -> None:
    observation = _observed()
    assert FuelRatio(SPEC, 1.0).fuel(observation)[0] == pytest.approx(observation.applied[0, 0], rel=0.015)


def test_a_cap_passes_less_and_stops_more() -> None:
    observation = _observed()
    cap = FuelRatio(SPEC, 1.3).fuel(observation)[0]
    asked = [FuelRatioCap(_Asks(SPEC, fuel), SPEC, 1.3).decide(observation, TARGETS).moves[0, 0] for fuel in (3.0, 5.0)]
    assert asked == [3.0, pytest.approx(cap)]


def test_pressure_is_read_ahead_and_a_missing_one_stays() -> None:
    ratio, first = FuelRatio(SPEC, 1.0), _observed()
    column = [t.name for t in SPEC.measured].index("PS3")
    before = ratio.fuel(first)[0]
    measured = first.measured.copy()
    measured[0, column] = np.nan
    assert ratio.fuel(dataclasses.replace(first, measured=measured))[0] == before
    measured[0, column] = first.measured[0, column] + 2.0
    straight, held = ratio.fuel(dataclasses.replace(first, measured=measured))[0], FuelRatio(SPEC, 1.0)
    assert straight > held.fuel(dataclasses.replace(first, measured=measured))[0] > before


def test_a_ramp_keeps_the_rate() -> None:
    observation = _observed()
    move = FuelRatioRamp(SPEC, 9.0, np.array([(1800.0, 0.7), (3800.0, 5.0)])).decide(observation, TARGETS).moves
    rate = next(t.move.rate_per_s for t in SPEC.mvs if t.move)
    assert move[0, 0] == pytest.approx(observation.applied[0, 0] + rate * SPEC.sample_time_s)


def test_refuses_another_plant() -> None:
    with pytest.raises(ControlError, match="not a turbofan"):
        FuelRatio(load_spec("reactor_bare"), 1.3)
