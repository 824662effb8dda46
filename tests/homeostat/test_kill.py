"""The controller dies with SIGKILL in AUTO: the simulated reactor's own regulatory layer has it back, and it stays cool."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plant.clock import ScaledClock
from plant.link import PlantMode
from plant.opcua.server import PlantServer
from plant.spec import load_spec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]


async def _until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"no {what} within {seconds} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_the_reactor_is_in_local_control_within_three_heartbeats(tmp_path: Path) -> None:
    spec = load_spec("reactor")
    assert spec.handshake is not None
    patience_s = spec.handshake.watchdog.patience_s
    plant = SimulatedPlant(spec, seed=3, conditions=Drawn(load_scenario("day", spec)))
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    config = tmp_path / "controller.yaml"
    config.write_text(f"endpoint: opc.tcp://127.0.0.1:{port}/homeostat/controller\n")
    async with PlantServer(spec, plant, ScaledClock(20.0), "opc.tcp://127.0.0.1:0/homeostat/reactor") as server:
        argv = [
            sys.executable,
            "-m",
            "homeostat",
            "control",
            "reactor",
            "--mode",
            "auto",
            "--endpoint",
            server.endpoint,
        ]
        argv += ["--config", str(config), "--data-dir", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        controller = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await _until(lambda: server.regulatory.mode is PlantMode.REMOTE, 90, "AUTO")
            await asyncio.sleep(5 * spec.sample_time_s / 20.0)  # a few moves under the controller
            assert server.regulatory.mode is PlantMode.REMOTE
            controller.send_signal(signal.SIGKILL)
            took = await _until(lambda: server.regulatory.mode is PlantMode.LOCAL, 30, "local control")
            assert took <= patience_s + 1.0, "three heartbeats, and a second for a busy machine"
            # Whichever the plant notices first: no heartbeat, or that the session which held the lease is gone.
            assert any(cause in server.regulatory.shed_reason for cause in ("heartbeat", "ended"))
            hottest, until = 0.0, time.monotonic() + 15.0  # five plant minutes: a runaway takes less
            while time.monotonic() < until:
                hottest = max(hottest, float(plant.true_outputs()["TI101"][0]))
                await asyncio.sleep(0.1)
            assert hottest < 350.0
        finally:
            controller.kill()
            controller.wait()
