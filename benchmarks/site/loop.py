"""Closed loops of a site in lock-step: the plant behind its own regulatory layer, scan by scan, in the hands of its own loops or of a
controller from above, and what the supervisor would have made of that controller's answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller, Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.runtime.config import SupervisorConfig
from models.plant_surprise import PlantSurprise, Watch
from models.world_model import WorldModel
from plant.errors import ControlError
from plant.link import PlantMode
from plant.regulatory import RegulatoryLayer
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario

Array = NDArray[np.float64]
Members = NDArray[np.bool_]
WARM = 20  # samples in which the plant's own loops hold it and the controller only looks


@dataclass(frozen=True)
class Lived:
    """What `batch` plants went through over n samples: `true` and `shown` tag -> (batch x n), `moves` (batch x n x n_mv) in force at
    each sample, `worst` guardrail -> (batch,) least true margin, `shed` (batch,) the sample of the shed, n where none, `causes`
    (batch,) why, `tripped` (batch,) whether an interlock did, `status` how many plans had which, `solve_s` (n,)."""

    true: dict[str, Array]
    shown: dict[str, Array]
    moves: Array
    worst: dict[str, Array]
    shed: NDArray[np.int64]
    causes: list[str]
    tripped: Members
    status: dict[str, int] = field(default_factory=dict)
    solve_s: Array = field(default_factory=lambda: np.zeros(0))

    def of(self, members: slice) -> Lived:
        """Some of the plants."""

        def part(values: dict[str, Array]) -> dict[str, Array]:
            return {name: v[members] for name, v in values.items()}

        return dataclasses.replace(
            self, true=part(self.true), shown=part(self.shown), moves=self.moves[members], worst=part(self.worst),
            shed=self.shed[members], causes=self.causes[members], tripped=self.tripped[members],
        )  # fmt: skip


class Judge:
    """For each plant of a batch whether the supervisor would still be in AUTO: the rules of `controllers.runtime.supervisor` on
    readings, plans and surprise, without those on links, clocks and read-backs, which in lock-step cannot fail."""

    def __init__(self, spec: PlantSpec, batch: int, config: SupervisorConfig | None = None) -> None:
        self._spec, self._config = spec, config or SupervisorConfig()
        self.recovering = np.zeros(batch, np.int64)
        self._surprised = np.zeros(batch, np.int64)
        self._past = {g.name: np.zeros(batch, np.int64) for g in spec.guardrails}
        self.first = [""] * batch  # why it would have shed first

    def sheds(self, reading: dict[str, Array], decision: Decision, surprise: Array | None) -> Members:
        """Which plants (batch,) are given up now; `reading` tag -> (batch,), `surprise` (batch,) as a multiple of its limit."""
        c, status = self._config, np.array(decision.status)
        broken = (status == Status.RECOVERY) & (decision.violation > c.recovery_violation)
        self.recovering = np.where(broken | (status == Status.FALLBACK), self.recovering + 1, 0)
        score = np.zeros(len(status)) if surprise is None else surprise
        self._surprised = np.where(score > c.surprise_to_shed, self._surprised + 1, 0)
        found = [
            ("the planner found no answer", status == Status.INFEASIBLE),
            ("plans in a row broke a guardrail by too much", self.recovering >= c.recovery_samples),
            ("the model was surprised", self._surprised >= c.surprise_samples),
        ]
        for g in self._spec.guardrails:
            if g.tag not in reading:
                continue
            self._past[g.name] = np.where(g.margin(reading[g.tag]) < 0, self._past[g.name] + 1, 0)
            allowed = 1 if g.rank == 1 else c.guardrail_samples
            found.insert(0, (f"past {g.name}", self._past[g.name] >= allowed))
        for why, where in found:
            self.first = [old or (why if now else "") for now, old in zip(where.tolist(), self.first, strict=True)]
        return np.any([where for _, where in found], axis=0)


class Plants:
    """Plants of several scenarios side by side, each scenario with how many of them."""

    def __init__(self, spec: PlantSpec, scenarios: Sequence[tuple[Scenario, int]], seed: int) -> None:
        self._parts = [SimulatedPlant(spec, seed, count, Drawn(scenario)) for scenario, count in scenarios]
        self._ends = np.cumsum([p.batch for p in self._parts])[:-1]
        self.batch, self.names = sum(p.batch for p in self._parts), self._parts[0].simulator.names.y

    @property
    def moves(self) -> Array:
        return np.concatenate([p.moves for p in self._parts])

    def states(self) -> tuple[Array, Array, Array]:
        """True states, disturbances and parameters (batch x n each)."""
        x, d, p = ([getattr(part, name) for part in self._parts] for name in "xdp")
        return np.concatenate(x), np.concatenate(d), np.concatenate(p)

    @property
    def ended(self) -> Members:
        return np.concatenate([p.ended for p in self._parts]) != 0

    def measure(self) -> dict[str, Array]:
        return self._joined([p.measure() for p in self._parts])

    def true_outputs(self) -> dict[str, Array]:
        return self._joined([p.true_outputs() for p in self._parts])

    def advance(self, moves: Array, dt_s: float) -> None:
        for part, mine in zip(self._parts, np.split(moves, self._ends), strict=True):
            part.advance(mine, dt_s)

    @staticmethod
    def _joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


class Hands:
    """The layer at the plants, and who moves each of them through it: their own loops, a controller above them, or, once that was
    shed, their own loops again."""

    def __init__(self, spec: PlantSpec, plants: Plants) -> None:
        self._spec, self._beats = spec, 0
        self._all = RegulatoryLayer(spec, plants.batch, {t.name: plants.moves[:, i] for i, t in enumerate(spec.mvs)})
        self._back: dict[int, RegulatoryLayer] = {}
        self._loops = {loop.pv for loop in spec.regulatory.loops}
        self.moves = self._all.outputs
        self.tripped = np.zeros(plants.batch, bool)

    def take(self) -> None:
        """A controller has all of them from now on."""
        if why := self._all.request_mode(PlantMode.REMOTE, 0.0):
            raise ControlError(
                f"the plants are not given: {why}", f"plant {self._spec.name}", "Begin from a calmer state."
            )

    def give_back(self, member: int) -> None:
        """One of them goes to its own loops, for good."""
        at = {t.name: float(self.moves[member, i]) for i, t in enumerate(self._spec.mvs)}
        self._back.setdefault(member, RegulatoryLayer(self._spec, 1, at))

    def hold(self, goals: Array) -> None:
        """Set-points (batch x n_target) of the plants' own loops."""
        for i, t in enumerate(self._spec.targets):
            if t.tag in self._loops:
                self._all.set_local({t.tag: goals[:, i]})
                for member, layer in self._back.items():
                    layer.set_local({t.tag: goals[member : member + 1, i]})

    def ask(self, moves: Array) -> None:
        """What the controller wants (batch x n_mv); inside the limits."""
        low, high = limits_of(self._spec)
        self._beats += 1
        self._all.beat(self._beats, 0.0)
        asked = np.clip(moves, low, high)
        self._all.write({mv.name: asked[:, i] for i, mv in enumerate(self._spec.mvs)})

    def scan(self, reading: dict[str, Array]) -> Array:
        """The moves (batch x n_mv) of the scan that begins."""
        self.moves = self._all.scan(reading, self._spec.scan_time_s, 0.0)
        trips = self._all.interlock.copy()
        for member, layer in self._back.items():
            mine = {tag: v[member : member + 1] for tag, v in reading.items()}
            self.moves[member] = layer.scan(mine, self._spec.scan_time_s, 0.0)[0]
            trips[member] = layer.interlock[0]
        self.tripped |= trips
        return self.moves


def lived(
    spec: PlantSpec,
    scenarios: Sequence[tuple[Scenario, int]],
    samples: int,
    goals: Array,
    make: Callable[[Plants], Controller] | None = None,
    watched: tuple[WorldModel, PlantSurprise | None] | None = None,
    seed: int = 0,
) -> Lived:
    """Run the plants of `scenarios` (each with how many plants) for `samples` samples; `goals` (batch x samples x n_target).

    `make` answers the controller of these plants. Without one the plants' own loops hold the targets that they control; with one
    they do so for the first `WARM` samples, and again, for good, from where the supervisor would have shed. `watched` is the model, and the surprise, that
    watch the controller's plants.
    """
    plants = Plants(spec, scenarios, seed)
    batch, low_high = plants.batch, limits_of(spec)
    controller = make(plants) if make is not None else None
    hands, judge, eyes = Hands(spec, plants), Judge(spec, batch), _Eyes(spec, batch)
    model, surprise = watched or (None, None)
    watch = Watch(model, surprise, batch) if model is not None and surprise is not None else None
    safe = np.array([t.move.safe for t in spec.mvs if t.move])
    true = {name: np.empty((batch, samples)) for name in plants.names}
    shown = {t.name: np.empty((batch, samples)) for t in spec.online if t.move is None}
    moves = np.empty((batch, samples, len(spec.mvs)))
    worst = {g.name: np.full(batch, np.inf) for g in spec.guardrails}
    shed, solve, counts = np.full(batch, samples), np.zeros(samples), Counter()
    applied, scans = plants.moves, round(spec.sample_time_s / spec.scan_time_s)
    for k in range(samples):
        reading = plants.measure()
        for kept, values in ((true, plants.true_outputs()), (shown, reading)):
            for name, value in values.items():
                kept[name][:, k] = value
        hands.hold(goals[:, k])
        if controller is not None:
            observation = eyes.see(k, reading, applied, hands.moves)
            if watch is not None:
                score = watch.see(observation.measured, observation.dvs, applied).score
                observation = dataclasses.replace(observation, surprise=score)
            decision = controller.decide(observation, Targets(goals[:, k : k + 1], *low_high))
            solve[k] = decision.solve_time_s
            if k == WARM:
                hands.take()
            if k >= WARM:
                counts.update(map(str, decision.status))
                gone = judge.sheds(reading, decision, observation.surprise) & (shed == samples)
                shed = np.where(gone, k, shed)
                for member in np.flatnonzero(gone):
                    hands.give_back(int(member))
                hands.ask(np.where((judge.recovering > 0)[:, None], safe, decision.moves))
        moves[:, k], applied = hands.moves, np.zeros_like(applied)
        for _ in range(scans):
            now = hands.scan(plants.measure())
            plants.advance(now, spec.scan_time_s)
            applied = applied + now / scans
            for g in spec.guardrails:
                worst[g.name] = np.fmin(worst[g.name], g.margin(plants.true_outputs()[g.tag]))
    causes = ["left its equations" if e else why for e, why in zip(plants.ended, judge.first, strict=True)]
    return Lived(true, shown, moves, worst, shed, causes, hands.tripped, dict(counts), solve)


class _Eyes:
    """What a controller is shown of the plants: a slow instrument only when it says something new."""

    def __init__(self, spec: PlantSpec, batch: int) -> None:
        self._spec = spec
        late = [(t.period_s or 0.0) > spec.sample_time_s for t in spec.measured]
        self._slow, self._held = np.flatnonzero(late), np.full((batch, sum(late)), np.nan)

    def see(self, k: int, reading: dict[str, Array], applied: Array, position: Array) -> Observation:
        spec = self._spec
        measured = np.stack([reading[t.name] for t in spec.measured], 1)
        now = measured[:, self._slow]
        measured[:, self._slow], self._held = np.where(now == self._held, np.nan, now), now
        dvs = np.stack([reading[t.name] for t in spec.dvs], 1) if spec.dvs else np.empty((len(measured), 0))
        return Observation(k * spec.sample_time_s, measured, dvs, applied, position=position)
