"""What a plant's history under its own PID is worth to a model: how many of its roll-outs have known moves, and how well an ARX
foretells on held-out time.

    python -m benchmarks.site.moves --quick
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.report import Report
from historian import Historian
from homeostat.lockstep import rehearse
from models.config import ModelConfig, TrainingConfig
from models.dataset import load_runs
from models.rivals.registry import train_rival
from models.rivals.stretches import Stretches, whole
from models.windows import Run, WindowSet, channel_scale
from plant.spec import PlantSpec, load_spec
from simulators.scenario import RandomLevels, Signal, load_scenario

PLANTS = ("reactor", "vandevusse", "turbofan")
STEPS = (1, 5, 15)
BAR = 0.9  # of the roll-outs of reactor and van de Vusse
_SPREAD = 0.02  # of a controlled tag's range: how far its set-point is moved
_HOLD = 40  # samples
_SAMPLES = {False: 4000, True: 1200}


def pid_history(spec: PlantSpec, folder: Path, samples: int, seed: int) -> list[Run]:
    """Runs of a history as a recorder leaves it of the plant in LOCAL: scanned tags at each scan, MVs when they change."""
    moved = {
        loop.pv: Signal(
            random=RandomLevels(range=_around(spec, loop.pv, loop.set_point), hold_s=_HOLD * spec.sample_time_s)
        )
        for loop in spec.regulatory.loops
    }
    usual = load_scenario("excitation", spec)
    scenario = usual.model_copy(update={"duration_s": samples * spec.sample_time_s, "set_points": moved})
    seen = rehearse(spec, scenario, seed)
    with Historian(folder / f"{spec.name}{seed}.db", spec.name) as store:
        store.register(spec)
        for tag in spec.online:
            values = seen.values[tag.name]
            new = np.append(True, np.diff(values) != 0) if not tag.scanned else np.ones(len(values), bool)
            store.sample_block({tag.name: values[new]}, 1.7e9 + seen.time_s[new])
        store.add_runs("recorded", [(1.7e9, 1.7e9 + float(seen.time_s[-1]))])
        store.flush(60.0)
        return load_runs(store, spec)


def _around(spec: PlantSpec, pv: str, value: float) -> tuple[float, float]:
    spread = _SPREAD * spec.tag(pv).span
    return value - spread, value + spread


def known_share(runs: Sequence[Run], horizon: int = 15) -> float:
    """Share of all roll-outs over `horizon` samples in which every move is known."""
    known = total = 0
    for run in runs:
        whole = np.isfinite(run.applied[1:]).all(1).astype(int)
        if len(whole) >= horizon:
            sums = np.convolve(whole, np.ones(horizon, int), "valid")
            known, total = known + int((sums == horizon).sum()), total + len(sums)
    return known / max(total, 1)


def errors(spec: PlantSpec, runs: Sequence[Run]) -> list[float]:
    """Root mean square error of an ARX on the last quarter of the time, `STEPS` samples ahead, mean over tags in their
    deviations in the training data; NaN where no whole window of the rest is followed by known moves."""
    config, cut = ModelConfig(window=8, horizon=max(STEPS)), len(runs) * 3 // 4
    taught, held = runs[:cut], runs[cut:]
    part, validation = taught[: cut * 4 // 5], taught[cut * 4 // 5 :]
    arx = train_rival("arx", spec, part, validation, config, TrainingConfig())
    data = WindowSet(held, channel_scale(spec, part), config.window, config.horizon)
    judged = Stretches.of(data, whole(data)).double()
    with torch.no_grad():
        squares = (
            arx.double().roll(judged.values, judged.mask, judged.u, judged.d) - judged.y
        ).square() * judged.counted
    found = []
    for k in STEPS:
        mean = squares[:, k - 1].sum(0) / judged.counted[:, k - 1].sum(0)
        found.append(float(mean.sqrt().mean()))
    return found


def rows(quick: bool) -> list[list[Any]]:
    """Plant, hours, share of known roll-outs, and the ARX's error 1, 5 and 15 samples ahead."""
    made = []
    for name in PLANTS:
        spec = load_spec(name)
        with TemporaryDirectory() as folder:
            runs = pid_history(spec, Path(folder), _SAMPLES[quick], seed=5)
        hours = sum(len(r) for r in runs) * spec.sample_time_s / 3600
        made.append([name, round(hours, 2), round(known_share(runs), 4), *(round(e, 4) for e in errors(spec, runs))])
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    report, made = Report("moves"), rows(quick)
    columns = ["plant", "h of PID history", "roll-outs with known moves", *(f"ARX, {k} ahead" for k in STEPS)]
    report.table("PID history", columns, made)
    for row in made[:2]:
        report.bar(f"{row[0]}: share of 15-sample roll-outs with known moves", row[2], BAR, at_least=True)
    return report.finish(None, True)


if __name__ == "__main__":
    raise SystemExit(main())
