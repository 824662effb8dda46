"""Homeostat as its users run it: commands as processes of their own, the controller through its own OPC UA nodes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from benchmarks.foreign.ports import free_port
from plant.errors import LinkError
from plant.opcua.controller_client import ControllerClient, ControllerSnapshot

CALM: Mapping[str, Any] = {"planner": {"suppression": 60.0}}  # moves no wider than a test around one point has taught
BARE: Mapping[str, Any] = {**CALM, "supervisor": {"fallback": "moves"}}  # for a plant that nobody else takes
_FIRST_S = 180.0  # a loaded machine takes its time to load a model
_START_S = 60.0


def command(*argv: object) -> list[str]:
    """`homeostat ARGV` in this interpreter."""
    return [sys.executable, "-m", "homeostat", *map(str, argv)]


def run(
    *argv: object, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command to its end; its exit status and all it said. A command that does not end in time has status -1."""
    try:
        done = subprocess.run(
            command(*argv), capture_output=True, text=True, timeout=timeout_s, check=False, cwd=cwd, env=env
        )
    except subprocess.TimeoutExpired as e:
        said = (e.stdout or b"", e.stderr or b"")
        text = "".join(part.decode(errors="replace") if isinstance(part, bytes) else part for part in said)
        return -1, f"{text}\nno end within {timeout_s:g} s"
    return done.returncode, done.stdout + done.stderr


class Running:
    """A long-running command while the context is open; ended as a user would, by SIGINT. Its words go to `log`."""

    def __init__(self, log: Path, *argv: object, env: Mapping[str, str] | None = None) -> None:
        self._argv, self.log, self._env = command(*argv), log, env
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Running:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as to:
            self.process = subprocess.Popen(self._argv, stdout=to, stderr=to, env=self._env)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self, number: int = signal.SIGINT, patience_s: float = 20.0) -> int:
        """Send a signal and wait; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10.0)

    def said(self) -> str:
        """What the command wrote so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Controller(Running):
    """`homeostat control` and a client of its nodes."""

    def __init__(
        self, folder: Path, plant: Path | str, endpoint: str, *, config: Mapping[str, Any] | None = None,
        mode: str = "advisory", checkpoint: Path | None = None, port: int | None = None, name: str = "control",
    ) -> None:  # fmt: skip
        self.port = port or free_port()
        self.address = f"opc.tcp://127.0.0.1:{self.port}/homeostat/controller"
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / f"{name}.yaml"
        settings.write_text(yaml.safe_dump({**(config or {}), "endpoint": self.address}))
        argv: list[object] = ["control", plant, "--endpoint", endpoint, "--data-dir", folder, "--mode", mode]
        argv += ["--config", settings] + (["--checkpoint", checkpoint] if checkpoint else [])
        super().__init__(folder / f"{name}.log", *argv)
        self.client = ControllerClient(self.address)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        super().__exit__(kind, error, trace)

    def now(self) -> ControllerSnapshot | None:
        """What the controller shows, None while it cannot be asked."""
        try:
            return self.client.snapshot()
        except LinkError:
            return None

    def wait(
        self, wanted: Callable[[ControllerSnapshot], bool], timeout_s: float = _START_S
    ) -> ControllerSnapshot | None:
        """The first snapshot for which `wanted` holds; None when there is none in time, or the process ended."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if (seen := self.now()) is not None and wanted(seen):
                return seen
            if self.process is not None and self.process.poll() is not None:
                return None
            time.sleep(0.05)
        return None

    def auto(self, timeout_s: float = _START_S) -> str:
        """Ask for AUTO until it is granted, as a patient operator does. '' or the last refusal."""
        if self.wait(lambda s: s.cycles > 0, _FIRST_S) is None:
            return f"the controller decides nothing: {self.last_word()}"
        until, why = time.monotonic() + timeout_s, ""
        while time.monotonic() < until:
            try:
                why = self.client.set_mode("AUTO", "benchmark", "acceptance")
            except LinkError as e:
                why = str(e)
            if not why:
                return ""
            if self.process is not None and self.process.poll() is not None:
                return f"the controller ended: {self.last_word()}"
            time.sleep(0.3)
        return why

    def last_word(self) -> str:
        """The last line it wrote."""
        lines = [line for line in self.said().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def until(seen: Callable[[], bool], timeout_s: float, every_s: float = 0.02) -> float:
    """Wall seconds until `seen()` holds; infinite when it does not in time."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        if seen():
            return time.monotonic() - began
        time.sleep(every_s)
    return float("inf")
