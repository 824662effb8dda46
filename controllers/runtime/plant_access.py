"""The plant as the loop reaches it: one command at a time, each with a timeout, none after the plant was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from controllers.runtime.config import LoopConfig
from controllers.runtime.heartbeat import Heartbeat
from controllers.runtime.observed import Cause
from controllers.runtime.supervisor import Supervisor
from plant.clock import Clock
from plant.errors import LinkError
from plant.handshake import Handshake
from plant.link import Link, PlantMode, Sample
from plant.spec import PlantSpec

log = logging.getLogger(__name__)

_LOOK_S = 0.05  # wall, between two looks for the plant's word


class PlantAccess:
    """Reads, writes, asks for the plant and gives it back, and keeps our heartbeat.

    **Arguments:**

    - `now_s`: plant time now, for what is recorded.
    - `changed`: called when the plant was lost or given back between two samples.
    """

    def __init__(
        self,
        spec: PlantSpec,
        config: LoopConfig,
        link: Link,
        clock: Clock,
        supervisor: Supervisor,
        now_s: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._link, self._timeout_s, self._supervisor = link, config.read_timeout_s, supervisor
        self._now_s, self._changed = now_s, changed
        self._turn = asyncio.Lock()  # a move never follows a hand-back
        self._says_so = spec.handshake is not None and spec.handshake.granted is not None
        self._unseen = False  # we stood still: whose the plant is now, the next sample tells
        self.heartbeat = Heartbeat(
            link,
            (spec.handshake or Handshake()).watchdog,
            config.stall_s,
            clock,
            lambda: supervisor.holds_plant,
            self._not_heard,
            self._stood_still,
        )

    async def read(self) -> tuple[Sample | None, str]:
        """A sample, or None and why there is none."""
        self.heartbeat.expect(self._timeout_s)
        unseen, self._unseen = self._unseen, False
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._link.read(), ""
        except LinkError as e:
            error = str(e)
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        self._unseen = self._unseen or unseen
        return None, error

    async def write(self, moves: Mapping[str, float]) -> None:
        """Write moves; what becomes of them the supervisor is told."""
        supervisor = self._supervisor
        mode = supervisor.mode
        self.heartbeat.expect(self._timeout_s)
        async with self._turn:
            self.heartbeat.note()
            if supervisor.mode is not mode or self._unseen:  # it was left while we waited for our turn, or stood still
                return
            try:
                async with asyncio.timeout(self._timeout_s):
                    receipt = await self._link.write(moves)
            except (LinkError, TimeoutError) as e:
                supervisor.lose(Cause.LINK, f"a move could not be written ({e or 'no answer'})", self._now_s())
                return
        if supervisor.mode is mode:
            supervisor.wrote(receipt, self._now_s())

    async def give_back(self) -> None:
        """Ask for LOCAL if it is owed. Should the plant not hear it, our heartbeat has stopped and its watchdog will."""
        if not self._supervisor.owes_plant or self._unseen:
            return
        if refusal := await self.request(PlantMode.LOCAL):
            log.warning("the plant was not given back: %s", refusal)
        self._changed()

    async def request(self, mode: PlantMode) -> str:
        """Ask for the plant, and wait until it says that it is ours, or give it back. Returns '' or why not."""
        async with self._turn:
            if mode is PlantMode.LOCAL and not self._supervisor.owes_plant:
                return ""
            try:
                async with asyncio.timeout(self._timeout_s):
                    receipt = await self._link.request_mode(mode)
                    granted = receipt.ok and mode is PlantMode.REMOTE
                if granted and self._says_so and (refusal := await self._granted()):
                    return refusal
            except (LinkError, TimeoutError) as e:
                return str(e) or "the plant did not answer in time"
        return "; ".join(receipt.rejected.values())

    async def _granted(self) -> str:
        """Wait for the plant's own word: many give it a scan after they were asked. Without it the plant is given back."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while (await self._link.read()).mode is not PlantMode.REMOTE:
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            async with asyncio.timeout(self._timeout_s):
                await self._link.request_mode(PlantMode.LOCAL)
            return f"handshake.granted does not say within {self._timeout_s:g} s that the MVs are ours"
        return ""

    def _not_heard(self, reason: str) -> None:
        self._supervisor.lose(Cause.LINK, f"the plant does not take our heartbeat ({reason})", self._now_s())
        self._changed()

    def _stood_still(self, reason: str) -> None:
        log.log(logging.ERROR if self._supervisor.holds_plant else logging.INFO, "%s", reason)
        self._unseen = True
        self._supervisor.lose(Cause.STALL, reason, self._now_s())
        self._changed()
