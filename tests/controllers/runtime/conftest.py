"""A heater with noise behind a real regulatory layer, a link to it, a clock moved by hand, and a loop over all of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Controller, Decision, Mode, Observation, Status, Targets
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from plant.errors import LinkError
from plant.handshake import SIMULATED
from plant.link import PlantMode, Quality, Receipt, Sample, Value
from plant.process import Array
from plant.regulatory import RegulatoryLayer
from plant.spec import PlantSpec

START_S = 1_700_000_000.0
# Beats often and waits long: other work on the test machine is no stall. Tests of stalls let the wall's clock jump.
WATCHDOG = {"period_s": 0.2, "misses": 35}


class Heater:
    """dT/dt = (20 + U + D - T) / 10 s, measured with noise."""

    batch = 1

    def __init__(self, seed: int = 0) -> None:
        self.T, self.D = 50.0, 0.0
        self._rng = np.random.default_rng(seed)

    def advance(self, moves: Array, dt_s: float) -> None:
        self.T += dt_s / 10.0 * (20.0 + (moves[0, 0] if moves.size else 30.0) + self.D - self.T)

    def measure(self) -> dict[str, Array]:
        noise = 0.05 * self._rng.standard_normal(2)
        return {"T": np.array([self.T + noise[0]]), "D": np.array([self.D + noise[1]]), "F": np.array([1.0])}


def heater_spec(**changes: Any) -> PlantSpec:
    def tag(name: str, role: str, bounds: tuple[float, float], nominal: float, **more: Any) -> dict[str, Any]:
        return {"name": name, "role": role, "description": f"Signal {name}", "unit": "degC", "range": bounds,
                "nominal": nominal, "node_id": f"ns=2;s=heater.{name}", **more}  # fmt: skip

    data = {
        "name": "heater",
        "description": "A heater",
        "endpoint": "opc.tcp://127.0.0.1:0/heater",
        "sample_time_s": 4.0,
        "scan_time_s": 0.5,
        "handshake": {**SIMULATED.model_dump(), "watchdog": {**SIMULATED.watchdog.model_dump(), **WATCHDOG}},
        "tags": [
            tag("T", "CV", (0.0, 150.0), 50.0, noise=0.05, critical=True),
            tag("F", "AUX", (0.0, 10.0), 1.0),
            tag("D", "DV", (-20.0, 20.0), 0.0, noise=0.05),
            tag("U", "MV", (0.0, 100.0), 30.0, move={"limits": (0.0, 80.0), "rate_per_s": 2.0, "safe": 0.0}),
        ],
        "guardrails": [
            {"name": "burns", "tag": "T", "max": 95.0, "rank": 1},
            {"name": "warm", "tag": "T", "max": 85.0, "rank": 2},
        ],
        "targets": [{"tag": "T", "value": 50.0, "limits": (30.0, 80.0), "scale": 10.0}],
        "regulatory": {
            "loops": [{"mv": "U", "pv": "T", "set_point": 50.0, "gain": 1.0, "integral_s": 20.0}],
        },
        **changes,
    }
    return PlantSpec.model_validate(data)


class HandClock:
    """Plant time that moves when the test says so. The wall's runs by itself, and `stand` lets it jump as it does for a
    process that stood still."""

    speed = 0.5  # only deadlines depend on it

    def __init__(self) -> None:
        self._now, self._moved, self._stood_s = START_S, asyncio.Condition(), 0.0
        self.due = START_S

    def plant_time(self) -> float:
        return self._now

    def wall_time(self) -> float:
        return time.monotonic() + self._stood_s

    def stand(self, wall_s: float) -> None:
        self._stood_s += wall_s

    async def sleep_until(self, plant_time: float) -> None:
        self.due = plant_time
        async with self._moved:
            await self._moved.wait_for(lambda: self._now >= plant_time)

    async def advance(self, to_s: float) -> None:
        async with self._moved:
            self._now = max(self._now, to_s)
            self._moved.notify_all()


class HeaterLink:
    """A `Link` straight to the regulatory layer; scans catch up with the clock at every read. `faults` make tags lie,
    `down` cuts the line, `refuse` rejects writes, `stuck` holds the MV, `standing` stops the plant's scans, `dead_bus` only its
    readings, `frozen` only their values; `shift_s` sets its clock; `hidden` hides who holds it, `owned` says whose the lease is."""

    def __init__(self, spec: PlantSpec, clock: HandClock) -> None:
        self.spec, self.clock, self.heater, self.layer = spec, clock, Heater(), RegulatoryLayer(spec)
        self.faults: dict[str, Callable[[Value], Value]] = {}
        self.down = self.standing = self.dead_bus = self.frozen = self.hidden = False
        self.owned: bool | None = True
        self.loops: dict[str, bool] = {}
        self.shift_s = 0.0
        self.handshake_faults: tuple[str, ...] = ()
        self._values: dict[str, Value] = {}
        self.refuse = ""
        self.stuck: float | None = None
        self.written: list[Mapping[str, float]] = []
        self.in_force: list[float] = [30.0]
        self.beats = 0
        self.scans = 0
        self.time_s = clock.plant_time()
        self.speed = clock.speed

    def _reach(self) -> None:
        if self.down:
            raise LinkError("connection lost", self.spec.endpoint, "Reconnecting.")

    async def read(self) -> Sample:
        self._reach()
        dt_s = self.spec.scan_time_s
        while not self.standing and (self.time_s + dt_s <= self.clock.plant_time() or self.scans == 0):
            out = self.layer.scan(self.heater.measure(), dt_s, self.clock.wall_time())
            self.heater.advance(out, dt_s)
            self.in_force += out[0, :1].tolist()
            self.time_s += dt_s
            self.scans += 1
        seen = {name: float(v[0]) for name, v in self.heater.measure().items()}
        seen |= {t.name: float(v) for t, v in zip(self.spec.mvs, self.layer.outputs[0], strict=True)}
        seen |= {"U": self.stuck} if self.stuck is not None else {}
        now_s = self.time_s + self.shift_s
        values = {name: Value(v, Quality.GOOD, now_s) for name, v in seen.items()}
        if self._values and self.dead_bus:
            values, now_s = self._values, self._values["T"].time_s
        if self._values and self.frozen:
            values = {name: replace(v, time_s=now_s) for name, v in self._values.items()}
        self._values = values
        values = {name: self.faults[name](v) if name in self.faults else v for name, v in values.items()}
        mode = None if self.hidden else self.layer.mode
        faults = self.handshake_faults
        return Sample(now_s, values, mode, self.scans, self.owned, dict(self.loops), faults=faults)

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        self._reach()
        if self.refuse:
            return Receipt(dict.fromkeys(moves, self.refuse))
        self.written.append(dict(moves))
        return Receipt(self.layer.write(moves))

    async def request_mode(self, mode: PlantMode) -> Receipt:
        self._reach()
        refusal = self.layer.request_mode(mode, self.clock.wall_time())
        return Receipt({"Mode": refusal} if refusal else {})

    async def beat(self, counter: int) -> None:
        self._reach()
        self.beats += 1
        self.layer.beat(counter, self.clock.wall_time())

    async def subscribe(self) -> AsyncIterator[Mapping[str, Value]]:
        return
        yield {}

    async def close(self) -> None:
        return


class Journal:
    """Keeps what the loop records."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.audits: list[tuple[str, str, str, str, bool, str]] = []
        self.decisions: list[tuple[float, str]] = []
        self.last_error = ""

    def event(self, time_s, kind, message, *, severity="info", source="", key="", data=None) -> None:
        self.events.append((kind, severity, message))

    def audit(self, time_s, who, action, target="", old="", new="", accepted=True, reason="") -> None:
        self.audits.append((who, action, target, str(new), accepted, reason))

    def decision(self, time_s, mode, *_args) -> None:
        self.decisions.append((time_s, mode))

    def status(self) -> dict[str, str]:
        return {"last_error": self.last_error}


def decision_of(move: float, horizon: int = 4, **changes: Any) -> Decision:
    """A well-formed answer for the heater that asks for `move` throughout."""
    fields: dict[str, Any] = {
        "moves": np.array([[move]]),
        "plan": np.full((1, horizon, 1), move),
        "predicted": np.full((1, horizon, 2), 50.0),
        "margins": np.full((1, horizon, 2), 5.0),
        "calibrated": np.zeros((horizon, 2)),
        "guardrails": ("burns", "warm"),
        "status": (Status.OPTIMAL,),
        "violation": np.zeros(1),
        "bias": np.zeros((1, 2)),
        "solve_time_s": 0.001,
    }
    return Decision(**{**fields, **changes})


class Scripted:
    """A controller whose answer the test sets; `answer` may be a function of the observation, and may misbehave."""

    horizon = 4

    def __init__(self, answer: Callable[[Observation], Any]) -> None:
        self.answer = answer
        self.resets = self.calls = 0
        self.targets: Targets | None = None

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        self.calls += 1
        self.targets = targets
        return self.answer(observation)

    def reset(self) -> None:
        self.resets += 1


class Rig:
    """A running loop on the heater."""

    def __init__(self, controller: Controller, config: dict[str, Any], spec: PlantSpec, historian: Any = None,
                 forecast: Any = None, watch: Any = None, **more: Any) -> None:  # fmt: skip
        self.spec, self.clock, self.journal = spec, HandClock(), Journal()
        self.link = HeaterLink(spec, self.clock)
        self.controller = controller
        self.config = ControllerConfig.model_validate(config)
        self.loop = ControlLoop(
            spec, self.config, self.link, controller, historian or self.journal, self.clock, forecast, watch, **more
        )

    @property
    def mode(self) -> Mode:
        return self.loop.supervisor.mode

    @property
    def reason(self) -> str:
        return self.loop.supervisor.reason

    async def cycle(self, count: int = 1) -> None:
        """Let `count` samples come and be dealt with."""
        for _ in range(count):
            done = self.loop.figures.cycles
            await self.clock.advance(self.clock.due)
            end = time.monotonic() + 10
            while self.loop.figures.cycles == done:
                assert time.monotonic() < end, "the cycle does not end"
                await asyncio.sleep(0.001)
            while self.clock.due <= self.clock.plant_time():
                await asyncio.sleep(0)

    async def auto(self) -> None:
        await self.cycle(3)
        assert await self.loop.set_mode("AUTO", "ann", "start") == ""
        await self.cycle(2)
        assert self.mode is Mode.AUTO
        assert self.link.layer.mode is PlantMode.REMOTE

    def alarms(self) -> set[str]:
        return {a.key for a in self.loop.supervisor.alarms if a.active}


@pytest.fixture
async def make_rig():
    """make_rig(controller, config, spec): a rig whose loop runs until the test ends."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            controller: Controller | None = None,
            config: dict[str, Any] | None = None,
            spec: PlantSpec | None = None,
            start: Mode = Mode.ADVISORY,
            historian: Any = None,
            forecast: Any = None,
            watch: Any = None,
            **more: Any,
        ) -> Rig:
            spec = spec or heater_spec()
            loops = (PidLoop(pv="T", mv="U", gain=1.0, integral_s=20.0),)
            rig = Rig(controller or PidController(spec, loops), config or {}, spec, historian, forecast, watch, **more)
            task = asyncio.create_task(rig.loop.run(start, "test"))

            async def stop() -> None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            rig.task = task  # type: ignore[attr-defined]
            return rig

        yield make


@pytest.fixture(scope="session")
def answer_with():
    """answer_with(move, **changes): a decision for the heater."""
    return decision_of


@pytest.fixture(scope="session")
def scripted():
    return Scripted


@pytest.fixture(scope="session")
def make_spec():
    return heater_spec


@pytest.fixture(scope="session")
def make_heater():
    return Heater


@pytest.fixture(scope="session")
def journal():
    return Journal
