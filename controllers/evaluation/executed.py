"""Closed loops of the planner itself, for calibrating its margins: a planner seeks out optimistic errors, so the errors
that count are those of plans that were executed."""

from __future__ import annotations

import numpy as np

from controllers.contracts import Controller
from controllers.evaluation.closed_loop import close_loop, limits_of
from models.windows import Run
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario


def executed_runs(spec: PlantSpec, controller: Controller, scenario: Scenario, runs: int, seed: int) -> list[Run]:
    """`runs` closed loops of `scenario` from start to end on the simulator, targets stepping at random inside their limits, the
    fallback labelled at each sample. `controller` must be made for a batch of `runs`."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xCA1]))
    plant = SimulatedPlant(spec, seed, runs, Drawn(scenario))
    low, high = limits_of(spec)
    samples = scenario.samples(spec)
    third = -(-samples // 3)
    levels = np.concatenate([np.empty((runs, 3, 0)), *(rng.uniform(*t.limits, (runs, 3, 1)) for t in spec.targets)], -1)
    trajectories = close_loop(
        controller, plant, np.repeat(levels, third, axis=1)[:, :samples], preview=False, move_low=low, move_high=high,
        first_move=plant.moves, label_fallback=True,
    )  # fmt: skip
    return trajectories.runs(spec)
