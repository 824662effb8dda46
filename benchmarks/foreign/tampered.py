"""Models that do not deserve AUTO: changed since they were written, implausible, suspect, and not yet judged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.foreign.bench import Bench, side_by_side
from benchmarks.foreign.fromtests import load
from benchmarks.foreign.product import Controller, run
from benchmarks.foreign.simulated import PLANT, Simulated
from benchmarks.outcomes import Case, Cases, Outcome, none, yes
from homeostat.checkpoints import load_checkpoint, shipped
from models.checkpoint import FILES
from models.manifest import MANIFEST, seal
from plant.errors import ModelError
from plant.spec import load_spec

_TESTS = "tests/models/test_tampering.py"
_LIVE = ("suspect", "no manifest", "never calibrated")  # may advise, not act: asked for AUTO as an operator would
_TRY_S, _START_S = 12.0, 60.0


def cases(bench: Bench) -> Cases:
    tests = load(_TESTS)
    changed = {f"changed: {kind}": tamper for kind, tamper in tests.CHANGED.items()}
    implausible = {f"implausible: {kind}": sealed(tamper) for kind, (tamper, _) in tests.IMPLAUSIBLE.items()}
    doubted = tests.DOUBTED

    def case(what: Callable[..., list[Outcome]], *arguments: object) -> Case:
        return lambda: what(bench, *arguments)

    return {
        "changed or implausible": case(unloaded, changed | implausible),
        "the command itself": case(commanded, changed["changed: one bit of the weights"]),
        **side_by_side({**{kind: case(doubt, kind, *doubted[kind]) for kind in _LIVE}, "cold surprise": case(cold)}),
    }


def sealed(tamper: Callable[[Path], object]) -> Callable[[Path], object]:
    """Tamper and make the manifest anew, as one who knows of it would."""

    def both(folder: Path) -> None:
        tamper(folder)
        if (folder / MANIFEST).exists():
            seal(folder, FILES)

    return both


def copy(bench: Bench, tamper: Callable[[Path], object], name: str = "model") -> Path:
    """The shipped checkpoint, tampered with, in a folder of its own."""
    folder = bench.folder / "tampered" / f"{name}_model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shipped(PLANT), folder)
    tamper(folder)
    return folder


def unloaded(bench: Bench, kinds: dict[str, Callable[[Path], object]]) -> list[Outcome]:
    """What cannot be loaded can decide nothing: no controller is made of it."""
    spec, loaded = load_spec(PLANT), []
    for kind, tamper in kinds.items():
        folder = copy(bench, tamper)
        try:
            load_checkpoint(spec, folder)
        except ModelError:
            continue
        loaded.append(kind)
    return [
        none("tampered models that a controller would be made of", len(loaded), f"{len(kinds)} kinds {loaded or ''}")
    ]


def commanded(bench: Bench, tamper: Callable[[Path], object]) -> list[Outcome]:
    """`homeostat control` with such a model."""
    folder = copy(bench, tamper)
    data = bench.folder / "tampered" / "data"
    code, said = run("control", PLANT, "--checkpoint", folder, "--mode", "auto", "--data-dir", data, timeout_s=_START_S)
    lines = [line for line in said.splitlines() if "error" in line.lower()]
    return [yes("refused in one line, exit status not 0", code > 0 and len(lines) == 1, (lines or [said])[-1][:160])]


def doubt(bench: Bench, kind: str, tamper: Callable[[Path], object], said: str) -> list[Outcome]:
    """A model that may advise: AUTO is refused and says why."""
    folder = copy(bench, sealed(tamper), kind)
    with (
        Simulated(seed=bench.seed + 71) as plant,
        Controller(bench.folder / "tampered" / kind, PLANT, plant.endpoint, checkpoint=folder, mode="auto") as control,
    ):
        control.wait(lambda s: s.cycles > 12)
        why = control.auto(_TRY_S)
        seen = control.now()
        entered = seen is None or seen.mode_actual == "AUTO" or bool(plant.state()["granted"])
    return [
        none("models in AUTO that do not deserve it", entered),
        yes("the refusal says why", said in why, why[:160]),
    ]


def cold(bench: Bench) -> list[Outcome]:
    """AUTO asked for at once: before the surprise can be judged it is refused, afterwards granted."""
    with (
        Simulated(seed=bench.seed + 72) as plant,
        Controller(bench.folder / "tampered" / "cold", PLANT, plant.endpoint, mode="auto") as control,
    ):
        early, until, entered = [], time.monotonic() + _START_S, False
        while time.monotonic() < until and not entered:
            seen = control.now()
            if seen is not None and seen.mode_actual == "AUTO":
                entered = True
            elif seen is not None:
                early.append(seen.mode_reason)
            time.sleep(0.1)
        seen = control.now()
        judged = seen is not None and seen.surprise == seen.surprise
    return [
        yes("AUTO is entered once the surprise is judged", entered and judged, "; ".join(dict.fromkeys(early))[-160:])
    ]
