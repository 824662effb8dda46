"""A whole site as processes that can be killed one by one: a simulated plant whose clock can be set, its recorder, a
controller in AUTO, an operator page.

The controller holds the plant where it is and predicts that it stays there: what is judged is the page, not the control.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import numpy as np

from benchmarks.foreign.ports import free_port
from controllers.contracts import Decision, Mode, Observation, Status, Targets
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from controllers.runtime.nodes import ControllerServer
from dashboard.launch import command, health_url, page_url
from historian import Historian
from plant.clock import ScaledClock
from plant.opcua.client import OpcUaLink
from plant.opcua.server import PlantServer
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant

SPEED = 10.0
STEPS_S = {signal.SIGUSR1: -5 * 3600.0, signal.SIGUSR2: 3600.0}
"""Signals that set the plant's clock, and by how many plant seconds."""
ROOT = Path(__file__).resolve().parents[2]
_START_S = 120.0


class SetClock(ScaledClock):
    """A plant's clock that somebody sets while it runs. Nobody waits longer or shorter for that."""

    offset_s = 0.0

    def plant_time(self) -> float:
        return super().plant_time() + self.offset_s

    async def sleep_until(self, plant_time: float) -> None:
        due_s = plant_time - self.offset_s
        while (remaining := (due_s - super().plant_time()) / self.speed) > 0:
            await asyncio.sleep(remaining)


class Hold:
    """Leaves the moves where they are, and expects everything to stay."""

    horizon = 12

    def __init__(self, spec: PlantSpec) -> None:
        self._spec = spec

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        n, names = self.horizon, [t.name for t in self._spec.measured]
        here = observation.measured[0]
        predicted = np.tile(here, (n, 1))
        rails = self._spec.guardrails
        allowance = np.array([0.01 * (t.range[1] - t.range[0]) for t in (self._spec.tag(g.tag) for g in rails)])
        now = np.array([g.sign * (g.limit - here[names.index(g.tag)]) for g in rails])
        moves = np.clip(observation.standing[:1], targets.move_low, targets.move_high)
        return Decision(
            moves=moves, plan=np.tile(moves[:, None], (1, n, 1)), predicted=predicted[None],
            margins=np.tile(now - allowance, (1, n, 1)), calibrated=np.tile(allowance, (n, 1)),
            guardrails=tuple(g.name for g in rails), status=(Status.OPTIMAL,), violation=np.zeros(1),
            bias=np.zeros((1, len(names))), solve_time_s=0.004,
        )  # fmt: skip

    def reset(self) -> None:
        """It remembers nothing."""


async def serve_plant(spec: PlantSpec, start_s: float, at_s: float) -> None:
    """The simulated plant, whose time was `start_s` at the wall time `at_s` (s since the Unix epoch). SIGUSR1 and SIGUSR2 set
    its clock."""
    clock = SetClock(SPEED, start_s + SPEED * (time.time() - at_s))
    server = PlantServer(spec, SimulatedPlant(spec), clock)

    def set_clock(by_s: float) -> None:
        clock.offset_s += by_s
        server._time_s += by_s  # the scan in hand is stamped by the clock as it is now

    for number, by_s in STEPS_S.items():
        asyncio.get_running_loop().add_signal_handler(number, set_clock, by_s)
    await server.run()


async def serve_controller(spec: PlantSpec, endpoint: str, historian: Path) -> None:
    """The controller, at plant speed, wanting AUTO."""
    with Historian(historian, spec.name) as store:
        store.register(spec)
        async with OpcUaLink(spec, ScaledClock()) as first:
            clock = ScaledClock(SPEED, (await first.read()).time_s)
        async with OpcUaLink(spec, clock) as link:
            config = ControllerConfig.model_validate({"loop": {"speed_tolerance": 0.9}})
            loop = ControlLoop(spec, config, link, Hold(spec), store, clock)
            async with ControllerServer(loop, endpoint):
                await loop.run(Mode.AUTO, "benchmark")


class Site:
    """The four processes, by name: `plant`, `recorder`, `controller`, `page`. A context manager."""

    def __init__(self, folder: Path, plant: str = "reactor") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Read by hand rather than written by pydantic: a plant file says no more than its author did.
        self.spec = load_spec(plant).model_copy(update={"endpoint": f"opc.tcp://127.0.0.1:{free_port()}/{plant}"})
        self.file = folder / f"{plant}.yaml"
        self.file.write_text(self.spec.model_dump_json(exclude_unset=True))  # JSON is YAML
        self.controller_url = f"opc.tcp://127.0.0.1:{free_port()}/homeostat/controller"
        self.port = free_port()
        self.historian = folder / self.spec.name / "historian.db"
        self._began_s, self._start_s, self._offset_s = time.monotonic(), time.time(), 0.0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Site:
        try:
            for name in ("plant", "recorder", "controller", "page"):
                self.start(name)
            self.wait(lambda: _answers(health_url(self.port)), "the page's server")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return page_url(self.port)

    def plant_time(self) -> float:
        """What the plant's clock should show, s since the Unix epoch."""
        return self._start_s + SPEED * (time.monotonic() - self._began_s) + self._offset_s

    def start(self, name: str) -> None:
        """Start one of the processes; a plant starts at the time it would have by now."""
        me = [sys.executable, "-m", "benchmarks.foreign.page_site"]
        argv = {
            "plant": [*me, "plant", str(self.file), str(self.plant_time()), str(time.time())],
            "recorder": [
                sys.executable, "-m", "homeostat", "record", str(self.file), "--data-dir", str(self.folder)
            ],
            "controller": [*me, "controller", str(self.file), self.controller_url, str(self.historian)],
            "page": command(self.port, "127.0.0.1", self.file, self.historian, self.controller_url),
        }[name]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.processes[name] = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder, env=env)
        if name == "plant":
            self.wait(lambda: _listens(self.spec.endpoint), "the plant")

    def kill(self, *names: str) -> None:
        """SIGKILL: they say goodbye to nobody."""
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait(20.0)

    def signal(self, name: str, number: int) -> None:
        """Pause (SIGSTOP), continue (SIGCONT), or set the plant's clock (`STEPS_S`)."""
        self._offset_s += STEPS_S.get(signal.Signals(number), 0.0)
        self.processes[name].send_signal(number)

    def wait(self, ready: Callable[[], bool], what: str, patience_s: float = _START_S) -> None:
        """Until `ready()`. Raises `TimeoutError`."""
        until = time.monotonic() + patience_s
        while not ready():
            if time.monotonic() > until:
                raise TimeoutError(f"{what} is not ready within {patience_s:g} s; see the logs in {self.folder}")
            time.sleep(0.1)

    def close(self) -> None:
        """End whatever runs."""
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10.0)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def _listens(endpoint: str) -> bool:
    url = urlparse(endpoint)
    try:
        socket.create_connection((url.hostname, url.port), timeout=2.0).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    part, plant_file, *rest = sys.argv[1:]
    served = load_spec(plant_file)
    if part == "plant":
        asyncio.run(serve_plant(served, *map(float, rest)))
    else:
        asyncio.run(serve_controller(served, rest[0], Path(rest[1])))
