"""Plant-hours as fast as the processor allows: excitation and simulated incidents, in lock-step, through the plant's own
regulatory layer. What comes out goes to the historian exactly as a recorder would put it there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from homeostat.excitation import Excitation
from homeostat.identification import TestPlan, move_of
from homeostat.in_process import InProcessLink
from homeostat.visit import Visit, visit
from plant.clock import Clock, LockStepClock
from plant.errors import ControlError, SpecError
from plant.handshake import SIMULATED
from plant.link import PlantMode
from plant.regulatory import RegulatoryLayer
from plant.spec import PlantSpec, Role
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario, load_scenario

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """`batch` runs of one kind, on the sample grid: `values` tag -> (batch x samples), MVs as the time mean of what was in force
    over the interval that ends at each sample. `facts` says in JSON what made them."""

    kind: str
    seed: int
    facts: str
    time_s: Array
    values: dict[str, Array]


def excitation_run(spec: PlantSpec, batch: int, samples: int, seed: int) -> Recording:
    """`batch` runs of `samples` samples of excitation in REMOTE, interlocks armed, in the scenario `excitation`. Raises
    `ControlError` if a run passed the limit of the recording policy (it must not: the interlocks see to it)."""
    plant = excited(spec, load_scenario("excitation", spec), batch, seed)
    recording = record(spec, plant, samples, seed, "excitation")
    for guard in spec.guardrails:
        if guard.recording_limit is not None and guard.tag in recording.values:
            past = guard.sign * (recording.values[guard.tag] - guard.recording_limit)
            if np.nanmax(past, initial=-np.inf) > 4 * spec.tag(guard.tag).noise:
                raise ControlError(
                    f"excitation went {np.nanmax(past):.1f} {spec.tag(guard.tag).unit} past {guard.recording_limit:g}",
                    f"plant {spec.name}, tag {guard.tag}",
                    "The recording policy forbids it: trip the interlock earlier.",
                )
    return recording


def incident_run(spec: PlantSpec, batch: int, samples: int, seed: int) -> Recording:
    """`batch` simulated runs that no plant should be made to record, in the scenario `incident`: interlocks off, moves
    pushed away from the safe side, and full fallback only from a random distance to the limit on: in time, or too late."""
    guard = next((g for g in spec.guardrails if g.fallback_tag), None)
    if guard is None:
        raise SpecError("no guardrail has a fallback_tag", f"plant {spec.name}", "It has no incidents: leave them out.")
    bare = spec.model_copy(update={"regulatory": spec.regulatory.model_copy(update={"interlocks": ()})})
    scenario = load_scenario("incident", spec)
    plant, policy = excited(bare, scenario, batch, seed), scenario.incident
    if policy is None:
        raise SpecError("the scenario has no `incident` section", f"plant {spec.name}", "Say how to push and rescue.")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    safe = np.array([t.move.safe for t in spec.mvs if t.move])
    low, high = np.array([t.move.limits for t in spec.mvs if t.move]).T
    push = rng.uniform(*policy.push, (batch, len(safe))) * (high - low) * np.where(safe <= (low + high) / 2, 1.0, -1.0)
    rescue_at = guard.limit - guard.sign * rng.uniform(*policy.rescue, batch)
    rescuing = np.zeros(batch, bool)

    def override(moves: Array, reading: dict[str, Array]) -> Array:
        value = guard.sign * reading[guard.tag]
        back = value < guard.sign * guard.limit - policy.release
        rescuing[:] = (rescuing | (value > guard.sign * rescue_at)) & ~back
        return np.where(rescuing[:, None], safe, np.clip(moves + push, low, high))

    return record(bare, plant, samples, seed, "incident", override, stop=policy.stop)


def excited(spec: PlantSpec, scenario: Scenario, batch: int, seed: int, noise: float = 1.0) -> SimulatedPlant:
    """The plants of a recording in `scenario`, moves spread around the usual ones as far as plants can stand there; `noise`
    scales their sensors'."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    low, high = np.array([move_of(t).excited for t in spec.mvs]).reshape(-1, 2).T
    usual = np.array([t.nominal for t in spec.mvs])
    away = 0.15 * (high - low) * rng.standard_normal((batch, len(usual)))
    for share in (1.0, 0.7, 0.5, 0.25):
        moves = np.clip(usual + share * away, low, high)
        for i, tag in enumerate(spec.mvs):
            if levels := move_of(tag).discrete:
                moves[:, i] = np.array(levels)[np.abs(moves[:, i, None] - np.array(levels)).argmin(1)]
        try:
            return SimulatedPlant(spec, seed, batch, Drawn(scenario), noise, moves=moves)
        except SpecError as e:  # one of them has no steady state there; what else is wrong is met again below
            log.info("%s: starts nearer to the usual moves, for %s", spec.name, e.what)
    return SimulatedPlant(spec, seed, batch, Drawn(scenario), noise)


def record(
    spec: PlantSpec,
    plant: SimulatedPlant,
    samples: int,
    seed: int,
    kind: str,
    override: Callable[[Array, dict[str, Array]], Array] | None = None,
    stop: float = np.inf,
) -> Recording:
    """Excite `plant` through its regulatory layer on the sample grid, moves as asked or as `override` makes them of what
    was asked and of the reading. A member's record ends once it is `stop` past a guardrail, or has ended."""
    layer = RegulatoryLayer(spec, plant.batch, {t.name: plant.moves[:, i] for i, t in enumerate(spec.mvs)})
    layer.request_mode(PlantMode.REMOTE, 0.0)
    excitation = Excitation(spec, plant.batch, seed)
    scans = round(spec.sample_time_s / spec.scan_time_s)
    safe = np.array([t.move.safe for t in spec.mvs if t.move])
    labelled = [g for g in spec.guardrails if g.fallback_tag]
    names = [t.name for t in spec.online] + [str(g.fallback_tag) for g in labelled]
    hidden = {g.tag for g in spec.guardrails if spec.tag(g.tag).role is Role.HIDDEN}
    names += sorted(hidden)
    values = {name: np.empty((plant.batch, samples)) for name in names}
    over = np.zeros(plant.batch, bool)
    applied = layer.outputs
    for k in range(samples):
        reading = plant.measure()
        true = plant.true_outputs()
        for name, value in (reading | {tag: true[tag] for tag in hidden}).items():
            values[name][:, k] = value
        for i, mv in enumerate(spec.mvs):
            values[mv.name][:, k] = applied[:, i]
        for guard, worst in zip(labelled, plant.fallback_worst(labelled).T, strict=True):
            values[str(guard.fallback_tag)][:, k] = worst
            over |= guard.sign * (true[guard.tag] - guard.limit) > stop
        over |= plant.ended != 0
        for v in values.values():
            v[over, k] = np.nan
        moves = excitation.next(reading)
        if override is not None:
            moves = override(moves, reading)
        layer.beat(k, 0.0)
        layer.write({mv.name: moves[:, i] for i, mv in enumerate(spec.mvs)})
        applied = np.zeros_like(layer.outputs)
        for _ in range(scans):
            outputs = layer.scan(plant.measure(), spec.scan_time_s, 0.0)
            outputs[over] = safe
            plant.advance(outputs, spec.scan_time_s)
            applied += outputs / scans
    return Recording(kind, seed, plant.facts(), np.arange(samples, dtype=np.float64) * spec.sample_time_s, values)


@dataclass(frozen=True)
class Rehearsal:
    """One run of a scenario in LOCAL, scan by scan: `values` what instruments showed and moves in force, `true` outputs,
    `set_points` of the scenario or the local loops, each tag -> (scans,); spans (from, to) in s of faulty instruments by
    tag and of tripped interlocks; `reason` why the plant ended, '' if it did not."""

    time_s: Array
    values: dict[str, Array]
    true: dict[str, Array]
    set_points: dict[str, Array]
    faults: dict[str, list[tuple[float, float]]]
    interlocked: list[tuple[float, float]]
    reason: str
    facts: str


def rehearse(spec: PlantSpec, scenario: Scenario, seed: int, noise: float = 1.0) -> Rehearsal:
    """Run a scenario from start to end in lock-step, the plant in the hands of its own regulatory layer."""
    drawn = Drawn(scenario)
    plant = SimulatedPlant(spec, seed, conditions=drawn, noise=noise)
    layer = RegulatoryLayer(spec, 1, {t.name: plant.moves[:, i] for i, t in enumerate(spec.mvs)})
    usual = {loop.pv: np.array([loop.set_point]) for loop in spec.regulatory.loops}
    rows: dict[str, dict[str, list[float]]] = {"values": {}, "true": {}, "set_points": {}}
    times, tripped, faulty = [], [], []
    for k in range(round(scenario.duration_s / spec.scan_time_s) + 1):
        reading = plant.measure()
        wanted = {tag: v for tag, v in drawn.set_points().items() if np.isfinite(v).all()}
        layer.set_local({tag: v for tag, v in wanted.items() if tag in usual})
        outputs = layer.scan(reading, spec.scan_time_s, 0.0)
        moves = {t.name: outputs[:, i] for i, t in enumerate(spec.mvs)}
        for name, now in (
            ("values", reading | moves), ("true", plant.true_outputs()), ("set_points", usual | wanted)
        ):  # fmt: skip
            for tag, value in now.items():
                rows[name].setdefault(tag, [np.nan] * k).append(float(value[0]))
        times.append(k * spec.scan_time_s)
        tripped.append(bool(layer.interlock[0]))
        faulty.append(drawn.faulty())
        if plant.ended[0]:
            break
        plant.advance(outputs, spec.scan_time_s)
    series = {name: {tag: np.array(v) for tag, v in of.items()} for name, of in rows.items()}
    hidden = {t.name: series["true"][t.name] for t in spec.with_role(Role.HIDDEN) if t.name in series["true"]}
    faults = {tag: _spans(times, [tag in f for f in faulty]) for tag in sorted(set().union(*faulty))}
    return Rehearsal(
        np.array(times), series["values"] | hidden, series["true"], series["set_points"], faults,
        _spans(times, tripped), plant.reason(0), plant.facts(),
    )  # fmt: skip


@dataclass(frozen=True)
class GuestRun:
    """A visit in lock-step: how it ended, and the least true margin to each guardrail from its begin on (the tag's unit, < 0
    past it), also while the plant was followed afterwards."""

    visit: Visit
    margins: dict[str, float]


def guest_run(
    spec: PlantSpec,
    plan: TestPlan,
    scenario: Scenario,
    seed: int,
    *,
    before_s: float = 0.0,
    after_s: float = 0.0,
    go_on: bool = False,
    make: Callable[[PlantSpec, SimulatedPlant, Clock], InProcessLink] = InProcessLink,
) -> GuestRun:
    """One identification test on one simulated plant, by the same code as on a live one: after `before_s` plant seconds in the
    hands of its own layer, and followed for `after_s` when it is over. `make`: the link to it."""
    clock = LockStepClock(1e9)  # any date
    spec = spec.model_copy(update={"handshake": spec.handshake or SIMULATED})
    link = make(spec, SimulatedPlant(spec, seed, conditions=Drawn(scenario)), clock)

    async def whole() -> Visit:
        await clock.sleep_until(clock.plant_time() + before_s)
        await link.read()
        link.forget()
        ended = await visit(spec, link, clock, plan, asyncio.Event(), go_on=go_on)
        await clock.sleep_until(clock.plant_time() + after_s)
        await link.read()
        return ended

    ended = asyncio.run(whole())
    return GuestRun(ended, {g.name: g.margin(link.worst[g.name]) for g in spec.guardrails if g.name in link.worst})


def _spans(times: list[float], on: list[bool]) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff([False, *on, False]))
    ends = [*times, times[-1]]
    return [(ends[a], ends[b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def split(recording: Recording) -> Iterator[dict[str, Array]]:
    """Each run of a recording by itself: tag -> (n,), cut where its record ends."""
    batch = next(iter(recording.values.values())).shape[0]
    for i in range(batch):
        run = {name: v[i] for name, v in recording.values.items()}
        gone = np.flatnonzero(~np.isfinite(np.stack(list(run.values()))).any(axis=0))
        n = int(gone[0]) if gone.size else recording.time_s.size
        yield {name: v[:n] for name, v in run.items()}
