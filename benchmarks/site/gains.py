"""Gains of random linear plants whose true ones are known: how often their 90 % intervals hold them, and whether planted wrong signs,
MVs that only move together and MVs that never move are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.outcomes import Outcome, none, shown
from benchmarks.site.bench import Bench
from benchmarks.site.linear_plants import Believer, archive, plant_of
from models.gain_estimate import gains_of
from models.gains import LEVEL

TITLE = "Gains of plants whose gains are known"
FIRST = 7000  # seed of the first plant: none below was left to look at while the intervals were made
PLANTS, QUICK, CLEAR = 24, 4, 0.5
OFF = 0.03


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    count = QUICK if bench.settings.seeds < 2 else PLANTS
    return {
        **{
            f"coverage, {hours:g} h": lambda hours=hours: coverage(bench.seed, count, hours) for hours in (100.0, 200.0)
        },
        "planted": lambda: planted(bench.seed, count // 2),
    }


def coverage(seed: int, count: int, hours: float) -> list[Outcome]:
    """The share of true gains in their intervals over `count` plants, those that are zero and those of the integrating CV too."""
    held = total = wrong = known = real = integrating = pairs = points = 0
    for n in range(count):
        number = FIRST + 1000 * seed + n + round(hours)
        plant = plant_of(number)
        gains = gains_of(plant.spec, archive(plant, hours, number))
        integrating += int((gains.integrating != plant.integrating).sum())
        pairs += len(gains.pairs)
        points += len(gains.points) > 1
        right = gains.integrating == plant.integrating
        inside = (gains.low[0] <= plant.gain) & (plant.gain <= gains.high[0])
        held += int(inside[right].sum())
        total += int(right.sum()) * plant.gain.shape[1]
        sure = gains.sure[0] & (plant.gain != 0)
        wrong += int((sure & (np.sign(gains.gain[0]) != np.sign(plant.gain)))[right].sum())
        known += int(sure[right].sum())
        real += int((plant.gain != 0)[right].sum())
    share = held / total
    said = f"{100 * share:.1f} +- {100 * math.sqrt(share * (1 - share) / total):.1f} % of {total} gains (binomial)"
    return [
        Outcome("coverage, away from 90 %", abs(share - LEVEL), OFF, note=said),
        Outcome(
            "share of wrong signs among those called sure",
            wrong / max(known, 1),
            (1 - LEVEL) / 2,
            note=f"{wrong} of {known}; {real} gains are not zero",
        ),
        none("pairs called collinear that are not", pairs),
        shown("CVs taken for integrating, or not, wrongly", integrating, f"of {count * len(plant.gain)}"),
        shown("linear plants given more than one operating point", points, f"of {count}"),
    ]


def planted(seed: int, count: int) -> list[Outcome]:
    """A model that has two signs wrong, an MV that only moves with another, and one that never moves: of each, how many are missed."""
    missed = trusted = alarms = signs = apart = still = 0
    for n in range(count):
        number = FIRST + 1000 * seed + 500 + n
        plant = plant_of(number)
        runs = archive(plant, 100.0, number)
        clear = [(int(i), int(j)) for i, j in np.argwhere(np.abs(plant.gain) > CLEAR)]
        chosen = np.random.default_rng(number).permutation(len(clear))[:2]
        wrong = [clear[k] for k in chosen]
        gains = gains_of(plant.spec, runs, Believer(plant, runs, wrong))
        found = {(int(i), int(j)) for i, j in np.argwhere(gains.against[0])}
        signs += len(wrong)
        trusted += sum(bool(gains.sure[0][pair]) for pair in wrong)
        unknown = {pair for pair in wrong if gains.low[0][pair] <= 0 <= gains.high[0][pair]}
        missed += len(set(wrong) - found - unknown)
        alarms += len(found - set(wrong))
        apart += gains_of(plant.spec, archive(plant, 100.0, number, together=(2, 3))).pairs != (("U2", "U3"),)
        lines = gains_of(plant.spec, archive(plant, 100.0, number, still=(3,))).unknown
        still += not any(line.startswith("U3 never moved") for line in lines)
    return [
        none(
            "wrong signs of a model not found",
            missed,
            f"of {signs}; those the data cannot tell either are called unknown",
        ),
        none("wrong signs of a model called sure", trusted, f"of {signs}"),
        none("right signs of a model called wrong", alarms),
        none("collinear pairs not found", apart, f"of {count}"),
        none("MVs that never moved not found", still, f"of {count}"),
    ]
