"""`LiveSource`: what the controller and the plant say now, read in the background so that no page ever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dashboard.news import PATIENCE_S, Listener, News
from plant.clock import ScaledClock
from plant.errors import LinkError
from plant.link import PlantMode, Sample, Value
from plant.opcua.client import OpcUaLink
from plant.opcua.controller_client import ControllerClient, ControllerSnapshot
from plant.spec import PlantSpec

log = logging.getLogger(__name__)
_PERIOD_S = 0.5  # twice the page's own rate, so that what it shows is at most one tick old
_TIMEOUT_S = 3.0
_SCANS = 3.0  # without anything new for this many scans a plant is silent
_STEP_SAMPLES = 3.0  # a jump of the plant's clock by less than this many control samples is jitter
_STEP_S = 5.0  # wall


@dataclass(frozen=True)
class PlantState:
    """What the plant last said: its values, its time (s since the Unix epoch), who has the MVs; None where it has no such
    node. `faults`: what of its handshake is not as the plant file says."""

    mode: PlantMode | None = None
    heartbeat: float | None = None
    interlock: bool | None = None
    shed_reason: str = ""
    time_s: float | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClockStep:
    """The plant's clock jumped by `by_s` plant seconds (< 0: back), `age_s` wall seconds ago."""

    by_s: float
    age_s: float


class LiveSource:
    """Polls one controller and, read-only, one plant.

    `controller` and `plant` are what each said last (None: never); `controller_error` and `plant_error` why it does not
    answer now ('' when it does). Whether that is new, `controller_news` and `plant_news` tell. `client` sends commands. One
    serves every page of a process; `close()` ends it.
    """

    def __init__(self, spec: PlantSpec, controller_endpoint: str, plant_endpoint: str | None = None) -> None:
        self.client = ControllerClient(controller_endpoint, _TIMEOUT_S)
        self.controller: ControllerSnapshot | None = None
        self.controller_error = ""
        self.plant: PlantState | None = None
        self.plant_error = ""
        self._spec, self._speed = spec, 1.0
        self._plant_endpoint = plant_endpoint or spec.endpoint
        self._controller, self._values, self._alive = Listener(), Listener(), Listener()
        watchdog = spec.handshake.watchdog if spec.handshake is not None else None
        beat_s = watchdog.period_s if watchdog is not None and watchdog.form != "none" else 0.0
        self._beat_patience_s = max(PATIENCE_S, 1.5 * beat_s)  # it beats twice a period
        self._clock: tuple[float, float] | None = None  # when the plant's time last moved (our clock), and to what
        self._step: tuple[float, float] | None = None  # by how much it jumped, and when (our clock)
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

    @property
    def controller_news(self) -> News:
        """News of its heartbeat, which stops with its loop, whether or not its nodes still answer."""
        return self._controller.news(self._beat_patience_s)

    @property
    def plant_news(self) -> News:
        """News of the values and of the plant's sign of life, whichever is older."""
        values, alive = self._values.news(self.scan_patience_s), self._alive.news(self.scan_patience_s)
        return max(values, alive, key=lambda n: (not n.ever, n.age_s))

    @property
    def scan_patience_s(self) -> float:
        """Wall seconds without a new value after which a plant that scans is silent."""
        return max(PATIENCE_S, _SCANS * self._spec.scan_time_s / self._speed)

    @property
    def clock_step(self) -> ClockStep | None:
        """The last jump of the plant's clock; None when it never jumped since this process listens."""
        step = self._step
        return None if step is None else ClockStep(step[0], time.monotonic() - step[1])

    def wait_for_answer(self, timeout_s: float) -> None:
        """Return once the controller's first news or refusal is known, so that a first page is not empty."""
        with self._fresh:
            self._fresh.wait_for(lambda: self.controller_news.ever or bool(self.controller_error), timeout_s)

    def refresh(self) -> None:
        """Read the controller now: after a command, the page must not show what was before it."""
        with contextlib.suppress(LinkError):  # the poll will say so
            self._keep(self.client.snapshot())

    def _keep(self, snapshot: ControllerSnapshot) -> None:
        with self._fresh:
            self._controller.hear(snapshot.heartbeat)
            self.controller, self.controller_error = snapshot, ""
            self._fresh.notify_all()

    def _miss(self, error: str) -> None:
        with self._fresh:
            self.controller_error = error
            self._fresh.notify_all()

    def _poll_controller(self) -> None:
        while not self._ended.is_set():
            try:
                self._keep(self.client.snapshot())
            except LinkError as e:
                self._miss(str(e))
            except Exception as e:  # a poll that ends would leave the page with what it knew last
                log.exception("the controller could not be read")
                self._miss(f"unforeseen {type(e).__name__}: {e}")
            self._ended.wait(_PERIOD_S)

    async def _poll_plant(self) -> None:
        async with OpcUaLink(self._spec, ScaledClock(), self._plant_endpoint, _TIMEOUT_S) as link:
            while not self._ended.is_set():
                try:
                    sample = await asyncio.wait_for(link.read(), _TIMEOUT_S)
                    self._speed = link.speed
                    self._hear(sample)
                    self.plant, self.plant_error = _said(sample), ""
                except (LinkError, TimeoutError) as e:
                    self.plant_error = str(e) or f"{self._plant_endpoint}: no answer"
                except Exception as e:
                    log.exception("the plant could not be read")
                    self.plant_error = f"unforeseen {type(e).__name__}: {e}"
                await asyncio.sleep(_PERIOD_S)

    def _hear(self, sample: Sample) -> None:
        now = time.monotonic()
        # A value that is read again with the same stamp is nothing new. Where nothing has to move, an answer is all there is.
        moving = {t.name for t in self._spec.online if t.scanned}
        stamps = {name: (v.time_s, repr(v.value)) for name, v in sample.values.items() if name in moving}
        self._values.hear(stamps or now)
        self._alive.hear(now if sample.heartbeat is None else sample.heartbeat)
        if self._clock is not None:
            since, before = self._clock
            if sample.time_s == before:
                return
            tolerance = max(_STEP_SAMPLES * self._spec.sample_time_s, _STEP_S * self._speed)
            ahead = sample.time_s - before - self._speed * (now - since)
            if before - sample.time_s > tolerance or ahead > tolerance:
                self._step = (ahead, now)
        self._clock = (now, sample.time_s)


def _said(sample: Sample) -> PlantState:
    return PlantState(
        sample.mode, sample.heartbeat, sample.interlock, sample.reason, sample.time_s, sample.values, sample.faults
    )
