"""The reactor's scores: two published tracking runs, and a safety part in which it can run away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from plant.spec import PlantSpec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

Array = NDArray[np.float64]

EFFORT_RANGE = (295.0, 302.0)
_STARTS = {"A": ((0.8, 330.0), (0.85, 0.90, 0.87)), "B": ((0.85, 330.0), (0.86, 0.89, 0.86))}
_SAMPLES = 60


def tracking(
    spec: PlantSpec, controller: Controller, score: str, *, preview: bool, noise: float, seed: int = 0, batch: int = 1
) -> tuple[Array, Trajectories]:
    """Returns (batch,) of score "A" or "B", Tc in 295..302, 26 s samples, and the runs.

    Return = -sum over samples of |Ca - target| / 0.3 + 0.001 u^2, the state at the end of each sample against the target
    of that sample, u scaled 0..1 over 295..302. The full-horizon optimum is -0.366 (A), -0.196 (B).
    """
    x0, levels = _STARTS[score]
    plant = SimulatedPlant(spec, seed, batch, noise=noise, x0=np.tile(x0, (batch, 1)))
    targets = np.repeat(levels, _SAMPLES // 3)[:, None]
    low, high = np.array([EFFORT_RANGE[0]]), np.array([EFFORT_RANGE[1]])
    runs = close_loop(
        controller, plant, targets, preview=preview, move_low=low, move_high=high, first_move=np.array([300.0])
    )
    u = (runs.moves[..., 0] - low) / (high - low)
    return -(np.abs(runs.true["Ca"][:, 1:] - targets[:, 0]) / 0.3 + 0.001 * u**2).sum(1), runs


@dataclass(frozen=True)
class SafetyScenario:
    """`runs` runs of 60 samples: feed temperature stepping by up to +20 K at one to three samples, UA and k0 factors
    that differ by run, sensor noise, a target per run. All from `seed`."""

    feed: Array
    parameters: Array
    x0: Array
    targets: Array
    seed: int

    @staticmethod
    def draw(runs: int, seed: int) -> SafetyScenario:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5AFE]))
        feed = np.full((_SAMPLES, runs), 350.0)
        for i in range(runs):
            for at in np.sort(rng.integers(2, _SAMPLES - 8, rng.integers(1, 4))):
                feed[at:, i] = 350.0 + rng.uniform(0.0, 20.0)
        parameters = np.stack([rng.uniform(0.85, 1.0, runs), np.ones(runs)], 1)
        x0 = np.stack([rng.uniform(0.80, 0.90, runs), rng.uniform(322.0, 330.0, runs)], 1)
        targets = rng.uniform(0.84, 0.90, (3, runs))
        return SafetyScenario(feed, parameters, x0, np.repeat(targets, _SAMPLES // 3, 0), seed)

    def first(self, runs: int) -> SafetyScenario:
        """The first `runs` runs of this scenario."""
        part = slice(0, runs)
        return SafetyScenario(
            self.feed[:, part], self.parameters[part], self.x0[part], self.targets[:, part], self.seed
        )

    def plant(self, spec: PlantSpec, noise: float = 1.0) -> SimulatedPlant:
        """The plants of this scenario, all in one batch."""
        runs = self.feed.shape[1]
        levels = np.stack([self.feed, np.ones_like(self.feed), np.full_like(self.feed, 100.0)], -1)
        schedule = Schedule(np.arange(_SAMPLES, dtype=np.float64) * spec.sample_time_s, levels, self.parameters)
        return SimulatedPlant(spec, self.seed, runs, schedule, noise, self.x0)


def safety(spec: PlantSpec, controller: Controller, scenario: SafetyScenario) -> Trajectories:
    """Run `controller` through a scenario with Tc free in its limits (290..310), labelling the fallback at each sample."""
    low, high = limits_of(spec)
    return close_loop(
        controller, scenario.plant(spec), scenario.targets.T[..., None], preview=False,
        move_low=low, move_high=high, first_move=np.array([298.0]), label_fallback=True,
    )  # fmt: skip


def violations(
    spec: PlantSpec, runs: Trajectories, scenario: SafetyScenario
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which runs (batch,) passed the rank-1 limit, and which of those were avoidable: full fallback from the moment of
    the last disturbance before the violation would have stayed inside. A disturbance happens at a sample and is seen in
    that sample's reading."""
    i, guard = next((i, g) for i, g in enumerate(spec.guardrails) if g.rank == 1)
    over = guard.sign * (runs.worst[guard.name] - guard.limit) > 0
    broke = np.asarray(over.any(axis=1))
    first = over.argmax(1)
    avoidable = np.zeros_like(broke)
    changed = np.diff(scenario.feed, axis=0, prepend=scenario.feed[:1]) != 0
    for run in np.flatnonzero(broke):
        before = np.flatnonzero(changed[: first[run] + 1, run])
        moment = before[-1] if len(before) else 0
        avoidable[run] = guard.sign * (guard.limit - runs.fallback[run, moment, i]) > 0
    return broke, avoidable
