"""`homeostat demo` as a user has it: real processes, real ports, a real page, and what is left when it has ended."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import pytest

from dashboard.launch import health_url
from historian import Historian
from plant.errors import LinkError
from plant.opcua.controller_client import ControllerClient
from plant.spec import load_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class Running:
    """A demo, its three ports, its folder, and every process it was ever seen to have."""

    process: subprocess.Popen[str]
    page: int
    plant: int
    controller: int
    folder: Path
    family: set[psutil.Process] = field(default_factory=set)

    @property
    def controller_url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.controller}/homeostat/controller"

    def children(self) -> list[psutil.Process]:
        try:
            now = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            now = []
        self.family.update(now)
        return now

    def child(self, command: str) -> psutil.Process | None:
        """The child that runs `homeostat COMMAND`."""
        for process in self.children():
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            if argv[1:4] == ["-m", "homeostat", command]:
                return process
        return None

    def wait_until(self, condition: Callable[[], Any], what: str, deadline_s: float = 150.0) -> Any:
        end = time.monotonic() + deadline_s
        while not (held := condition()):
            assert self.process.poll() is None, f"the demo ended before {what}: {self.end()}"
            assert time.monotonic() < end, f"not within {deadline_s} s: {what}; {self.logs()}"
            self.children()
            time.sleep(0.1)
        return held

    def end(self, deadline_s: float = 90.0) -> tuple[int, str]:
        """Its exit status and stderr, once it has ended."""
        _, errors = self.process.communicate(timeout=deadline_s)
        return self.process.returncode, errors

    def logs(self) -> dict[str, str]:
        return {p.stem: p.read_text()[-2000:] for p in (self.folder / "logs").glob("*.log")}

    def survivors(self) -> list[psutil.Process]:
        _, alive = psutil.wait_procs(list(self.family), timeout=5)
        return alive


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """demo(plant, *options): start one. Whatever of it still runs at the end of the test is killed."""
    started: list[Running] = []

    def start(plant: str, *options: str) -> Running:
        page, plant_port, controller = _free_ports(3)
        argv = [sys.executable, "-m", "homeostat", "demo", plant, "--data-dir", "data"]
        argv += ["--port", str(page), "--plant-port", str(plant_port), "--controller-port", str(controller), *options]
        process = subprocess.Popen(
            argv, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running = Running(process, page, plant_port, controller, tmp_path / "data" / plant)
        started.append(running)
        return running

    yield start
    for running in started:
        running.children()
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()
        for process in running.survivors():
            process.kill()


def test_the_whole_loop_from_one_command_and_back_to_nothing(demo, tmp_path: Path):
    spec = load_spec("reactor")
    running = demo("reactor", "--speed", "50", "--minutes", "2")
    with ControllerClient(running.controller_url) as client:
        running.wait_until(lambda: _mode(client) == "AUTO", "AUTO")
    running.wait_until(lambda: _answers(running.page), "the operator page")
    facts = running.wait_until(lambda: _status(running, tmp_path), "a status with a controller")
    assert facts["mode"] in ("AUTO", "SHED", "RECOVERY", "ADVISORY")
    assert set(facts["margins"]) >= {g.name for g in spec.guardrails}
    assert facts["solve_time_ms"] > 0
    assert facts["historian"]["sample_rows"] > 0
    assert facts["historian"]["file_bytes"] > 0
    assert facts["historian"]["last_error"] == ""
    assert {"simulate", "record", "control"} <= {
        c for c in ("simulate", "record", "control", "check") if running.child(c)
    }

    running.process.send_signal(signal.SIGINT)
    code, errors = running.end()
    assert code == 0, errors
    assert "error" not in errors
    assert running.survivors() == []
    assert not (running.folder / "demo.lock").exists()
    _every_scan_once(running.folder / "historian.db")
    modes = re.findall(r"is in (LOCAL|REMOTE)", (running.folder / "logs" / "plant.log").read_text())
    assert "REMOTE" in modes, "the controller moved the plant"
    assert modes[-1] == "LOCAL", "and gave it back before it ended"


def _mode(client: ControllerClient) -> str:
    try:
        return client.snapshot().mode_actual
    except LinkError:
        return ""


def _answers(port: int) -> bool:
    try:
        with urlopen(health_url(port), timeout=2.0) as answer:
            return answer.status == 200
    except OSError:
        return False


def _status(running: Running, folder: Path) -> dict[str, Any] | None:
    """What `homeostat status --json` prints; None while the controller does not answer it."""
    argv = [sys.executable, "-m", "homeostat", "status", "reactor", "--controller", running.controller_url, "--json"]
    done = subprocess.run(
        [*argv, "--data-dir", "data"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else None


def _every_scan_once(path: Path) -> None:
    """TI101 from its first scan to its last: one row each, a scan apart."""
    spec = load_spec("reactor")
    with Historian(path, spec.name, read_only=True) as store:
        ts = store.history(["TI101"], 0.0, 9e9)["ts"].to_numpy()
        kinds = store.events(limit=10_000)["kind"].to_list()
        runs = store.runs(["recorded"])
    assert len(ts) > 50
    scan = round(spec.scan_time_s * 1e6)
    np.testing.assert_allclose(np.diff(ts), scan, atol=2)  # the stamps on the wire have microseconds
    assert "gap" not in kinds
    assert len(runs) == 1
    assert runs["end_ts"].null_count() == 0


def test_a_child_that_is_killed_ends_the_demo_with_one_clear_line(demo):
    running = demo("reactor")
    controller = running.wait_until(lambda: running.child("control"), "the controller's process")
    controller.kill()
    code, errors = running.end()
    assert code == 1
    lines = [line for line in errors.splitlines() if line.startswith("error")]
    assert len(lines) == 1, errors
    assert "the controller process was killed by signal 9" in lines[0]
    assert "controller.log ends:" in lines[0]
    assert "Traceback" not in errors
    assert running.survivors() == []
    assert not (running.folder / "demo.lock").exists()


def test_a_child_that_fails_is_quoted(demo, tmp_path: Path):
    """The model trained here has lost its weights: the controller says so, and the demo says what it said."""
    model = tmp_path / "data" / "reactor" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    running = demo("reactor")
    running.wait_until(lambda: running.child("control"), "the controller's process")
    code, errors = running.end()
    assert code == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error")]
    assert "the controller process ended with status 1" in line
    assert "no checkpoint here" in line
    assert running.survivors() == []


def test_a_demo_that_cannot_enter_auto_says_why_and_stays_up(demo, tmp_path: Path):
    """It waited in vain, raised, and took the page with it that shows what is wrong."""
    config = tmp_path / "never.yaml"
    config.write_text("planner: {guard: 1000.0}\n")
    running = demo("reactor", "--config", str(config), "--minutes", "0.2")
    running.wait_until(lambda: _answers(running.page), "the operator page")
    with ControllerClient(running.controller_url) as client:
        running.wait_until(lambda: _mode(client) == "ADVISORY", "ADVISORY")
    code, errors = running.end(180)
    assert code == 0, errors
    assert "reactor is not in AUTO: AUTO is not possible: the plan is RECOVERY" in errors
    assert f"http://127.0.0.1:{running.page}" in errors
    assert running.survivors() == []


def test_after_a_crash_in_auto_whoever_starts_the_next_demo_is_the_person_it_waits_for(demo):
    first = demo("reactor", "--speed", "50")
    with ControllerClient(first.controller_url) as client:
        first.wait_until(lambda: _mode(client) == "AUTO", "AUTO")
    controller = first.wait_until(lambda: first.child("control"), "the controller's process")
    controller.kill()
    assert first.end()[0] == 1
    second = demo("reactor", "--speed", "50", "--minutes", "0.1")
    with ControllerClient(second.controller_url) as client:
        second.wait_until(lambda: _mode(client) == "AUTO", "AUTO again")
    code, errors = second.end()
    assert code == 0, errors
    assert "ended in AUTO without giving the plant back" in errors
    assert f"in the name of {getpass.getuser()}" in errors
    with Historian(second.folder / "historian.db", "reactor", read_only=True) as store:
        asked = [a for a in store.audits().to_dicts() if a["action"] == "SetMode"]
    assert any(a["who"] == f"demo ({getpass.getuser()})" and a["new"] == "AUTO" and a["accepted"] for a in asked)


def test_interrupted_while_it_starts(demo):
    running = demo("reactor")
    running.wait_until(lambda: running.child("simulate"), "the plant's process")
    running.process.send_signal(signal.SIGTERM)
    code, errors = running.end()
    assert (code, "error" in errors) == (0, False), errors
    assert running.survivors() == []
    assert not (running.folder / "demo.lock").exists()


def test_a_demo_that_was_killed_is_cleared_away_by_the_next(demo):
    """Its lock is stale and its children still hold their ports: one line says so, and the next demo ends them."""
    first = demo("reactor")
    plant = first.wait_until(lambda: first.child("simulate"), "the plant's process")
    first.wait_until(lambda: len(json.loads((first.folder / "demo.lock").read_text())) > 2, "children in the lock")
    first.process.kill()
    first.process.communicate()
    assert plant.is_running()
    second = demo("reactor")
    second.wait_until(lambda: second.child("simulate"), "the second plant's process")
    assert first.survivors() == []
    second.process.send_signal(signal.SIGINT)
    code, errors = second.end()
    assert code == 0
    assert len(re.findall("taking over the lock", errors)) == 1
