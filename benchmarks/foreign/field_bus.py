"""The field bus is dead behind a live server: every way in which old values can look young, on three kinds of plant.

AUTO may go on for max(`stale_s`, 2 samples), plant seconds by the plant's speed, and nothing may be written after that. A plant without a handshake goes to its fallbacks then:
such moves lead back to where its MVs stood before AUTO.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from benchmarks.foreign.bench import Bench, together
from benchmarks.foreign.node import Console, Tanks
from benchmarks.foreign.product import BARE, CALM, Controller, until
from benchmarks.foreign.simulated import PLANT, Simulated
from benchmarks.outcomes import Cases, Outcome, none, yes
from plant.spec import PlantSpec, load_spec

FAULTS: dict[str, dict[str, object]] = {
    "stamps old": {"old": 1},
    "stamps 1601": {"stamp": 1601},
    "stamps 9999": {"stamp": 9999},
    "stamps an hour ahead": {"shift": 3600},
    "stamps an hour behind": {"shift": -3600},
    "values frozen, stamps running": {"frozen": 1},
    "one tag an hour ahead": {},
}
CAUSE = re.compile(
    r"stamp|source time|old|stale|frozen|stand|same|identical|repeat|clock|fresh|ahead|behind", re.IGNORECASE
)
OURS = "our layer"
_LATE_S = 0.2  # wall: the poll of this script, and a decision under way
_AUTO_S, _PATIENCE_S = 90.0, 30.0  # until the surprise can be judged again; until a fault is found


@dataclass(frozen=True)
class Kind:
    """A kind of plant. `odd`: the tag whose stamp is moved by itself; `limit_s`: plant seconds that AUTO may go on."""

    name: str
    spec: PlantSpec
    yaml: Path | str
    odd: str
    bare: bool

    @property
    def limit_s(self) -> float:
        """max(stale_s, 2 samples) of the critical tags, plant seconds."""
        stale = [t.stale_s for t in self.spec.measured if t.critical and t.stale_s is not None]
        return max([2 * self.spec.sample_time_s, *stale])

    def plant(self, bench: Bench) -> contextlib.AbstractContextManager[Console]:
        if self.name == OURS:
            return Simulated(speed=bench.settings.speed, seed=bench.seed + 21)
        return Tanks(speed=bench.settings.speed, seed=bench.seed + 21, bare=self.bare)


def kinds(bench: Bench) -> Iterator[Kind]:
    """Our own layer, a foreign alive bit, no heartbeat."""
    yield Kind(OURS, load_spec(PLANT), PLANT, "TI101", False)
    for bare in (False, True):
        path, spec = bench.foreign(bare=bare)
        yield Kind("no heartbeat" if bare else "foreign alive bit", spec, path, "LT1", bare)


def cases(bench: Bench) -> Cases:
    found: dict[str, Future[dict[str, list[Outcome]]]] = {}

    def of(kind: str, fault: str) -> list[Outcome]:
        if not found:
            found.update(together({k.name: lambda k=k: walk(bench, k) for k in kinds(bench)}))
        return found[kind].result()[fault]

    return {f"{k.name}: {fault}": lambda k=k, f=fault: of(k.name, f) for k in kinds(bench) for fault in FAULTS}


def walk(bench: Bench, kind: Kind) -> dict[str, list[Outcome]]:
    """Every fault in turn on one plant, each from AUTO, each ended before the next."""
    checkpoint = None if kind.name == OURS else bench.model()
    folder, found = bench.folder / "field_bus" / re.sub(r"\W+", "_", kind.name), {}
    with contextlib.ExitStack() as stack:
        plant = stack.enter_context(kind.plant(bench))
        config = None if kind.name == OURS else BARE if kind.bare else CALM
        made = Controller(folder, kind.yaml, plant.endpoint, config=config, checkpoint=checkpoint)
        control = stack.enter_context(made)
        for fault, faults in FAULTS.items():
            found[fault] = died(bench, kind, plant, control, faults or {"shift_tag": f"{kind.odd},3600"})
            plant.fault(clear=1)
    return found


def died(bench: Bench, kind: Kind, plant: Console, control: Controller, faults: dict[str, object]) -> list[Outcome]:
    """One fault on one plant, from AUTO."""
    stood = _in_force(plant)
    if why := control.auto(_AUTO_S):
        return [yes("AUTO is entered", False, why[:200])]
    began = control.now()
    control.wait(lambda s: began is None or s.cycles > began.cycles + 8, _PATIENCE_S)
    first, speed = len(plant.writes()), bench.settings.speed
    plant.fault(**faults)
    began_s, at, force = time.monotonic(), plant.state()["wall_s"], _in_force(plant)
    allowed_s = kind.limit_s / speed + _LATE_S

    def shed() -> bool:
        seen = control.now()
        return seen is not None and seen.mode_actual not in ("AUTO", "MANUAL")

    until(shed, _PATIENCE_S)
    took_s = time.monotonic() - began_s if shed() else math.inf
    seen = control.now()
    time.sleep(1.0)  # what would still be written
    late = 0
    for w in (w for w in plant.writes(first) if w["node"].split(".")[0] in stood):
        mv = w["node"].split(".")[0]
        homewards = kind.bare and abs(w["value"] - stood[mv]) <= abs(force[mv] - stood[mv]) + 1e-6
        late += w["at"] > at + kind.limit_s / speed + _LATE_S and not homewards
        force[mv] = w["value"]
    words = "; ".join([seen.mode_reason, *(a.message for a in seen.alarms if a.active)]) if seen else "no answer"
    return [
        yes("AUTO is entered", True),
        Outcome("time until AUTO is given up, of that allowed", took_s / allowed_s, 1.0, note=f"{took_s:.2f} s"),
        yes("the alarm names the cause", bool(CAUSE.search(words)), seen.mode_reason[:140] if seen else ""),
        none("moves written on inputs older than that", late),
    ]


def _in_force(plant: Console) -> dict[str, float]:
    """The moves in force, by MV."""
    state = plant.state()
    return dict(state["moves"]) if "moves" in state else {f"FC{i + 1}": q for i, q in enumerate(state["q"])}
