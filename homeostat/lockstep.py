"""Plant-hours as fast as the processor allows: excitation and simulated incidents, in lock-step, through the plant's own
regulatory layer. What comes out goes to the historian exactly as a recorder would put it there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from homeostat.excitation import Excitation
from plant.errors import ControlError
from plant.link import PlantMode
from plant.regulatory import RegulatoryLayer
from plant.spec import PlantSpec
from simulators.disturbances import RandomSteps
from simulators.plant import SimulatedPlant

Array = NDArray[np.float64]

RECORDING_CEILING_K = 345.0  # recorded excitation never passes this; incidents are simulated and say so


@dataclass(frozen=True)
class Recording:
    """`batch` runs of one kind, on the sample grid: `values` tag -> (batch x samples), MVs as read back at each sample."""

    kind: str
    seed: int
    time_s: Array
    values: dict[str, Array]


def _disturbance(feed_high_K: float, spread: float, clean: float = 0.5) -> RandomSteps:
    """Feed-temperature steps up to `feed_high_K`, and fouling and catalyst activity that differ by run."""
    return RandomSteps(
        levels={"Ti": (345.0, feed_high_K)},
        hold_s=600.0,
        rest=0.6,
        parameters={"UA": (1 - spread, 1 + spread), "k0": (1 - 0.6 * spread, 1 + 0.6 * spread)},
        clean=clean,
    )


def executed_disturbance() -> RandomSteps:
    """What the planner meets while its margins are calibrated: wider than the excitation, as wide as operation may be."""
    return _disturbance(370.0, 0.15)


def excitation_run(spec: PlantSpec, batch: int, samples: int, seed: int) -> Recording:
    """`batch` runs of `samples` samples of excitation in REMOTE, interlocks armed. Raises `ControlError` if a run passed
    the ceiling of the recording policy (it must not: the interlock is set so that it cannot)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    plant = SimulatedPlant(spec, seed, batch, _disturbance(355.0, 0.10, clean=0.7), x0=_spread_states(spec, batch, rng))
    recording = _record(spec, plant, samples, seed, "excitation")
    for guard in spec.guardrails:
        top = float(np.nanmax(recording.values[guard.tag]))
        if top > RECORDING_CEILING_K + 4 * spec.tag(guard.tag).noise:
            raise ControlError(
                f"excitation reached {top:.1f} {spec.tag(guard.tag).unit}",
                f"plant {spec.name}, tag {guard.tag}",
                f"The recording policy allows {RECORDING_CEILING_K}: lower the interlock's trip.",
            )
    return recording


def incident_run(spec: PlantSpec, batch: int, samples: int, seed: int) -> Recording:
    """`batch` simulated runs that no plant should be made to record: interlocks off, feed and fouling at their worst,
    moves too hot, and full cooling only from a random temperature on: in time, or too late. One in five starts hot."""
    guard = next(g for g in spec.guardrails if g.fallback_tag)
    bare = spec.model_copy(update={"regulatory": spec.regulatory.model_copy(update={"interlocks": ()})})
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    x0 = _spread_states(spec, batch, rng)
    hot = rng.random(batch) < 0.2
    x0[hot, 0] = rng.uniform(0.45, 0.95, hot.sum())
    x0[hot, 1] = rng.uniform(328.0, 352.0, hot.sum())
    plant = SimulatedPlant(bare, seed, batch, _disturbance(371.0, 0.18), x0=x0)
    safe = np.array([t.move.safe for t in spec.mvs if t.move])
    high = np.array([t.move.limits[1] for t in spec.mvs if t.move])
    push, rescue_at = rng.uniform(0.0, 8.0, (batch, 1)), rng.uniform(328.0, guard.limit, batch)
    rescuing = np.zeros(batch, bool)

    def override(moves: Array, reading: dict[str, Array]) -> Array:
        rescuing[:] = (rescuing | (reading[guard.tag] > rescue_at)) & ~(reading[guard.tag] < 323.0)
        return np.where(rescuing[:, None], safe, np.minimum(moves + push, high))

    return _record(bare, plant, samples, seed, "incident", override, ceiling=guard.limit + 8.0)


def _spread_states(spec: PlantSpec, batch: int, rng: np.random.Generator) -> Array:
    """Start states around and away from the operating point."""
    x0 = np.empty((batch, 3 if spec.simulator == "reactor" else 2))
    x0[:, 0] = rng.uniform(0.7, 0.97, batch)
    x0[:, 1] = rng.uniform(312.0, 331.0, batch)
    if x0.shape[1] == 3:
        x0[:, 2] = rng.uniform(291.0, 303.0, batch)
    return x0


def _record(
    spec: PlantSpec,
    plant: SimulatedPlant,
    samples: int,
    seed: int,
    kind: str,
    override: Callable[[Array, dict[str, Array]], Array] | None = None,
    ceiling: float = np.inf,
) -> Recording:
    start = np.clip(
        np.random.default_rng(np.random.SeedSequence([seed, 3])).normal(298.0, 3.0, (plant.batch, len(spec.mvs))),
        [t.move.limits[0] for t in spec.mvs if t.move],
        [t.move.limits[1] for t in spec.mvs if t.move],
    )
    layer = RegulatoryLayer(spec, plant.batch, {t.name: start[:, i] for i, t in enumerate(spec.mvs)})
    layer.request_mode(PlantMode.REMOTE, 0.0)
    excitation = Excitation(spec, plant.batch, seed)
    scans = round(spec.sample_time_s / spec.scan_time_s)
    safe = np.array([t.move.safe for t in spec.mvs if t.move])
    names = [t.name for t in spec.online] + [g.fallback_tag for g in spec.guardrails if g.fallback_tag]
    values = {name: np.empty((plant.batch, samples)) for name in names}
    over = np.zeros(plant.batch, bool)
    unheld = np.zeros((plant.batch, len(spec.mvs)), bool)
    for k in range(samples):
        reading = plant.measure()
        for name, value in reading.items():
            values[name][:, k] = value
        for i, mv in enumerate(spec.mvs):
            # An interlock that acted inside the interval leaves no one move that was in force: the move is missing.
            values[mv.name][:, k] = np.where(unheld[:, i], np.nan, layer.outputs[:, i])
        for guard in spec.guardrails:
            if guard.fallback_tag:
                peak = plant.fallback_peak(guard.tag, safe, guard.limit + 50.0)
                values[guard.fallback_tag][:, k] = peak
            over |= plant.true_outputs()[guard.tag] > ceiling
        for v in values.values():
            v[over, k] = np.nan
        moves = excitation.next(reading)
        if override is not None:
            moves = override(moves, reading)
        layer.beat(k, 0.0)
        layer.write({mv.name: moves[:, i] for i, mv in enumerate(spec.mvs)})
        forced, low, high = np.zeros(plant.batch, bool), layer.outputs + np.inf, layer.outputs - np.inf
        for _ in range(scans):
            outputs = layer.scan(plant.measure(), spec.scan_time_s, 0.0)
            outputs[over] = safe
            plant.advance(outputs, spec.scan_time_s)
            forced |= layer.interlock
            low, high = np.minimum(low, outputs), np.maximum(high, outputs)
        unheld = forced[:, None] & (high > low)
    return Recording(kind, seed, np.arange(samples, dtype=np.float64) * spec.sample_time_s, values)


def split(recording: Recording) -> Iterator[dict[str, Array]]:
    """Each run of a recording by itself: tag -> (n,), cut where it left the ceiling."""
    batch = next(iter(recording.values.values())).shape[0]
    for i in range(batch):
        run = {name: v[i] for name, v in recording.values.items()}
        gone = np.flatnonzero(~np.isfinite(np.stack(list(run.values()))).any(axis=0))
        n = int(gone[0]) if gone.size else recording.time_s.size
        yield {name: v[:n] for name, v in run.items()}
