"""The foreign plant as a process: node-opcua in a folder this makes, `server.js` on it, and its console by HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.foreign.ports import free_port

NODE_OPCUA = "2.182.2"
SERVER = Path(__file__).with_name("server.js")
_INSTALL_S, _START_S = 240.0, 120.0


class NoNode(RuntimeError):
    """node or node-opcua is not to be had; the message says what to install."""


def cache() -> Path:
    """Where node-opcua is installed: `HOMEOSTAT_NODE`, else a folder of the user's cache."""
    own = os.environ.get("HOMEOSTAT_NODE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own) if own else base / "homeostat" / f"node-opcua-{NODE_OPCUA}"


def modules() -> Path:
    """The `node_modules` with node-opcua, installed by npm at the first call. `NoNode` where that cannot be."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NoNode("node and npm are not installed (Debian, Ubuntu: apt install nodejs npm)")
    folder = cache()
    found = folder / "node_modules" / "node-opcua" / "package.json"
    if found.exists() and json.loads(found.read_text())["version"] == NODE_OPCUA:
        return folder / "node_modules"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    argv = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"node-opcua@{NODE_OPCUA}"]
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoNode(f"npm did not install node-opcua@{NODE_OPCUA} within {_INSTALL_S:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NoNode(f"npm cannot install node-opcua@{NODE_OPCUA}: {last}")
    return folder / "node_modules"


class Console:
    """A plant process with a console by HTTP, which no client of OPC UA sees."""

    def __init__(self, console: int) -> None:
        self.console = console
        self.process: subprocess.Popen[bytes] | None = None

    def await_start(self) -> None:
        """Wait until the console answers. `NoNode` when it does not."""
        assert self.process is not None
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.state()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.end()
        raise NoNode(f"the plant did not start: {self.process.args}")

    def end(self) -> None:
        """End the process, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def _ask(self, path: str, **query: object) -> Any:
        url = f"http://127.0.0.1:{self.console}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            return json.loads(answer.read())

    def state(self) -> dict[str, Any]:
        """The true state of the plant, `granted`, `reason`, `wall_s`."""
        return self._ask("state")

    def writes(self, start: int = 0) -> list[dict[str, Any]]:
        """Every write since the `start`th: wall time `at`, node, value, status, and what else the plant knows of it."""
        return self._ask("writes", **{"from": start})

    def fault(self, **faults: object) -> None:
        """Set faults (see `server.js`); `clear=1` ends them all."""
        self._ask("set", **faults)


class Tanks(Console):
    """`server.js` while the context is open. `endpoint` is its OPC UA address; its state tells of levels `h` (cm), flows `q`
    (cm3/s), modes, trips, and the highest levels so far."""

    def __init__(
        self, setting: str = "minimum", *, speed: float = 60.0, index: int = 3, seed: int = 1, bare: bool = False,
        lease: bool = False, port: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(free_port())
        self.port, self.speed = port or free_port(), speed
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}/tanks"
        self._argv = [
            "node", str(SERVER), str(self.port), str(self.console), "--setting", setting, "--speed", str(speed),
            "--index", str(index), "--seed", str(seed), *(["--bare"] if bare else []), *(["--lease"] if lease else []),
        ]  # fmt: skip

    def __enter__(self) -> Tanks:
        environment = {**os.environ, "NODE_PATH": str(modules())}
        self.process = subprocess.Popen(
            self._argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.await_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def operate(self, **settings: object) -> None:
        """Act at the plant's own console: LC1, LC2 set-points, MODE1, MODE2 (0: as the handshake says), FC1, FC2 by hand."""
        self._ask("operator", **settings)
