"""AUTO held on a plant of another make while targets step, judged from what the plant itself saw."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np

from benchmarks.foreign import plants
from benchmarks.foreign.bench import Bench, side_by_side
from benchmarks.foreign.node import Tanks
from benchmarks.foreign.product import BARE, CALM, Controller
from benchmarks.outcomes import Cases, Outcome, none, yes
from plant.spec import PlantSpec

BAR_ERROR_CM = 0.3  # mean in the last third of a step; a target's scale is 1 cm
BAR_MISSED = 0.01  # decisions late, of all
# Cm around the usual levels, a third of the time each. Where moves first go the wrong way the levels can hardly part: the
# flows that would take lie far outside any test.
STEPS = {
    plants.MINIMUM: ((0.0, 0.0), (0.6, -0.4), (-0.6, 0.3)),
    plants.NONMINIMUM: ((0.0, 0.0), (0.4, 0.3), (-0.4, -0.3)),
}
_SETTLED = 2 / 3
_SLACK = 1e-3  # a Float node rounds: of the limits


def cases(bench: Bench) -> Cases:
    wanted = {"minimum phase": (plants.MINIMUM, False), "non-minimum phase": (plants.NONMINIMUM, False)}
    wanted["no handshake"] = (plants.MINIMUM, True)
    return side_by_side({name: lambda s=s, b=b: held(bench, s, b) for name, (s, b) in wanted.items()})


def held(bench: Bench, setting: str, bare: bool) -> list[Outcome]:
    """Two plant hours of AUTO."""
    settings, folder = bench.settings, bench.folder / "auto" / f"{setting}{'_bare' if bare else ''}"
    path, spec = bench.foreign(setting, bare=bare)
    usual, steps = plants.NOMINAL[setting], STEPS[setting]
    sheds, errors, seconds = [], [], settings.auto_hours * 3600 / settings.speed
    with (
        Tanks(setting, speed=settings.speed, seed=bench.seed + 11, bare=bare) as tanks,
        Controller(
            folder, path, tanks.endpoint, config=BARE if bare else CALM, checkpoint=bench.model(setting)
        ) as control,
    ):
        if why := control.auto():
            return [yes("AUTO is entered", False, why)]
        began = time.monotonic()
        for i, step in enumerate(steps):
            for tag, offset in zip(("LT1", "LT2"), step, strict=True):
                control.client.set_target(tag, usual[tag] + offset, "benchmark")
            end = began + (i + 1) * seconds / len(steps)
            settled = end - (1 - _SETTLED) * seconds / len(steps)
            while (now := time.monotonic()) < end:
                seen = control.now()
                if seen is None or seen.mode_actual != "AUTO":
                    sheds.append(seen.mode_reason if seen else f"no answer: {control.last_word()}")
                    return [none("sheds", len(sheds), sheds[0]), *_written(spec, tanks.writes())]
                if now >= settled:
                    h = tanks.state()["h"]
                    errors.append([abs(h[k] - usual[t] - step[k]) for k, t in enumerate(("LT1", "LT2"))])
                time.sleep(0.2)
        last, trips, writes = control.now(), tanks.state()["trips"], tanks.writes()
    cycles = last.cycles if last else 0
    return [
        none("sheds", len(sheds), sheds[0] if sheds else ""),
        *_written(spec, writes),
        Outcome("mean error in the last third of a step, cm", float(np.mean(errors)) if errors else math.inf, BAR_ERROR_CM),
        none("trips of the plant", trips),
        Outcome("decisions late, share", (last.missed_deadlines if last else math.inf) / max(cycles, 1), BAR_MISSED),
    ]  # fmt: skip


def _written(spec: PlantSpec, writes: list[dict]) -> list[Outcome]:
    """What the plant's own log says of the moves: inside engineer limits, at the rate, taken."""
    outside, refused, fast, count = 0, 0, 0, 0
    for mv in spec.mvs:
        assert mv.move is not None
        own = [w for w in writes if w["node"].startswith(mv.name)]
        low, high = mv.move.limits
        slack = _SLACK * mv.move.span
        count += len(own)
        outside += sum(not low - slack <= w["value"] <= high + slack for w in own)
        refused += sum(w["status"] != "Good" for w in own)
        pairs = itertools.pairwise(own)
        reach = mv.move.reach(spec.sample_time_s) + slack
        fast += sum(abs(b["value"] - a["value"]) > reach for a, b in pairs if a["status"] == b["status"] == "Good")
    return [
        none("moves outside engineer limits", outside, f"{count} moves"),
        none("moves faster than the rate", fast),
        none("moves the plant refused", refused),
    ]
