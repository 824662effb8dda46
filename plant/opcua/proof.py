"""The proof of a plant's watchdog: asked for the MVs and then left in silence, does the plant take them back?

A watchdog that never expires looks like any other until the day it is needed, and no reading tells the difference. This asks
for the MVs, so it is for commissioning, with the plant's operator; it moves nothing.
"""

from __future__ import annotations

import asyncio

from plant.clock import ScaledClock
from plant.errors import LinkError
from plant.link import PlantMode
from plant.opcua.check import Finding, Severity
from plant.opcua.client import OpcUaLink
from plant.spec import PlantSpec

_GRANT_S = 5.0  # wall, for a plant to show that it has granted
_POLL_S = 0.1
_BEATS = 3  # first we live, so that the plant has something to miss


async def prove_watchdog(spec: PlantSpec, endpoint: str | None = None) -> list[Finding]:
    """Ask for REMOTE, beat a few times, fall silent, and see whether the plant goes to LOCAL within twice the patience that the
    file says. Empty when it does; gives the plant back in any case. Raises `LinkError` when it cannot be reached."""
    shake = spec.handshake
    if shake is None or shake.watchdog.form == "none" or shake.granted is None:
        what = "the plant file has no watchdog, or no granted node by which it could be seen to act"
        return [Finding(Severity.ERROR, "", what, "Describe both under handshake.")]
    dog = shake.watchdog
    async with OpcUaLink(spec, ScaledClock(), endpoint) as link:
        if refused := (await link.request_mode(PlantMode.REMOTE)).rejected:
            what = f"the plant does not grant its MVs: {'; '.join(refused.values())}"
            return [Finding(Severity.ERROR, "", what, "Clear the cause, then try again.")]
        try:
            if await _waits_for(link, PlantMode.REMOTE, _GRANT_S) is None:
                what = f"handshake.granted.node has not shown a grant within {_GRANT_S:g} s of our asking"
                return [Finding(Severity.ERROR, "", what, "Correct handshake.permit or handshake.granted.")]
            for k in range(_BEATS):
                await link.beat(k + 1)
                await asyncio.sleep(dog.period_s / 2)
            allowed_s = 2 * dog.patience_s + dog.period_s
            if await _waits_for(link, PlantMode.LOCAL, allowed_s) is None:
                what = (
                    f"handshake.watchdog.node: without a heartbeat for {allowed_s:g} s the MVs are still granted, where"
                    f" {dog.patience_s:g} s are allowed: nobody notices a controller that dies"
                )
                return [Finding(Severity.ERROR, "", what, "Have the plant's watchdog mended, or write form: none.")]
            return []
        except LinkError as e:
            return [Finding(Severity.ERROR, "", e.what, e.fix)]
        finally:
            await link.request_mode(PlantMode.LOCAL)


async def _waits_for(link: OpcUaLink, mode: PlantMode, within_s: float) -> float | None:
    """After how many wall seconds the plant was in that mode; None when it was not."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began <= within_s:
        if (await link.read()).mode is mode:
            return loop.time() - began
        await asyncio.sleep(_POLL_S)
    return None
