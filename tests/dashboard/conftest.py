"""A heater as a plant, views of it, a real historian, a whole running site, and a browser on its dashboard."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from controllers.runtime.nodes import ControllerServer
from dashboard.launch import command, health_url
from dashboard.view import History, OperatorView, Reading, Series
from historian import Historian
from historian.recorder import record
from plant.clock import ScaledClock
from plant.handshake import SIMULATED
from plant.link import Quality
from plant.opcua.client import OpcUaLink
from plant.opcua.controller_client import ControllerAlarm, ControllerSnapshot, Margin, Prediction
from plant.opcua.server import PlantServer
from plant.process import Array
from plant.spec import PlantSpec

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
NOW_S = 1_700_000_000.0
SPEED = 10.0


def heater_spec(**changes: Any) -> PlantSpec:
    def tag(name: str, role: str, unit: str, bounds: tuple[float, float], nominal: float, **more: Any) -> dict:
        return {"name": name, "role": role, "description": f"Signal {name}", "unit": unit, "range": bounds,
                "nominal": nominal, "node_id": f"ns=2;s=heater.{name}", **more}  # fmt: skip

    data = {
        "name": "heater",
        "description": "A heater",
        "endpoint": "opc.tcp://127.0.0.1:0/heater",
        "sample_time_s": 5.0,
        "scan_time_s": 2.5,
        "handshake": {**SIMULATED.model_dump(), "watchdog": {**SIMULATED.watchdog.model_dump(), "misses": 5}},
        "tags": [
            tag("T", "CV", "degC", (0.0, 150.0), 50.0, noise=0.05, critical=True, stale_s=60),
            tag("D", "DV", "degC", (-20.0, 20.0), 0.0, noise=0.05),
            tag("U", "MV", "%", (0.0, 100.0), 30.0, move={"limits": (0.0, 80.0), "rate_per_s": 5.0, "safe": 0.0}),
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


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., PlantSpec]:
    return heater_spec


@pytest.fixture(scope="session")
def spec() -> PlantSpec:
    return heater_spec()


def snapshot(**changes: Any) -> ControllerSnapshot:
    base = ControllerSnapshot(
        mode_target="AUTO", mode_actual="AUTO", mode_reason="ann: start", plan_status="OPTIMAL", solve_time_ms=12.3,
        sample_age_s=2.0, violation=0.0, surprise=0.4, blame={"T": 1.0}, heartbeat=7, missed_deadlines=0, cycles=100, jitter_p99_ms=3.0,
        plan_time_s=NOW_S, targets={"T": 50.0}, limits={"U": (10.0, 70.0)},
        margins={"burns": Margin(45.0, 40.0, 2.0), "warm": Margin(35.0, 30.0, 2.0)},
        prediction=Prediction(
            (NOW_S + 5, NOW_S + 10), {"T": (51.0, 50.5)}, {"U": (31.0, 32.0)}
        ),
        alarms=(),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., ControllerSnapshot]:
    return snapshot


@pytest.fixture(scope="session")
def make_view() -> Callable[..., OperatorView]:
    """A view of the heater at NOW_S, with a controller in AUTO; any field may be replaced."""

    def build(**changes: Any) -> OperatorView:
        values = {"T": 50.0, "D": 0.0, "U": 30.0}
        readings = {name: Reading(v, Quality.GOOD, NOW_S) for name, v in values.items()}
        times = tuple(NOW_S - 100 + 10 * i for i in range(10))
        trends = {"T": Series(times, tuple(49.0 + 0.1 * i for i in range(10))), "U": Series(times, (30.0,) * 10)}
        base = OperatorView(heater_spec(), History(readings, trends), said_controller=snapshot())
        return dataclasses.replace(base, **changes)

    return build


@pytest.fixture(scope="session")
def now_s() -> float:
    return NOW_S


@pytest.fixture(scope="session")
def make_alarm() -> Callable[..., ControllerAlarm]:
    def build(**changes: Any) -> ControllerAlarm:
        return dataclasses.replace(
            ControllerAlarm("late", "medium", "The plan was late", NOW_S, True, False), **changes
        )

    return build


class Heater:
    """dT/dt = (20 + U + D - T) / 10 s, measured with noise."""

    batch = 1

    def __init__(self) -> None:
        self.T, self._rng = 50.0, np.random.default_rng(0)

    def advance(self, moves: Array, dt_s: float) -> None:
        self.T += dt_s / 10.0 * (20.0 + moves[0, 0] - self.T)

    def measure(self) -> dict[str, Array]:
        noise = 0.05 * self._rng.standard_normal(2)
        return {"T": np.array([self.T + noise[0]]), "D": np.array([noise[1]])}


@pytest.fixture
def heater() -> Heater:
    return Heater()


class Feedforward:
    """Asks for the move that ends at the target, and knows the heater well enough to predict it. `says`: fields of its decisions
    that a test sets."""

    horizon = 12

    def __init__(self, spec: PlantSpec) -> None:
        self._spec = spec
        self.says: dict[str, Any] = {}

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        n, dt = self.horizon, self._spec.sample_time_s
        move = float(np.clip(targets.values[0, 0, 0] - 20.0, targets.move_low[0], targets.move_high[0]))
        T = 20.0 + move + (observation.measured[0, 0] - 20.0 - move) * np.exp(-dt / 10.0 * np.arange(1, n + 1))
        calibrated = np.tile([1.5, 1.5], (n, 1))
        margins = np.array([95.0, 85.0]) - T[:, None] - calibrated
        decision = Decision(
            moves=np.array([[move]]), plan=np.full((1, n, 1), move), predicted=T[None, :, None], margins=margins[None],
            calibrated=calibrated, guardrails=("burns", "warm"), status=(Status.OPTIMAL,), violation=np.zeros(1),
            bias=np.zeros((1, 1)), solve_time_s=0.004,
        )  # fmt: skip
        return dataclasses.replace(decision, **self.says)

    def reset(self) -> None:
        pass


class Site:
    """Plant server, link, recorder, historian, control loop and its node set, all real, in a thread of their own."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self._changes = folder, changes
        self.controller_endpoint = f"opc.tcp://127.0.0.1:{free_port()}/controller"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        clock = ScaledClock(SPEED)
        self.spec = heater_spec(endpoint=f"opc.tcp://127.0.0.1:{free_port()}/heater", **self._changes)
        self.plant_file = self.folder / "heater.yaml"
        self.plant_file.write_text(self.spec.model_dump_json())  # JSON is YAML
        self.historian = Historian(self.folder / "historian.db", "heater")
        self.historian.register(self.spec)
        self.server = await PlantServer(self.spec, Heater(), clock).__aenter__()
        self.link = OpcUaLink(self.spec, clock)
        config = ControllerConfig.model_validate({"loop": {"speed_tolerance": 0.9}})
        self.controller = Feedforward(self.spec)
        self.loop = ControlLoop(self.spec, config, self.link, self.controller, self.historian, clock)
        self._stop = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self.loop.run(who="test")),
            asyncio.create_task(record(self.link, self.historian, self.spec, clock, self._stop)),
        ]
        await self.serve()

    async def serve(self) -> None:
        self.nodes = await ControllerServer(self.loop, self.controller_endpoint).__aenter__()

    async def silence(self) -> None:
        await self.nodes.__aexit__(None, None, None)

    async def _end(self) -> None:
        self._stop.set()
        self._tasks[0].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.silence()
        await self.link.close()
        await self.server.__aexit__(None, None, None)
        self.historian.close()

    def close(self) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def dashboard(plant: Path, historian: Path, controller: str) -> Iterator[str]:
    """A Streamlit process; yields its URL once it is healthy."""
    port = free_port()
    argv = command(port, "127.0.0.1", plant, historian, controller)
    process = subprocess.Popen(
        argv, cwd=plant.parent, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not _healthy(health_url(port)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "the dashboard does not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def run_dashboard():
    return dashboard


@pytest.fixture(scope="session")
def make_site():
    return Site


@pytest.fixture(scope="session")
def wants() -> dict[str, Any]:
    """What a heater is wanted to do besides its target."""
    return {
        "zones": [{"tag": "T", "low": 45.0, "high": 60.0, "limits": (30.0, 80.0)}],
        "prices": [{"tag": "U", "per_unit": 2.0, "currency": "EUR"}],
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()
