"""Meals: when how much is eaten, what of it the controller is told, and both as `Conditions`.

Scenarios S1 and S2 are fixed days, S3 draws each day's meals. What is announced may be wrong (counting error), missing
or late, or announced and not eaten. Everything comes from a seed; each patient of a batch has a stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError
from simulators.conditions import Schedule

Array = NDArray[np.float64]

EATING_G_PER_MIN = 5.0
_DAY = 1440  # min
_FIXED = {
    "S1": ((7, 45.0), (12, 70.0), (16, 15.0), (18, 80.0), (23, 10.0)),
    "S2": ((8, 40.0), (13, 80.0), (20, 60.0)),
}
# S3: breakfast, snack, lunch, snack, dinner, snack: probability; earliest, usual, latest hour and deviation of the time;
# mean and deviation of the grams.
_SLOTS = (
    (0.95, 5.0, 7.0, 9.0, 1.0, 45.0, 10.0),
    (0.30, 9.0, 9.5, 10.0, 0.5, 10.0, 5.0),
    (0.95, 10.0, 12.0, 14.0, 1.0, 70.0, 10.0),
    (0.30, 14.0, 15.0, 16.0, 0.5, 10.0, 5.0),
    (0.95, 16.0, 18.0, 20.0, 1.0, 80.0, 10.0),
    (0.30, 20.0, 21.5, 23.0, 0.5, 10.0, 5.0),
)


@dataclass(frozen=True)
class Announcing:
    """How the controller hears of meals. `told`: at all; `counting_sd`: relative deviation of the counted grams (never
    below 0); `missed`: share of meals never announced; `late_min`: minutes after the first bite (before it, if negative);
    `not_eaten`: share of announced meals that are skipped after all."""

    told: bool = True
    counting_sd: float = 0.0
    missed: float = 0.0
    late_min: int = 0
    not_eaten: float = 0.0

    def __post_init__(self) -> None:
        shares = {"missed": self.missed, "not_eaten": self.not_eaten}
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise SpecError(f"{name} = {share}", "meal announcements", "Give a share from 0 to 1.")
        if not self.counting_sd >= 0.0:
            raise SpecError(
                f"counting_sd = {self.counting_sd}", "meal announcements", "Give a relative deviation >= 0."
            )


@dataclass(frozen=True)
class Meals:
    """`served` (batch x minutes): grams whose eating begins in that minute. `announced` (batch x minutes): grams the
    controller is told in that minute."""

    served: Array
    announced: Array

    def intake(self) -> Array:
        """Grams eaten in each minute (batch x minutes): 5 g/min until the plate is empty; a second plate queues."""
        left, eaten = np.zeros(len(self.served)), np.empty_like(self.served)
        for k, grams in enumerate(self.served.T):
            left = left + grams
            eaten[:, k] = np.minimum(left, EATING_G_PER_MIN)
            left = left - eaten[:, k]
        return eaten

    def announcement(self, sample_min: int = 5) -> Array:
        """Grams announced in the last `sample_min` minutes (batch x minutes): one sample on a grid of as many minutes
        sees each announcement, once."""
        total = np.cumsum(self.announced, 1)
        total[:, sample_min:] -= total[:, :-sample_min].copy()
        return np.where(total > 1e-9, total, 0.0)

    def conditions(self, p: Array, sensitivity: float | Array = 1.0, sample_min: int = 5) -> Schedule:
        """These meals for patients `p` (batch x n_p), with an insulin sensitivity factor (a number, (batch,) or
        (batch x minutes)); after the last minute nothing more is eaten."""
        intake = self.intake()
        batch, minutes = intake.shape
        if len(p) != batch:
            raise SpecError(f"{len(p)} patients and meals for {batch}", "meals", "One row of meals a patient.")
        factor = np.asarray(sensitivity, float)
        factor = np.broadcast_to(factor[:, None] if factor.ndim == 1 else factor, (batch, minutes))
        levels = np.stack([intake, factor, self.announcement(sample_min)], -1).transpose(1, 0, 2)
        rest = levels[-1:] * np.array([0.0, 1.0, 0.0])
        return Schedule(60.0 * np.arange(minutes + 1.0), np.concatenate([levels, rest]), p)


def meals(scenario: str, days: int, batch: int, seed: int = 0, announcing: Announcing | None = None) -> Meals:
    """`days` days from midnight of scenario "S1", "S2" or "S3" for `batch` patients. `SpecError` for another name."""
    if scenario not in (*_FIXED, "S3"):
        raise SpecError(f"no meal scenario '{scenario}'", "meals", f"There are {', '.join(_FIXED)} and S3.")
    if days < 1 or batch < 1:
        raise SpecError(f"{days} days for {batch} patients", "meals", "Ask for at least one of each.")
    how = announcing or Announcing()
    served, announced = np.zeros((batch, days * _DAY)), np.zeros((batch, days * _DAY))
    for i, child in enumerate(np.random.SeedSequence([seed, 0x3EA1]).spawn(batch)):
        eating, telling = (np.random.default_rng(s) for s in child.spawn(2))
        for day in range(days):
            plates = _random_day(eating) if scenario == "S3" else [(60 * h, g) for h, g in _FIXED[scenario]]
            _serve(plates, day * _DAY, how, telling, served[i], announced[i])
    return Meals(served, announced)


def _serve(
    plates: Sequence[tuple[int, float]], midnight: int, how: Announcing, rng: np.random.Generator,
    served: Array, announced: Array,
) -> None:  # fmt: skip
    for minute, grams in plates:
        # Every draw is made whatever the options, so that two options meet the same meals with the same luck.
        skip, miss, count = rng.random(), rng.random(), rng.standard_normal()
        if skip >= how.not_eaten:
            served[midnight + minute] += grams
        at = midnight + minute + how.late_min
        if how.told and miss >= how.missed and 0 <= at < len(announced):
            announced[at] += grams * max(1.0 + how.counting_sd * count, 0.0)


def _random_day(rng: np.random.Generator) -> list[tuple[int, float]]:
    plates = []
    for probability, earliest, usual, latest, spread, mean, sd in _SLOTS:
        taken, grams = rng.random() < probability, max(round(rng.normal(mean, sd)), 0)
        hour = rng.normal(usual, spread)
        while not earliest <= hour <= latest:  # a truncated normal
            hour = rng.normal(usual, spread)
        if taken:
            plates.append((round(60 * hour), float(grams)))
    return plates
