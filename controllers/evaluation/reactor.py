"""The reactor's scores: two published tracking runs, and a safety part in which it can run away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from plant.spec import PlantSpec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant
from simulators.reactor import BareReactor
from simulators.steady import newton

Array = NDArray[np.float64]

EFFORT_RANGE = (295.0, 302.0)
_STARTS = {"A": ((0.8, 330.0), (0.85, 0.90, 0.87)), "B": ((0.85, 330.0), (0.86, 0.89, 0.86))}
_SAMPLES, _SHIFTED = 60, 80


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


@dataclass
class _Biased(Schedule):
    """A schedule whose concentration and temperature read wrong by `bias` (batch x 2), mol/L and K."""

    bias: Array | None = None

    def readings(self, sensed: dict[str, Array]) -> dict[str, Array]:
        if self.bias is None:
            return sensed
        return sensed | {tag: sensed[tag] + self.bias[:, i] for i, tag in enumerate(("Ca", "T"))}


@dataclass(frozen=True)
class SafetyScenario:
    """Runs the reactor may be lost in, all from `seed`: `feed` temperature (samples x runs, K), `parameters` (runs x 2, factors
    of UA and k0), start states `x0` (runs x 2), `targets` of Ca (samples x runs); `concentration` of the feed (samples x
    runs, mol/L, usual where None), `bias` of the readings of Ca and T (runs x 2)."""

    feed: Array
    parameters: Array
    x0: Array
    targets: Array
    seed: int
    concentration: Array | None = None
    bias: Array | None = None

    @staticmethod
    def draw(runs: int, seed: int) -> SafetyScenario:
        """60 samples: the feed's temperature steps by up to +20 K at one to three of them, UA is up to 15 % low; three targets."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5AFE]))
        feed = np.full((_SAMPLES, runs), 350.0)
        for i in range(runs):
            for at in np.sort(rng.integers(2, _SAMPLES - 8, rng.integers(1, 4))):
                feed[at:, i] = 350.0 + rng.uniform(0.0, 20.0)
        parameters = np.stack([rng.uniform(0.85, 1.0, runs), np.ones(runs)], 1)
        x0 = np.stack([rng.uniform(0.80, 0.90, runs), rng.uniform(322.0, 330.0, runs)], 1)
        targets = rng.uniform(0.84, 0.90, (3, runs))
        return SafetyScenario(feed, parameters, x0, np.repeat(targets, _SAMPLES // 3, 0), seed)

    @staticmethod
    def shifted(runs: int, seed: int, drift: float = 0.15, bias: tuple[float, float] = (0.0, 0.0)) -> SafetyScenario:
        """80 samples at one target: UA and k0 each within 1 +- `drift` throughout; at one of samples 15 to 30 the feed steps, its
        temperature by up to 5 K either way (measured), its concentration by up to 5 % (not measured). Readings are wrong
        throughout by up to `bias`."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5417F7]))
        after = np.arange(_SHIFTED)[:, None] >= rng.integers(15, 31, runs)
        return SafetyScenario(
            350.0 + after * rng.uniform(-5.0, 5.0, runs),
            rng.uniform(1 - drift, 1 + drift, (runs, 2)),
            np.stack([rng.uniform(0.82, 0.90, runs), rng.uniform(322.0, 328.0, runs)], 1),
            np.tile(rng.uniform(0.84, 0.90, runs), (_SHIFTED, 1)),
            seed,
            1.0 + after * rng.uniform(-0.05, 0.05, runs),
            rng.uniform(-1.0, 1.0, (runs, 2)) * bias if any(bias) else None,
        )

    def first(self, runs: int) -> SafetyScenario:
        """The first `runs` runs of this scenario."""
        rows = {k: v[:runs] for k in ("parameters", "x0", "bias") if (v := getattr(self, k)) is not None}
        columns = {k: v[:, :runs] for k in ("feed", "targets", "concentration") if (v := getattr(self, k)) is not None}
        return replace(self, **rows, **columns)

    @property
    def levels(self) -> Array:
        """Disturbances (samples x runs x 3): feed temperature, concentration and flow."""
        usual = np.ones_like(self.feed)
        return np.stack([self.feed, usual if self.concentration is None else self.concentration, 100.0 * usual], -1)

    def plant(self, spec: PlantSpec, noise: float = 1.0) -> SimulatedPlant:
        """The plants of this scenario, all in one batch."""
        times = np.arange(len(self.feed), dtype=np.float64) * spec.sample_time_s
        schedule = _Biased(times, self.levels, self.parameters, self.bias)
        return SimulatedPlant(spec, self.seed, self.feed.shape[1], schedule, noise, self.x0)

    def reachable(self, spec: PlantSpec) -> NDArray[np.bool_]:
        """Which runs (runs,) could rest at their last target: a coolant temperature half a kelvin or more inside its limits
        and a reactor inside its guardrails."""
        runs, plant = self.feed.shape[1], BareReactor()
        at = {"Ca": self.targets[-1]}
        usual = np.tile(plant.u0, (runs, 1)), np.tile(plant.x0, (runs, 1))
        z, found = newton(plant, at, usual[0], self.levels[-1], self.parameters, usual[1])
        low, high = limits_of(spec)
        inside = (z[:, 2] >= low[0] + 0.5) & (z[:, 2] <= high[0] - 0.5)
        for g in spec.guardrails:
            inside &= g.margin(z[:, plant.names.x.index(g.tag)]) > 0
        return np.asarray(found & inside)


def safety(
    spec: PlantSpec, controller: Controller, scenario: SafetyScenario, *, noise: float = 1.0, label: bool = True
) -> Trajectories:
    """Run `controller` through a scenario with Tc free in its limits (290..310), labelling the fallback at each sample, which
    `violations` needs."""
    low, high = limits_of(spec)
    return close_loop(
        controller, scenario.plant(spec, noise), scenario.targets.T[..., None], preview=False,
        move_low=low, move_high=high, first_move=np.array([298.0]), label_fallback=label,
    )  # fmt: skip


def violations(
    spec: PlantSpec, runs: Trajectories, scenario: SafetyScenario
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which runs (batch,) passed the rank-1 limit, and which of those were avoidable: full fallback from the moment of
    the last disturbance before the violation would have stayed inside. A disturbance happens at a sample and is seen in
    that sample's reading."""
    i, guard = next((i, g) for i, g in enumerate(spec.guardrails) if g.rank == 1)
    over = guard.margin(runs.worst[guard.name]) < 0
    broke = np.asarray(over.any(axis=1))
    first = over.argmax(1)
    avoidable = np.zeros_like(broke)
    levels = scenario.levels
    changed = (np.diff(levels, axis=0, prepend=levels[:1]) != 0).any(2)
    for run in np.flatnonzero(broke):
        before = np.flatnonzero(changed[: first[run] + 1, run])
        moment = before[-1] if len(before) else 0
        avoidable[run] = guard.margin(runs.fallback[run, moment, i]) > 0
    return broke, avoidable
