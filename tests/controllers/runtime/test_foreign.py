"""The loop on a plant of another make, over OPC UA: a dead field bus, strangers, a loop that drops out, the way back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from unittest.mock import patch

import numpy as np
import pytest
from asyncua import Client, ua

from controllers.contracts import Decision, Mode, Observation, Targets
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from plant.clock import ScaledClock
from plant.opcua.client import OpcUaLink
from plant.spec import PlantSpec
from tests.foreign.plant import OWNER, PERMIT, SP_WRITE, ST, Faults, ForeignPlant, plant_file

SAMPLE_S = 0.4
EVERYTHING = ("alive", "watchdog", "owner", "granted", "permit", "mode", "reason")


class Asks:
    """A controller that asks for the same set-point and stirrer for ever."""

    horizon = 4

    def __init__(self, spec: PlantSpec) -> None:
        self.spec, self.moves = spec, (60.0, 1.0)

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        return Decision.of_moves(self.spec, np.array([self.moves]), 0.001)

    def reset(self) -> None:
        return


class Site:
    """The plant, and a loop on it that runs."""

    def __init__(self, plant: ForeignPlant, spec: PlantSpec, loop: ControlLoop, controller: Asks) -> None:
        self.plant, self.spec, self.loop, self.controller = plant, spec, loop, controller

    @property
    def supervisor(self):
        return self.loop.supervisor

    async def until(self, condition: Callable[[], object], what: str, deadline_s: float = 20.0) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.supervisor.mode}, {self.supervisor.reason}"
            await asyncio.sleep(0.02)

    async def auto(self) -> None:
        await self.until(lambda: not self.supervisor.blockers(Mode.AUTO), "AUTO is possible")
        assert await self.loop.set_mode("AUTO", "ann") == ""
        cycles = self.loop.figures.cycles
        await self.until(lambda: self.loop.figures.cycles > cycles + 2, "samples in AUTO")
        assert self.supervisor.mode is Mode.AUTO, self.supervisor.reason

    def moves(self) -> list[tuple[int, object]]:
        return [(node, value) for node, value, _ in self.plant.writes if node in (SP_WRITE, ST)]


@contextlib.asynccontextmanager
async def site(without: tuple[str, ...] = (), **config):
    # A test machine may be busy: the plant waits 6 s, not 2.
    with patch("tests.foreign.plant.COUNTDOWN_S", 6):
        async with _on(without, config) as here:
            yield here


@contextlib.asynccontextmanager
async def _on(without: tuple[str, ...], config: dict[str, object]):
    async with ForeignPlant(without=without, shift=2) as plant:
        file = plant_file(plant.endpoint, without, sample_time_s=SAMPLE_S)
        if "watchdog" in file["handshake"]:
            file["handshake"]["watchdog"]["misses"] = 12
        spec, clock = PlantSpec.model_validate(file), ScaledClock()
        base = {"loop": {"speed_tolerance": 0.9, "settle_samples": 5}, "supervisor": config}
        controller = Asks(spec)
        async with OpcUaLink(spec, clock, timeout_s=2.0) as link:
            loop = ControlLoop(spec, ControllerConfig.model_validate(base), link, controller, None, clock)
            task = asyncio.create_task(loop.run(who="test"))
            try:
                yield Site(plant, spec, loop, controller)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert plant.trespasses == 0


DEAD = {
    "every source time stands": {"freeze_all": True},
    "noisy readings stand still": {"freeze_values": True},
    "clock was set 3600 s ahead": {"shift_s": 3600.0},
    "clock was set 3600 s back": {"shift_s": -3600.0},
    "source time 1601": {"stamp": datetime(1601, 1, 1, tzinfo=UTC)},
    "source time 9999": {"stamp": datetime(9999, 12, 31, tzinfo=UTC)},
    "T is stale": {"shift_tag_s": {"T": 3600.0}},
}


@pytest.mark.parametrize("without", [(), EVERYTHING], ids=["alive bit", "no handshake"])
async def test_a_field_bus_that_is_dead_behind_a_live_server_sheds_and_is_named(without):
    config = {"fallback": "moves"} if without else {}
    async with site(without, **config) as here:
        for words, faults in DEAD.items():
            here.plant.faults = Faults()
            await here.auto()
            here.controller.moves = (
                70.0 if here.controller.moves[0] < 65.0 else 60.0,
                1.0,
            )  # there is always a move to make
            here.plant.faults = Faults(**faults)
            cycles = here.loop.figures.cycles
            await here.until(lambda: here.supervisor.mode is Mode.SHED, words)
            took = here.loop.figures.cycles - cycles
            assert words in here.supervisor.reason
            assert took <= 4, "three samples, and the one that was on its way"
            moves = len(here.moves())
            cycles = here.loop.figures.cycles
            await here.until(lambda: here.loop.figures.cycles > cycles + 2, "samples go on")  # noqa: B023
            fresh = "stale" in words  # all but one tag: set-points go back, from read-backs that are known
            assert len(here.moves()) == moves or fresh, "nothing on what is old"
            assert here.supervisor.blockers(Mode.AUTO), "and no way back meanwhile"


async def test_set_points_go_back_before_the_permit_does():
    async with site() as here:
        await here.auto()
        await here.until(lambda: here.plant.set_point > 52.0, "the set-point moves")
        assert await here.loop.set_mode("SHED", "ann", "test") == ""
        await here.until(lambda: not here.plant.granted, "given back")
        written = [
            (node, value) for node, value, taken in here.plant.writes if taken and node in (SP_WRITE, ST, PERMIT)
        ]
        assert written[-1] == (PERMIT, False)
        points = [value for node, value in written if node == SP_WRITE]
        assert points[-1] == pytest.approx(50.0)
        assert np.abs(np.diff(points)).max() <= SAMPLE_S * 1.0 + 1e-4
        assert [value for node, value in written if node == ST][-1] is False


async def test_a_loop_that_the_operator_takes_drops_out_alone_and_comes_back():
    async with site() as here:
        await here.auto()
        here.plant.faults.loop_dropped = True
        await here.until(lambda: "SP" in here.supervisor.partial.dropped, "dropped")
        moves = len(here.moves())
        await here.until(lambda: len(here.moves()) > moves + 2, "the stirrer is still moved")
        assert {node for node, _ in here.moves()[moves + 1 :]} == {ST}
        assert here.loop.state().tag_status["SP"] == "DROPPED"
        assert here.supervisor.mode is Mode.AUTO
        here.plant.faults.loop_dropped = False
        await here.until(lambda: here.moves()[-1][0] == SP_WRITE or here.moves()[-2][0] == SP_WRITE, "moved again")


async def test_a_stranger_who_takes_the_plant_has_it():
    async with site() as here:
        await here.auto()
        async with Client(here.plant.endpoint) as stranger:
            index = await stranger.get_namespace_index("http://vendor.example/Area21")
            node = stranger.get_node(ua.NodeId(OWNER, index))
            await node.write_value(ua.DataValue(ua.Variant("theirs", ua.VariantType.String)))
            await here.until(lambda: here.supervisor.mode is Mode.SHED, "shed")
            writes = len(here.plant.writes)
            cycles = here.loop.figures.cycles
            await here.until(lambda: here.loop.figures.cycles > cycles + 3, "samples go on")
        assert "somebody else holds the plant" in here.supervisor.reason
        assert len(here.plant.writes) == writes, "no move, no heartbeat, no permit taken back"


@pytest.mark.parametrize(
    ("faults", "words"),
    [({"granted_bad": True}, "handshake.granted"), ({"granted_value": "yes"}, "handshake.granted"),
     ({"granted_value": 0}, "went to LOCAL"), ({"alive_stopped": True}, "heartbeat stands still"),
     ({"bad": {"T": ua.StatusCodes.BadSensorFailure}}, "T is bad"), ({"refuse_writes": True}, "refused a move")],
    ids=["bad", "text", "taken", "alive", "sensor", "refused"],
)  # fmt: skip
async def test_a_handshake_that_fails_or_lies_sheds(faults, words):
    async with site() as here:
        await here.auto()
        here.controller.moves = (80.0, 0.0)
        here.plant.faults = Faults(**faults)
        await here.until(lambda: here.supervisor.mode is Mode.SHED, words)
        assert words in here.supervisor.reason


async def test_a_move_that_is_answered_well_and_never_made_is_found():
    async with site() as here:
        await here.auto()
        here.plant.faults.swallow_writes = True
        here.controller.moves = (80.0, 1.0)
        await here.until(lambda: "SP" in here.supervisor.partial.dropped, "SP stands still")
        assert "whatever is sent" in here.supervisor.partial.dropped["SP"]
