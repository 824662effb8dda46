"""What a plant's history under its own loops is worth: the share of roll-outs over 15 samples in which every move is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from benchmarks.outcomes import Outcome
from benchmarks.site.bench import Bench
from models.windows import Run

TITLE = "History under the plant's own loops: roll-outs with known moves"
SHARE, STEPS = 0.9, 15


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {plant: lambda plant=plant: case(bench, plant) for plant in bench.plants}


def case(bench: Bench, plant: str) -> list[Outcome]:
    hours = min(100.0, max(bench.settings.hours))
    runs = [r for r in bench.runs(plant, hours) if r.kind == "recorded"]
    note = f"{hours:g} h of history"
    return [Outcome("share of 15-sample roll-outs", known_share(runs), SHARE, at_least=True, note=note)]


def known_share(runs: list[Run]) -> float:
    """Of all stretches of `STEPS` moves after a first sample."""
    known = total = 0
    for run in runs:
        good = np.asarray(np.isfinite(run.applied[1:]).all(1))
        edges = np.flatnonzero(np.diff(good.astype(int), prepend=0, append=0))
        known += sum(max(0, b - a - STEPS + 1) for a, b in list(pairwise(edges))[::2])
        total += max(0, len(good) - STEPS + 1)
    return known / max(total, 1)
