"""What an identification test asks of each MV: how far, how long, in which order and by which signal.

Generalised binary noise after Tulleken (1990): a signal of two levels that may switch at equal instants, each time with the same
probability. Multisine with the phases of Schroeder (1970).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from plant.errors import ControlError, SpecError
from plant.spec import Move, PlantSpec, Tag

Array = NDArray[np.float64]
_STEP = 0.1  # of the limits (of `excitation` where the plant's file has one), where it says nothing of a step
_HOLD_SAMPLES = 4  # a sample is usually chosen as a tenth or so of the settling time, and a hold is a third of it
_HOLDS = 40  # of each MV, where nobody says how long
_LONGEST = 3  # holds that one level lasts at most
_SINES = 8


class Form(StrEnum):
    """The signal of a test: generalised binary noise, a sum of sines, or steps up and down from where the MV stands."""

    NOISE = "noise"
    MULTISINE = "multisine"
    STEPS = "steps"


@dataclass(frozen=True)
class MvTest:
    """One MV's part: `step` to each side of where it stands (its unit), levels held about `hold_s` plant seconds; `known`
    whether somebody or something said how long, or it is a guess. `levels`: what a discrete MV takes."""

    mv: str
    step: float
    hold_s: float
    known: bool = True
    levels: tuple[float, ...] = ()

    def towards(self, start: float, move: Move, wave: float) -> float:
        """The MV's value for a wave in [-1, 1], around `start` and inside its limits."""
        if not self.levels:
            return float(np.clip(start + self.step * wave, *move.limits))
        near = self.around(start)
        return near[min(int((wave + 1) / 2 * len(near)), len(near) - 1)]

    def around(self, start: float) -> tuple[float, ...]:
        """The levels a discrete MV visits from `start`: those within a step, and the next one on either side."""
        levels = np.array(self.levels)
        below, above = levels[levels < start - 1e-9], levels[levels > start + 1e-9]
        low = min(start - self.step, below[-1]) if below.size else start
        high = max(start + self.step, above[0]) if above.size else start
        return tuple(float(v) for v in levels[(levels >= low - 1e-9) & (levels <= high + 1e-9)])


@dataclass(frozen=True)
class TestPlan:
    """A test: MVs of one group move together, one group after another, `group_s` plant seconds each. `look_s`: how often the
    plant is looked at."""

    __test__ = False  # no test case, whatever pytest makes of the name

    form: Form
    groups: tuple[tuple[MvTest, ...], ...]
    group_s: float
    look_s: float
    seed: int

    @property
    def tests(self) -> tuple[MvTest, ...]:
        """Every MV's part, in the order of the groups."""
        return tuple(test for group in self.groups for test in group)

    @property
    def duration_s(self) -> float:
        """Plant seconds of the whole test."""
        return self.group_s * len(self.groups)


def mv_tests(spec: PlantSpec, settling_s: Mapping[str, float] | None = None) -> tuple[MvTest, ...]:
    """Every MV's test: what its `move.test` says; else a tenth of where it may be excited, and a third of the settling time of `settling_s`
    (plant seconds, by MV), or four samples where nobody knows it."""
    settling_s = settling_s or {}
    made = []
    for tag in spec.mvs:
        move = move_of(tag)
        third = settling_s[tag.name] / 3 if tag.name in settling_s else None
        hold_s = move.test.hold_s or third or _HOLD_SAMPLES * spec.sample_time_s
        made.append(
            MvTest(
                tag.name, move.test.step or _STEP * (move.excited[1] - move.excited[0]), max(hold_s, spec.sample_time_s),
                move.test.hold_s is not None or third is not None, move.discrete,
            )
        )  # fmt: skip
    return tuple(made)


def move_of(tag: Tag) -> Move:
    """The `move` section of an MV."""
    if tag.move is None:
        raise SpecError(f"{tag.name} is no MV", "identification test", "Name one of the MVs.")
    return tag.move


def plan_test(
    spec: PlantSpec,
    *,
    mvs: Sequence[str] = (),
    together: int = 1,
    hours: float | None = None,
    form: Form = Form.NOISE,
    settling_s: Mapping[str, float] | None = None,
    seed: int = 0,
) -> TestPlan:
    """The test of `mvs` (default: all), `together` of them at a time, over `hours` plant hours in all (default: 40 holds of
    each). Raises `ControlError` where there is nothing to move, `SpecError` for an MV the plant does not have."""
    tests = {test.mv: test for test in mv_tests(spec, settling_s)}
    if unknown := [name for name in mvs if name not in tests]:
        raise SpecError(
            f"{', '.join(unknown)} is no MV", f"plant {spec.name}", f"Its MVs are {', '.join(tests) or 'none'}."
        )
    chosen = [tests[name] for name in dict.fromkeys(mvs)] or list(tests.values())
    if not chosen:
        raise ControlError("there is nothing to move", f"plant {spec.name} has no MV", "Record it instead (`record`).")
    groups = tuple(tuple(chosen[i : i + together]) for i in range(0, len(chosen), together))
    longest_s = max(test.hold_s for test in chosen)
    group_s = _HOLDS * longest_s if hours is None else hours * 3600 / len(groups)
    samples = max(1, round(group_s / spec.sample_time_s))
    scans = round(spec.sample_time_s / spec.scan_time_s)
    return TestPlan(form, groups, samples * spec.sample_time_s, max(1, scans // 5) * spec.scan_time_s, seed)


def wave(test: MvTest, form: Form, samples: int, sample_s: float, rng: np.random.Generator) -> Array:
    """One MV's signal (samples,) in [-1, 1]. A discrete MV draws a level of its own at each switch."""
    if form is Form.MULTISINE and not test.levels:
        return _multisine(samples, test.hold_s / sample_s, rng)
    hold = max(1, round(test.hold_s / sample_s))
    if form is Form.STEPS:
        cycle = np.repeat([0.0, 1.0, 0.0, -1.0], _LONGEST * hold)
        return np.resize(cycle, samples)
    levels, sign = np.empty(samples), rng.choice([-1.0, 1.0])
    half, at = max(1, hold // 2), 0
    while at < samples:
        held = min(half * int(rng.geometric(half / hold)), _LONGEST * hold)
        levels[at : at + held] = rng.uniform(-1.0, 1.0) if test.levels else sign
        at, sign = at + held, -sign
    return levels


def _multisine(samples: int, hold: float, rng: np.random.Generator) -> Array:
    """Sines of equal size whose periods reach from 4 holds to 8 times that, of least peak, anywhere in their common period."""
    period = 4 * hold * _SINES
    order = np.arange(1, _SINES + 1)
    t = np.arange(samples) + rng.uniform(0, period)
    phases = -np.pi * order * (order - 1) / _SINES
    total = np.sin(2 * np.pi * np.outer(t / period, order) + phases).sum(1)
    whole = np.sin(2 * np.pi * np.outer(np.linspace(0, 1, 512), order) + phases).sum(1)
    return np.clip(total / np.abs(whole).max(), -1.0, 1.0)
