"""What a plant's history under its own loops is worth: the share of roll-outs over 15 samples in which every move is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.outcomes import Outcome
from benchmarks.site.bench import Bench
from benchmarks.site.moves import BAR, known_share

TITLE = "History under the plant's own loops: roll-outs with known moves"


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {plant: lambda plant=plant: case(bench, plant) for plant in bench.plants}


def case(bench: Bench, plant: str) -> list[Outcome]:
    hours = bench.settings.most
    runs = [r for r in bench.runs(plant, hours) if r.kind == "recorded"]
    note = f"{hours:g} h of history"
    return [Outcome("share of 15-sample roll-outs", known_share(runs), BAR, at_least=True, note=note)]
