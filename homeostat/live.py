"""The long-running commands: a simulated plant, a recorder, an excitation, a controller. Each ends cleanly on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from controllers.baselines.standby import Standby
from controllers.contracts import Mode
from controllers.planning.filtered import Filter
from controllers.planning.latent import LatentController
from controllers.runtime.config import ControllerConfig
from controllers.runtime.forecast import Forecasts
from controllers.runtime.loop import ControlLoop
from controllers.runtime.memory import Memory
from controllers.runtime.nodes import ControllerServer
from controllers.runtime.schedule import ScheduleFile
from historian import Historian
from historian.recorder import record
from homeostat.chosen import other_of
from homeostat.guest import Guest
from homeostat.identification import TestPlan
from homeostat.visit import Visit, visit
from models.plant_surprise import Watch
from plant.clock import Clock, ScaledClock
from plant.fights import fights
from plant.opcua.client import OpcUaLink
from plant.opcua.server import PlantServer
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario

log = logging.getLogger(__name__)


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `work(stop)`; SIGINT and SIGTERM set `stop`, and the work ends in its own order."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(main())


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Await `work` until it ends or `stop` is set; then cancel it and wait for it to clean up."""
    task, halt = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, halt}, return_when=asyncio.FIRST_COMPLETED)
    halt.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@contextlib.asynccontextmanager
async def _connected(spec: PlantSpec, endpoint: str | None) -> AsyncIterator[tuple[OpcUaLink, Clock]]:
    """A link to the plant and a clock: of this machine for a real plant; for one that may be on a date of its own, at its
    speed and from the time that its samples say."""
    clock = ScaledClock()
    if spec.handshake is not None and spec.handshake.own_date:
        async with OpcUaLink(spec, clock, endpoint) as first:
            sample = await first.read()
            clock = ScaledClock(first.speed, sample.time_s)
    async with OpcUaLink(spec, clock, endpoint) as link:
        await link.read()  # from here on the link knows what the plant said of itself
        yield link, clock


async def simulate(
    spec: PlantSpec,
    stop: asyncio.Event,
    *,
    endpoint: str | None,
    speed: float,
    seed: int,
    scenario: Scenario,
    noise: float,
    start_s: float | None,
) -> None:
    """Serve a simulated plant that lives through `scenario` over OPC UA until `stop`, from plant time `start_s` (default:
    now). The scenario's set-points go to the local loops that have them."""
    drawn = Drawn(scenario)
    plant = SimulatedPlant(spec, seed, conditions=drawn, noise=noise)
    loops = {loop.pv for loop in spec.regulatory.loops}

    def set_points() -> dict[str, float]:
        return {tag: float(value[0]) for tag, value in drawn.set_points().items() if tag in loops}

    server = PlantServer(
        spec, plant, ScaledClock(speed, start_s), endpoint, scenario=plant.facts(), set_points=set_points,
        outputs={t.name: float(v) for t, v in zip(spec.mvs, plant.moves[0], strict=True)},
    )  # fmt: skip
    log.info("%s at %s, speed %g, scenario %s", spec.name, server.endpoint, speed, scenario.name)
    await _until(stop, server.run())


async def record_live(
    spec: PlantSpec,
    stop: asyncio.Event,
    *,
    endpoint: str | None,
    historian: Path,
    on_progress: Callable[[int, float], None] | None = None,
) -> None:
    """Record a plant into its historian until `stop`."""
    with Historian(historian, spec.name) as store:
        store.register(spec)
        async with _connected(spec, endpoint) as (link, clock):
            await record(link, store, spec, clock, stop, on_progress, note=link.scenario)
        if not store.flush(10.0):
            log.warning("the historian is busy: %d rows go to its spool", store.status()["pending"])


async def excite_live(
    spec: PlantSpec,
    stop: asyncio.Event,
    *,
    endpoint: str | None,
    historian: Path,
    plan: TestPlan,
    go_on: bool = False,
    on_progress: Callable[[float, Guest], None] | None = None,
) -> Visit:
    """Carry out an identification test on a live plant, and record it into its historian as a run of kind `excitation`. A
    recorder that runs beside it stores the same values under the same keys.

    Raises `ControlError` when the plant refuses to give its MVs or is in no state to be tested: then nothing was moved.
    """
    with Historian(historian, spec.name) as store:
        store.register(spec)
        async with _connected(spec, endpoint) as (link, clock):
            over = asyncio.Event()
            facts = json.dumps({"form": plan.form, "tests": [asdict(test) for test in plan.tests], "seed": plan.seed})
            recording = asyncio.create_task(record(link, store, spec, clock, over, kind="excitation", note=facts))
            try:
                return await visit(spec, link, clock, plan, stop, go_on=go_on, on_progress=on_progress)
            finally:
                over.set()
                await asyncio.gather(recording, return_exceptions=True)
                if not store.flush(10.0):
                    log.warning("the historian is busy: %d rows go to its spool", store.status()["pending"])


async def control_live(
    spec: PlantSpec,
    stop: asyncio.Event,
    *,
    config: ControllerConfig,
    controller: LatentController | Filter,
    endpoint: str | None,
    historian: Path | None,
    mode: Mode,
    watch: Watch | None,
    doubts: Sequence[str] = (),
) -> None:
    """Run a controller on a plant until `stop`, serving its node set; then give the MVs back. What it must not forget over a
    restart is kept beside the historian. `doubts`: why its model does not deserve AUTO. Raises `ControlError` when the
    controller configured to stand by does not fit the plant, `SpecError` when there is none of its name, or when a schedule or
    forecast cannot be followed."""
    for fight in fights(spec):
        log.warning("%s: %s. %s", spec.name, fight.what, fight.fix)
    schedule = [ScheduleFile(config.schedule, spec)] if config.schedule else []
    expected = Forecasts(spec, config.forecast, controller.horizon, endpoint) if config.forecast else None
    standing = Standby(controller, other_of(spec, config.standby, "standby")) if config.standby else controller
    async with contextlib.AsyncExitStack() as stack:
        store = memory = None
        if historian is not None:
            memory = Memory(historian.with_name(f"{historian.stem}.controller.json"), spec.name)
            stack.callback(memory.close)
            store = stack.enter_context(Historian(historian, spec.name))
            store.register(spec)
        link, clock = await stack.enter_async_context(_connected(spec, endpoint))
        # The planner ends in time by itself, with its best plan so far; the loop's own deadline is the net below.
        controller.deadline_s = 0.8 * config.loop.deadline_s(spec.sample_time_s, clock.speed)
        loop = ControlLoop(
            spec,
            config,
            link,
            standing,
            store,
            clock,
            expected,
            watch,
            doubts,
            memory,
            [*schedule, *filter(None, [expected])],
            controller.unknown if isinstance(controller, LatentController) else None,
        )
        server = await stack.enter_async_context(ControllerServer(loop))
        log.info("controller of %s at %s, starting in %s", spec.name, server.endpoint, mode)
        await _until(stop, loop.run(mode))
