"""What the rows share: where things are kept, how fast plants run, the commissioned plants and their models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.foreign import plants
from benchmarks.foreign.node import NoNode, modules
from benchmarks.outcomes import Case, Cases, Outcome
from plant.spec import PlantSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """`speed`: plant seconds per wall second in closed loop, `excite_speed` while identification moves are made;
    `excite_hours`, `auto_hours` plant hours; `steps` of training; `seeds` of the lock-step rows."""

    speed: float = 60.0
    excite_speed: float = 240.0
    excite_hours: float = 8.0
    auto_hours: float = 2.0
    steps: int = 1000
    seeds: int = 50
    demo_minutes: float = 10.0


QUICK = Settings(excite_hours=6.0, auto_hours=0.25, steps=300, seeds=4, demo_minutes=2.0)


@dataclass(frozen=True)
class Bench:
    """`folder` holds everything that is made. `shared_cases`: the folder of small inputs that went wrong, where given."""

    folder: Path
    settings: Settings
    seed: int
    shared_cases: Path | None = None

    def foreign(
        self, setting: str = plants.MINIMUM, *, bare: bool = False, lease: bool = False
    ) -> tuple[Path, PlantSpec]:
        """The YAML of a foreign plant in closed loop, and what it says."""
        name = setting + ("_bare" if bare else "") + ("_lease" if lease else "")
        path = self.folder / f"{name}.yaml"
        return path, plants.write(path, setting, speed=self.settings.speed, bare=bare, lease=lease)

    def model(self, setting: str = plants.MINIMUM) -> Path:
        """The checkpoint trained on a setting's record. `NoNode` where there is none, for want of node or of a good record."""
        modules()
        folder = self.folder / setting / "model"
        if not (folder / "config.json").exists():
            raise NoNode(f"no model of the {setting} setting: the row `commission` made none")
        return folder


def together(work: Mapping[str, Callable[[], T]]) -> dict[str, Future[T]]:
    """Run a few things that mostly wait, at once; each one's result, or its error, when all have ended."""
    with ThreadPoolExecutor(max(1, len(work))) as pool:
        return {name: pool.submit(f) for name, f in work.items()}


def side_by_side(work: Mapping[str, Case]) -> Cases:
    """Cases that mostly wait: the first that is asked for runs them all, at once."""
    found: dict[str, Future[list[Outcome]]] = {}

    def of(name: str) -> list[Outcome]:
        if not found:
            found.update(together(work))
        return found[name].result()

    return {name: lambda name=name: of(name) for name in work}


class Tick(threading.Thread):
    """Calls `look` every `period_s` wall seconds while the context is open."""

    def __init__(self, look: Callable[[], None], period_s: float) -> None:
        super().__init__(daemon=True)
        self._look, self._period_s, self._ended = look, period_s, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._period_s):
            self._look()

    def __enter__(self) -> Tick:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
