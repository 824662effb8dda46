"""A small plant's spec, historians in a folder of the test's own, a lock on the database, a wait with a deadline."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from historian import Historian
from plant.spec import PlantSpec


def _tag(name: str, role: str, unit: str, bounds: tuple[float, float], nominal: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "description": f"Signal {name}", "unit": unit, "range": bounds,
            "nominal": nominal, "node_id": f"ns=2;s=heater.{name}", **more}  # fmt: skip


@pytest.fixture(scope="session")
def spec() -> PlantSpec:
    return PlantSpec.model_validate({
        "name": "heater",
        "description": "A heater",
        "endpoint": "opc.tcp://127.0.0.1:0/heater",
        "sample_time_s": 2.0,
        "scan_time_s": 0.5,
        "handshake": "simulated",
        "tags": [
            _tag("T", "CV", "degC", (0.0, 150.0), 50.0, noise=0.05),
            _tag("F", "AUX", "L/min", (0.0, 10.0), 1.0),
            _tag("U", "MV", "%", (0.0, 100.0), 30.0, move={"limits": (0.0, 80.0), "rate_per_s": 5.0, "safe": 0.0}),
            _tag("H", "HIDDEN", "degC", (0.0, 150.0), 50.0, node_id=None),
        ],
    })  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "historian.db"


@pytest.fixture
def store(path: Path, spec: PlantSpec) -> Iterator[Historian]:
    """A historian that knows the heater's tags."""
    with Historian(path, spec.name) as historian:
        historian.register(spec)
        yield historian


@pytest.fixture
def locked() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """`with locked(path)`: another program holds the database for itself."""

    @contextlib.contextmanager
    def hold(path: Path) -> Iterator[None]:
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            connection.close()

    return hold


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait until a condition holds; fail after a generous deadline."""

    def wait(condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program text as a Python process of its own; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
