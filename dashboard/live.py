"""`LiveSource`: what the controller and the plant say now, read in the background so that no page ever waits for them."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass

from plant.errors import LinkError
from plant.link import PlantMode
from plant.opcua.controller_client import ControllerClient, ControllerSnapshot
from plant.opcua.holding import Holder
from plant.opcua.nodes import resolve
from plant.opcua.session import Session
from plant.spec import PlantSpec

_PERIOD_S = 0.5  # twice the page's own rate, so that what it shows is at most one tick old
_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class PlantState:
    """What the plant's handshake says; None where a plant has no such node."""

    mode: PlantMode | None = None
    heartbeat: float | None = None
    interlock: bool | None = None
    shed_reason: str = ""


class LiveSource:
    """Polls one controller and, read-only, one plant. The attributes always hold the last answer, or why there is none.

    `controller` and `plant` are None while unreachable; `controller_error`, `plant_error` then say why ('' before the
    first answer). `client` sends commands. One serves every page of a process; `close()` ends it.
    """

    def __init__(self, spec: PlantSpec, controller_endpoint: str, plant_endpoint: str | None = None) -> None:
        self.client = ControllerClient(controller_endpoint, _TIMEOUT_S)
        self.controller: ControllerSnapshot | None = None
        self.controller_error = ""
        self.plant: PlantState | None = None
        self.plant_error = ""
        self._plant_endpoint = plant_endpoint or spec.endpoint
        self._spec = spec
        self._ended = threading.Event()
        self._fresh = threading.Condition()
        self._threads = [
            threading.Thread(target=self._poll_controller, name="controller poll", daemon=True),
            threading.Thread(target=lambda: asyncio.run(self._poll_plant()), name="plant poll", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both polls and disconnect. Safe to call twice."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self.client.close()

    def wait_for_answer(self, timeout_s: float) -> None:
        """Return once the controller's first answer or refusal is known, so that a first page is not empty."""
        with self._fresh:
            self._fresh.wait_for(lambda: self.controller is not None or bool(self.controller_error), timeout_s)

    def refresh(self) -> None:
        """Read the controller now: after a command, the page must not show what was before it."""
        with contextlib.suppress(LinkError):  # the poll will say so
            self._keep(self.client.snapshot(), "")

    def _keep(self, snapshot: ControllerSnapshot | None, error: str) -> None:
        with self._fresh:
            self.controller, self.controller_error = snapshot, error
            self._fresh.notify_all()

    def _poll_controller(self) -> None:
        while not self._ended.is_set():
            try:
                self._keep(self.client.snapshot(), "")
            except LinkError as e:
                self._keep(None, str(e))
            self._ended.wait(_PERIOD_S)

    async def _poll_plant(self) -> None:
        session: Session | None = None
        holder = Holder(self._spec)
        while not self._ended.is_set():
            try:
                if session is None:
                    session = await Session.open(self._plant_endpoint, _TIMEOUT_S)
                    table = await session.namespaces()
                    await holder.learn(session, resolve(self._spec.addresses, table, self._plant_endpoint))
                held = await asyncio.wait_for(holder.look(session), _TIMEOUT_S)
                self.plant = PlantState(held.mode, held.heartbeat, held.interlock, held.reason)
                self.plant_error = ""
            except (LinkError, TimeoutError) as e:
                self.plant, self.plant_error = None, str(e) or f"{self._plant_endpoint}: no answer"
                if session is not None:
                    await session.close()
                session = None
            await asyncio.sleep(_PERIOD_S)
        if session is not None:
            await session.close()
