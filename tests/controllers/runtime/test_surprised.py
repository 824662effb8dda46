"""Surprise at run time: an alarm that names the tag, AUTO refused and given up, and a state that shows both."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.contracts import Mode
from controllers.runtime.nodes import node_values
from controllers.runtime.surprised import surprised
from models.plant_surprise import Verdict
from plant.controller_nodes import Variable


class Says:
    """A watch whose verdict the test sets."""

    def __init__(self, residual: float = 0.2, density: float = 0.3) -> None:
        self.residual, self.density, self.resets, self.seen = residual, density, 0, 0

    def see(self, measured, dvs, applied, constants=None) -> Verdict:
        assert measured.shape == (1, 2)
        self.seen += 1
        return Verdict(np.array([self.residual]), np.array([self.density]), np.array([[0.9, 0.1]]))

    def reset(self) -> None:
        self.resets += 1


@pytest.mark.parametrize(
    ("residual", "density", "blame", "text"),
    [
        (3.21, 0.4, [0.9, 0.1], "TI101 does not follow the model: residual 3.2 x its limit"),
        (1.5, 0.4, [0.4, 0.6], "AI101 and TI101 do not follow the model: residual 1.5 x its limit"),
        (0.3, 1.4, [0.9, 0.1], "The model never learned from a state like this: 1.4 x its limit"),
    ],
)
def test_the_text_says_what_and_where(residual: float, density: float, blame: list[float], text: str) -> None:
    verdict = Verdict(np.array([residual]), np.array([density]), np.array([blame]))
    found = surprised(verdict, ["TI101", "AI101"])
    assert (found.text, found.score) == (text, max(residual, density))
    assert list(found.tags.values()) == sorted(blame, reverse=True)


async def test_above_its_limit_it_is_an_alarm_and_auto_is_refused(make_rig):
    watch = Says()
    rig = await make_rig(watch=watch)
    await rig.cycle(3)
    state = rig.loop.state()
    assert (state.surprise, dict(state.blame)) == (0.3, {"T": 0.9, rig.spec.measured[1].name: 0.1})
    assert node_values(state)[Variable.BLAME].startswith('{"T": 0.9')
    assert "surprise" not in rig.alarms()
    watch.residual = 1.2
    await rig.cycle()
    (alarm,) = [a for a in rig.loop.supervisor.alarms if a.key == "surprise"]
    assert alarm.message == "T does not follow the model: residual 1.2 x its limit"
    assert "T does not follow" in await rig.loop.set_mode("AUTO", "ann")
    assert rig.mode is Mode.ADVISORY


async def test_it_sheds_after_its_count(make_rig):
    watch = Says()
    rig = await make_rig(watch=watch)
    await rig.auto()
    watch.residual = 3.0
    await rig.cycle(4)
    assert rig.mode is Mode.AUTO
    await rig.cycle()
    assert rig.mode is Mode.SHED
    assert "surprised for 5 samples (T does not follow the model: residual 3.0 x its limit)" in rig.reason


async def test_the_controller_is_told(make_rig):
    watch, told = Says(), []
    rig = await make_rig(watch=watch)
    decide = rig.controller.decide

    def heard(observation, targets):
        told.append(float(observation.surprise[0]))
        return decide(observation, targets)

    rig.controller.decide = heard
    await rig.cycle(2)
    watch.residual = 0.7
    await rig.cycle()
    assert told[-2:] == [0.3, 0.7]


async def test_a_plant_that_nobody_watches_is_run_all_the_same(make_rig):
    rig = await make_rig()
    await rig.auto()
    assert np.isnan(rig.loop.state().surprise)
    assert not rig.loop.state().blame
