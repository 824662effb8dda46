"""Closed loops in lock-step: one evaluator, the same for every controller."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller, Observation, Status, Targets
from models.windows import Run
from plant.spec import PlantSpec, Role
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectories:
    """What happened to `batch` plants over `n` samples.

    `true` output -> (batch x n+1); `worst` guardrail name -> (batch x n) the true value of its tag nearest to
    the limit, or farthest past it, inside each interval;
    `measured` (batch x n x n_measured), `dvs` (batch x n x n_dv), `applied` (batch x n x n_mv) as the controller saw them;
    `moves` (batch x n x n_mv); `fallback` (batch x n x n_guardrail) true worst value if the fallback took over at that
    sample (NaN when not labelled); `solve_s` (n,); `status` one tuple a sample; `targets` (batch x n x n_target);
    `energy` term -> (batch x n) of the plans, none where a controller has no energy. `zones` (n x n_zone x 2): low and high during
    each interval, NaN where open; None: the spec's. `ended` (batch x n): whether the plant had left the region its equations hold in
    by the end of each interval.
    """

    true: dict[str, Array]
    worst: dict[str, Array]
    measured: Array
    dvs: Array
    applied: Array
    moves: Array
    fallback: Array
    solve_s: Array
    status: list[tuple[Status, ...]]
    targets: Array
    energy: dict[str, Array] = field(default_factory=dict)
    zones: Array | None = None
    ended: NDArray[np.bool_] | None = None

    def runs(self, spec: PlantSpec) -> list[Run]:
        """The same as runs a model can be calibrated on, one a plant, each cut where it passed a rank-1 guardrail: a
        plant trips there, and nobody plans beyond."""
        over = np.zeros((self.moves.shape[0], self.moves.shape[1]), bool)
        for g in spec.guardrails:
            if g.rank == 1:
                over |= g.margin(self.worst[g.name]) < 0
        length = np.where(over.any(axis=1), over.argmax(axis=1) + 1, self.moves.shape[1])
        unseen = [g.tag if spec.tag(g.tag).role is Role.HIDDEN else None for g in spec.guardrails]
        nothing = np.full((*over.shape, 0), np.nan)
        hidden = [self.true[t][:, :-1, None] if t else np.full((*over.shape, 1), np.nan) for t in unseen]
        hidden = np.concatenate([nothing, *hidden], 2)
        parts = (self.measured, self.dvs, self.applied, self.fallback, hidden)
        return [Run("control", 0.0, *(part[i, :n] for part in parts)) for i, n in enumerate(length)]


def close_loop(
    controller: Controller,
    plant: SimulatedPlant,
    targets: Array,
    *,
    preview: bool,
    move_low: Array,
    move_high: Array,
    first_move: Array,
    label_fallback: bool = False,
    hide_dvs: bool = False,
    scans: int | None = None,
    zones: Array | None = None,
) -> Trajectories:
    """Run `controller` on `plant` for as many samples as there are targets.

    `targets` (n x n_target, or batch x n x n_target): the target during the interval that follows each sample. With `preview` the controller sees
    those ahead, otherwise only the present one. `first_move` (n_mv, or batch x n_mv) was in force before the start. `hide_dvs` shows
    the usual value of every DV instead of its reading. `zones` (n x n_zone x 2): as `Targets.zones` at each sample; None: the spec's. The plant is looked into `scans` times a sample, by default at its own.
    """
    spec = plant.spec
    scans = scans or round(spec.sample_time_s / spec.scan_time_s)
    targets = np.broadcast_to(targets, (plant.batch, *targets.shape[-2:]))
    n, h = targets.shape[1], controller.horizon
    names = plant.simulator.names.y
    true = {name: np.empty((plant.batch, n + 1)) for name in names}
    worst = {g.name: np.empty((plant.batch, n)) for g in spec.guardrails}
    rows: dict[str, list[Array]] = {"measured": [], "dvs": [], "applied": [], "moves": [], "fallback": []}
    solve, status, terms = np.empty(n), [], []
    ended = np.zeros((plant.batch, n), bool)
    applied = np.array(np.broadcast_to(first_move, plant.moves.shape), float)
    labelled = [i for i, g in enumerate(spec.guardrails) if g.fallback_tag]
    usual = np.array([[t.nominal for t in spec.dvs]])
    slow = [i for i, t in enumerate(spec.measured) if t.period_s is not None and t.period_s > spec.sample_time_s]
    held = np.full((plant.batch, len(slow)), np.nan)
    controller.reset()
    for k in range(n):
        reading = plant.measure()
        for name, value in plant.true_outputs().items():
            true[name][:, k] = value
        dvs = np.stack([reading[t.name] for t in spec.dvs], 1) if spec.dvs else np.empty((plant.batch, 0))
        if hide_dvs:
            dvs = np.broadcast_to(usual, dvs.shape)
        measured = np.stack([reading[t.name] for t in spec.measured], 1)
        shown = measured[:, slow]
        measured[:, slow], held = np.where(shown == held, np.nan, shown), shown  # what is held is no news
        observation = Observation(k * spec.sample_time_s, measured, dvs, applied)
        ahead = np.minimum(np.arange(k, k + h), n - 1) if preview else np.full(h, k)
        zoned = None if zones is None else zones[k]
        decision = controller.decide(observation, Targets(targets[:, ahead], move_low, move_high, zones=zoned))
        solve[k] = decision.solve_time_s
        status.append(decision.status)
        terms.append(decision.energy)
        label = np.full((plant.batch, len(spec.guardrails)), np.nan)
        if label_fallback:
            label[:, labelled] = plant.fallback_worst([spec.guardrails[i] for i in labelled])
        for name, value in zip(rows, (observation.measured, dvs, applied, decision.moves, label), strict=True):
            rows[name].append(np.array(value))
        inside = {g.name: [plant.true_outputs()[g.tag]] for g in spec.guardrails}
        for _ in range(scans):
            plant.advance(decision.moves, spec.sample_time_s / scans)
            now = plant.true_outputs()
            for g in spec.guardrails:
                inside[g.name].append(now[g.tag])
        for g in spec.guardrails:
            worst[g.name][:, k] = g.sign * np.max([g.sign * v for v in inside[g.name]], axis=0)
        applied, ended[:, k] = np.array(decision.moves), plant.ended != 0
    for name, value in plant.true_outputs().items():
        true[name][:, n] = value
    stacked = {name: np.stack(value, 1) for name, value in rows.items()}
    energy = {name: np.stack([t[name] for t in terms], 1) for name in terms[0]} if terms else {}
    return Trajectories(
        true, worst, **stacked, solve_s=solve, status=status, targets=targets, energy=energy, zones=zones, ended=ended
    )


def run_scenario(
    spec: PlantSpec, controller: Controller, scenario: Scenario, *, batch: int = 1, seed: int = 0, preview: bool = False,
    noise: float = 1.0, label_fallback: bool = False,
) -> Trajectories:  # fmt: skip
    """Run `controller`, made for `batch` plants, through a scenario from start to end: the same disturbances, faults and
    set-points as in lock-step and over OPC UA. A target the scenario does not speak of keeps the spec's value."""
    drawn = Drawn(scenario)
    plant = SimulatedPlant(spec, seed, batch, drawn, noise)
    samples = scenario.samples(spec)
    targets = np.tile([t.value for t in spec.targets], (batch, samples, 1)).astype(float)
    for k in range(samples):
        for tag, value in drawn.set_points(k * spec.sample_time_s).items():
            for i in (i for i, t in enumerate(spec.targets) if t.tag == tag):
                targets[:, k, i] = np.where(np.isfinite(value), value, targets[:, k, i])
    low, high = limits_of(spec)
    return close_loop(
        controller, plant, targets, preview=preview, move_low=low, move_high=high, first_move=plant.moves,
        label_fallback=label_fallback,
    )  # fmt: skip


def limits_of(spec: PlantSpec) -> tuple[Array, Array]:
    """The engineer limits (n_mv,) of every MV: low, high."""
    moves = [t.move for t in spec.mvs if t.move]
    return np.array([m.limits[0] for m in moves]), np.array([m.limits[1] for m in moves])
