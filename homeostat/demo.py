"""`homeostat demo`: five processes, started in order, watched, and ended in the order that leaves the plant safe."""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import urlopen

import psutil
import yaml
from rich.console import Console
from rich.markup import escape

from controllers.contracts import Mode
from controllers.runtime.config import ControllerConfig
from dashboard.launch import command, health_url, page_url
from historian import Historian
from plant.errors import ControlError, HomeostatError, LinkError
from plant.opcua.controller_client import ControllerClient, ControllerSnapshot
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario

err = Console(stderr=True)
_START_S = 90.0
RESTART = "restart"  # the controller's alarm while AUTO waits for a person
_LOOK_S = 2.0  # between two looks at the controller's mode
_DECISION_S = 0.8  # wall time from one decision to the next, at least: what two cores carry and an eye can follow


def speed_of(spec: PlantSpec) -> float:
    """Plant seconds a second at which a demonstration runs: the largest of 1, 2, 5, 10, 20, ... (or 0.5, 0.2, 0.1, ...) that
    leaves a decision its wall time. An engine that decides every 80 ms is seen in slow motion, a patient in fast."""
    most = spec.sample_time_s / _DECISION_S
    decade = 10.0 ** math.floor(math.log10(most))
    return next(speed for speed in (5 * decade, 2 * decade, decade) if speed <= most * (1 + 1e-9))


def told(spec: PlantSpec, config: ControllerConfig, seed: int) -> ControllerConfig:
    """`config`, told what is written down of the very plant that `homeostat simulate` draws from `seed` (a patient's basal rate)."""
    if config.filter is None:
        return config
    plant = SimulatedPlant(spec, seed, conditions=Drawn(load_scenario("day", spec)))
    known = {name: float(value[0]) for name, value in plant.simulator.settings(plant.p).items()}
    told = config.filter.model_copy(update={"settings": {**config.filter.settings, **known}})
    return config.model_copy(update={"filter": told})


class Demo:
    """One demonstration: a simulated plant, its recorder, a controller in AUTO, an operator page. Where the controller cannot
    enter AUTO, or leaves it, its own words say why, and the page stays up.

    Everything it keeps lies under `data_dir/<plant>`, logs in `logs/`. Ports are checked before anything starts.
    """

    def __init__(
        self,
        spec: PlantSpec,
        config: ControllerConfig,
        data_dir: Path,
        speed: float,
        seed: int,
        plant_port: int,
        controller_port: int,
        port: int,
    ) -> None:
        path = urlparse(spec.endpoint).path
        self.spec, self.data_dir, self.home = spec, data_dir, data_dir / spec.name
        self.speed, self.seed, self.port = speed, seed, port
        self.ports = {"simulated plant": plant_port, "controller": controller_port, "operator page": port}
        self.plant_url = f"opc.tcp://127.0.0.1:{plant_port}{path}"
        self.controller_url = f"opc.tcp://127.0.0.1:{controller_port}/homeostat/controller"
        self.config = config.model_copy(update={"endpoint": self.controller_url})
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = self.home / "demo.lock"
        self._client: ControllerClient | None = None
        self._stop = False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One demonstration a data folder. The lock of a demo that is gone is taken over, and what it left running is
        ended."""
        self.home.mkdir(parents=True, exist_ok=True)
        if self._lock.exists():
            held = _read_lock(self._lock)
            if held and (process := _alive(held[0])):
                raise ControlError(
                    f"a demo already runs here (process {process.pid})",
                    str(self._lock),
                    "End it with Ctrl-C, or choose another --data-dir.",
                )
            err.print(f"taking over the lock of a demo that did not end cleanly ({self._lock})", soft_wrap=True)
            for orphan in filter(None, map(_alive, reversed(held[1:]))):
                _end(orphan)
        self._write_lock()
        try:
            yield
        finally:
            self._lock.unlink(missing_ok=True)

    def _write_lock(self) -> None:
        """Us first, then our children: whoever finds the lock of a demo that was killed can end them."""
        part = self._lock.with_suffix(".part")
        part.write_text(json.dumps([_entry(pid) for pid in (os.getpid(), *(c.pid for c in self.children.values()))]))
        os.replace(part, self._lock)

    def run(self, minutes: float | None = None) -> int:
        """Start, announce, watch until Ctrl-C (or `minutes`), end. Returns the exit status."""
        for what, port in self.ports.items():
            _need_free(what, port)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        code = 1
        try:
            self._start_all()
            code = self._watch(minutes)
        except HomeostatError as e:
            if self._stop:
                code = 0
            else:
                line = escape(" ".join(str(e).split()))  # it may quote a log, brackets and all
                err.print(f"[bold red]error[/bold red]: {line}", soft_wrap=True, highlight=False)
        finally:
            self._end_all()
        return code

    def _signalled(self, *_: object) -> None:
        self._stop = True

    def _start_all(self) -> None:
        plant = self._plant_argument()
        options = ["--endpoint", self.plant_url]
        data = ["--data-dir", str(self.data_dir)]
        began = time.monotonic()
        page = command(self.port, "127.0.0.1", plant, self.home / "historian.db", self.controller_url, self.plant_url)
        simulated = ["--speed", str(self.speed), "--seed", str(self.seed), "--start", str(self._start_s())]
        self._start("plant", ["simulate", plant, *simulated, *options])
        self._spawn("dashboard", page)
        self._wait("the simulated plant", "plant", lambda: _listening(self.ports["simulated plant"]))
        self._start("recorder", ["record", plant, *options, *data])
        self._start(
            "controller", ["control", plant, "--mode", "auto", "--config", str(self._config()), *options, *data]
        )
        self._wait("the controller's nodes", "controller", lambda: _listening(self.ports["controller"]))
        self._wait("the operator page", "dashboard", lambda: _answers(health_url(self.port)))
        self._client = ControllerClient(self.controller_url)
        why = self._enter_auto(self._client)
        seconds = time.monotonic() - began
        name, page_at = self.spec.name, f"Operator page: [bold]{page_url(self.port)}[/bold]"
        if why:
            err.print(f"{name} is not in AUTO: {escape(why)}", soft_wrap=True, highlight=False)
            err.print(f"{page_at}; it stays up. AUTO is entered once that is mended, or selected there.")
        else:
            err.print(f"{name} is in AUTO after {seconds:.0f} s, at {self.speed:g} times life's speed. {page_at}")
        err.print(f"plant {self.plant_url}, controller {self.controller_url}, logs in {self.home / 'logs'}")
        err.print("Ctrl-C ends everything and leaves the plant in local control.")

    def _enter_auto(self, client: ControllerClient) -> str:
        """Wait until the controller is in AUTO. Where it waits for a person (the run before ended in a shed or a crash), whoever
        started the demo is that person: their name and the reason go through the controller's own command, and its audit.
        Returns '' or, after a while, why it is not in AUTO, in the controller's words."""
        deadline, look, why, said = time.monotonic() + _START_S, 0.0, "it has not said why", False
        while time.monotonic() < deadline:
            self._need_alive()
            if self._stop:
                raise ControlError("interrupted while starting")
            if (shot := _shot(client)) is not None:
                why = shot.mode_reason
                if shot.mode_actual in (Mode.AUTO, Mode.SHED):
                    return "" if shot.mode_actual == Mode.AUTO else why
                waits = any(alarm.key == RESTART and alarm.active for alarm in shot.alarms)
                if waits and not said:
                    said = True
                    err.print(
                        f"{self.spec.name}: {escape(why)}. AUTO is asked for in the name of {_person()}, who started this.",
                        soft_wrap=True, highlight=False,
                    )  # fmt: skip
                if (waits or shot.mode_target != Mode.AUTO) and time.monotonic() >= look:
                    look = time.monotonic() + _LOOK_S
                    self._ask_auto(client)
            time.sleep(0.2)
        return self._ask_auto(client) or why

    def _ask_auto(self, client: ControllerClient) -> str:
        """Ask for AUTO as the person who started the demo. Returns '' or the refusal."""
        with contextlib.suppress(LinkError):
            return client.set_mode(Mode.AUTO, f"demo ({_person()})", "the demo was started by hand")
        return "the controller does not answer"

    def _start_s(self) -> float:
        """Plant time to start at: now, or a minute past the history that an earlier, faster-than-life demo left."""
        path = self.home / "historian.db"
        newest = None
        if path.exists():
            with Historian(path, self.spec.name, read_only=True) as store:
                newest = store.newest()
        return max(time.time(), (newest or 0.0) + 60.0)

    def _config(self) -> Path:
        path = self.home / "controller.yaml"
        path.write_text(yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        return path

    def _plant_argument(self) -> str:
        return self.spec.name

    def _start(self, name: str, arguments: list[str]) -> None:
        self._spawn(name, [sys.executable, "-m", "homeostat", *arguments])

    def _spawn(self, name: str, argv: list[str]) -> None:
        logs = self.home / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl-C reaches only us, and we end the children in order.
            self.children[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._write_lock()

    def _wait(self, what: str, needed: str, ready) -> None:
        deadline = time.monotonic() + _START_S
        while not ready():
            self._need_alive()
            if self._stop:
                raise ControlError("interrupted while starting")
            if time.monotonic() > deadline:
                raise ControlError(
                    f"{what} did not come up within {_START_S:.0f} s", f"demo {self.spec.name}",
                    f"See {self.home / 'logs' / needed}.log: {self._last_line(needed)}",
                )  # fmt: skip
            time.sleep(0.2)

    def _need_alive(self) -> None:
        for name, child in self.children.items():
            if (code := child.poll()) is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
                raise ControlError(
                    f"the {name} process {how}", f"demo {self.spec.name}",
                    f"Its log {self.home / 'logs' / name}.log ends: {self._last_line(name)}",
                )  # fmt: skip

    def _last_line(self, name: str) -> str:
        lines = (self.home / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(empty)"

    def _watch(self, minutes: float | None) -> int:
        """Until Ctrl-C or `minutes`; every change of mode is told, in the controller's words."""
        until = float("inf") if minutes is None else time.monotonic() + minutes * 60
        told, look = "", 0.0
        while not self._stop and time.monotonic() < until:
            self._need_alive()
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK_S
                shot = _shot(self._client)
                if shot is not None and told not in ("", shot.mode_actual):
                    said = f"{self.spec.name} is in {shot.mode_actual}: {shot.mode_reason}"
                    err.print(escape(said), soft_wrap=True, highlight=False)
                told = told if shot is None else shot.mode_actual
            time.sleep(0.5)
        return 0

    def _end_all(self) -> None:
        """Controller first (it gives the MVs back), the plant last (its local control must be there to take them)."""
        if self._client is not None:
            self._client.close()
        for name in ("controller", "dashboard", "recorder", "plant"):
            child = self.children.get(name)
            if child is None or child.poll() is not None:
                continue
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                err.print(f"the {name} process did not end and was killed")
                child.kill()
                child.wait()


def _entry(pid: int) -> dict[str, float]:
    """A process in a lock: numbers are given out again, so the moment it began belongs to it."""
    return {"pid": pid, "since": psutil.Process(pid).create_time()}


def _read_lock(path: Path) -> list[Any]:
    """The processes of a lock; none when it says nothing."""
    try:
        held = json.loads(path.read_text())
    except ValueError:
        return []
    return held if isinstance(held, list) else []


def _alive(entry: Any) -> psutil.Process | None:
    """The process that a lock speaks of; None when it is gone, or its number went to another."""
    with contextlib.suppress(KeyError, TypeError, ValueError, psutil.Error):
        process = psutil.Process(entry["pid"])
        if process.create_time() == entry["since"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _end(process: psutil.Process) -> None:
    """End a process that is not our child."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        if psutil.wait_procs([process], timeout=10)[1]:
            process.kill()


def _need_free(what: str, port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            raise LinkError(
                f"port {port} is in use", f"demo, {what}", "End what uses it, or choose another port (see --help)."
            ) from None


def _listening(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


def _person() -> str:
    """Who started this; a container may know no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no LOGNAME and no entry for the user's number
        return f"user {os.getuid()}"


def _shot(client: ControllerClient | None) -> ControllerSnapshot | None:
    """What the controller shows; None while it does not answer."""
    with contextlib.suppress(LinkError):
        return client.snapshot() if client is not None else None
    return None


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1.0) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False
