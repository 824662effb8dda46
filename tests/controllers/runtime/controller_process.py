"""A controller as a process of its own: `python controller_process.py SPEC_JSON ENDPOINT SPEED`. AUTO until killed."""

from __future__ import annotations

import asyncio
import sys

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Mode
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from plant.clock import ScaledClock
from plant.opcua.client import OpcUaLink
from plant.spec import PlantSpec


async def main(spec_json: str, endpoint: str, speed: str) -> None:
    spec, clock = PlantSpec.model_validate_json(spec_json), ScaledClock(float(speed))
    controller = PidController(spec, (PidLoop(pv="T", mv="U", gain=1.0, integral_s=20.0),))
    config = ControllerConfig.model_validate({"loop": {"speed_tolerance": 0.9}})
    async with OpcUaLink(spec, clock, endpoint) as link:
        await ControlLoop(spec, config, link, controller, None, clock).run(Mode.AUTO, "test")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
