"""A heater, dT/dt = (20 + U + D - T) / 10 s, as a process, a spec and helpers to wait on conditions."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from plant.handshake import SIMULATED
from plant.process import Array
from plant.spec import PlantSpec


class Heater:
    """A real first-order process; `T_bad` breaks its sensor, `pause_s` makes it slow, `error` makes it fail."""

    batch = 1

    def __init__(self) -> None:
        self.T, self.D, self.F = 50.0, 0.0, 1.0
        self.T_bad = False
        self.pause_s = 0.0
        self.error: Exception | None = None
        self.steps = 0

    def advance(self, moves: Array, dt_s: float) -> None:
        if self.error:
            raise self.error
        time.sleep(self.pause_s)
        self.T += dt_s / 10.0 * (20.0 + moves[0, 0] + self.D - self.T)
        self.steps += 1

    def measure(self) -> dict[str, Array]:
        T = np.nan if self.T_bad else self.T
        return {"T": np.array([T]), "D": np.array([self.D]), "F": np.array([self.F])}


def _heater(**changes: Any) -> dict[str, Any]:
    def tag(
        name: str, role: str, unit: str, bounds: tuple[float, float], nominal: float, **more: Any
    ) -> dict[str, Any]:
        return {"name": name, "role": role, "description": f"Signal {name}", "unit": unit, "range": bounds,
                "nominal": nominal, "node_id": f"p:s=heater.{name}", **more}  # fmt: skip

    return {
        "name": "heater",
        "description": "A heater",
        "endpoint": "opc.tcp://127.0.0.1:0/heater",
        "sample_time_s": 2.0,
        "scan_time_s": 1.0,
        "namespaces": {"p": "urn:homeostat:plant"},
        "handshake": {**SIMULATED.model_dump(), "watchdog": {**SIMULATED.watchdog.model_dump(), "period_s": 0.2}},
        "tags": [
            tag("T", "CV", "degC", (0.0, 150.0), 50.0, critical=True),
            tag("D", "DV", "degC", (-20.0, 20.0), 0.0),
            tag("F", "AUX", "L/min", (0.0, 10.0), 1.0),
            tag("H", "HIDDEN", "degC", (0.0, 150.0), 50.0, node_id=None),
            tag("U", "MV", "%", (0.0, 100.0), 30.0, move={"limits": (0.0, 80.0), "rate_per_s": 5.0, "safe": 0.0}),
            tag("V", "MV", "%", (0.0, 100.0), 40.0, move={"limits": (10.0, 90.0), "rate_per_s": 1.0, "safe": 10.0}),
        ],
        "regulatory": {
            "loops": [{"mv": "U", "pv": "T", "set_point": 50.0, "gain": 2.0, "integral_s": 10.0}],
            "interlocks": [{"tag": "T", "trip": 100.0, "reset": 90.0, "moves": {"U": 0.0}}],
        },
        **changes,
    }


@pytest.fixture(scope="session")
def heater_dict() -> Callable[..., dict[str, Any]]:
    """What a file says of the heater, with some fields changed."""
    return _heater


@pytest.fixture(scope="session")
def heater_spec() -> PlantSpec:
    return PlantSpec.model_validate(_heater())


@pytest.fixture(scope="session")
def make_heater() -> type[Heater]:
    return Heater


@pytest.fixture(scope="session")
def spec_with() -> Callable[..., PlantSpec]:
    """The heater's spec with fields of some tags changed: spec_with(T={"unit": "K"})."""

    def build(**tags: dict[str, Any]) -> PlantSpec:
        data = _heater()
        for tag in data["tags"]:
            tag.update(tags.get(tag["name"], {}))
        return PlantSpec.model_validate(data)

    return build


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    """Wait until a condition (plain or async) holds; fail after a generous deadline."""

    async def wait(condition: Callable[[], Any], what: str, deadline_s: float = 15.0) -> None:
        end = time.monotonic() + deadline_s
        while True:
            held = condition()
            if asyncio.iscoroutine(held):
                held = await held
            if held:
                return
            assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
            await asyncio.sleep(0.02)

    return wait
