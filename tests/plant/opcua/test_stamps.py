"""Which date it is at the plant, whatever its stamps say."""

from __future__ import annotations

import math
import time

import pytest

from plant.clock import ScaledClock
from plant.opcua.nodes import to_datetime, to_seconds
from plant.opcua.stamps import PlantDate, middle
from plant.spec import PlantSpec

FAR = 1_000_000_000.0  # a date of its own, in 2001


def test_impossible_stamps_do_not_move_the_middle() -> None:
    assert middle([FAR, FAR + 1, FAR + 2, -1.2e10, 2.5e11, math.nan]) == FAR + 1
    assert math.isnan(middle([-1.2e10, 2.5e11, math.inf]))


def test_a_real_plants_date_is_the_wall_clocks(heater_dict) -> None:
    spec = PlantSpec.model_validate(heater_dict(handshake={}))
    assert PlantDate(spec, ScaledClock()).follow([FAR] * 5, 1.0) == pytest.approx(time.time(), abs=2.0)


def test_a_training_simulators_date_is_its_own(heater_dict) -> None:
    spec = PlantSpec.model_validate(heater_dict(handshake={"speed": 20.0}))
    date = PlantDate(spec, ScaledClock())
    assert date.follow([FAR, FAR, 2.5e11], 20.0) == FAR
    time.sleep(0.05)
    assert FAR + 0.5 < date.follow([], 20.0) < FAR + 100.0, "carried on at its speed while nothing is said"
    assert date.follow([-1.2e10] * 3, math.inf) == pytest.approx(FAR, abs=1.0)


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_no_time_is_too_odd_to_be_stamped(time_s: float) -> None:
    assert abs(to_seconds(to_datetime(time_s))) < 3e11
