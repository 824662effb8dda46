"""Data as a site has them: a plant under its own loops, with set-point changes and disturbances, and a few hours of step tests.

A history is four equal parts in time, each a stretch of the plant's own operation and after it a step test, so that any of them can
be held out. Everything is stored scan by scan, as `homeostat record` would have stored it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from historian import Historian
from models.dataset import Source
from plant.link import PlantMode
from plant.regulatory import RegulatoryLayer
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario

Array = NDArray[np.float64]
FOLDS = 4
TEST_HOURS, TEST_SHARE = 10.0, 0.4  # of a whole history, at most each
START_S = 1.7e9
_GAP_SAMPLES = 30  # between two runs
_MOVE_CHANCE = 2  # of three levels, each MV for itself: below, at and above where it stood


@dataclass(frozen=True)
class Scans:
    """`batch` runs scan by scan: tag -> (batch x scans), MVs the moves in force from that scan on; `lived` (batch,) scans until the
    plant ended or its test was given up."""

    values: dict[str, Array]
    lived: NDArray[np.int64]
    facts: str


def operated(spec: PlantSpec, scenario: Scenario, hours: float, batch: int, seed: int) -> Scans:
    """The plant in the hands of its own loops, their set-points as the scenario moves them."""
    plant, layer = _plant(spec, scenario, batch, seed)
    loops = {loop.pv for loop in spec.regulatory.loops}
    drawn = plant.conditions
    assert isinstance(drawn, Drawn)

    def moves(reading: dict[str, Array]) -> Array:
        wanted = {tag: v for tag, v in drawn.set_points().items() if tag in loops and np.isfinite(v).all()}
        layer.set_local(wanted)
        return layer.scan(reading, spec.scan_time_s, 0.0)

    return _lived(spec, plant, hours, moves, lambda reading: np.zeros(batch, bool))


def stepped(spec: PlantSpec, scenario: Scenario, hours: float, batch: int, seed: int) -> Scans:
    """Step tests with the loops open: each MV at `test.step` below, at or above where it stood, for a time of mean `test.hold_s`. A
    run ends where a reading comes to a guardrail's test limit: the operators put the plant back."""
    quiet = scenario.model_copy(update={"set_points": {}})
    plant, layer = _plant(spec, quiet, batch, seed)
    layer.request_mode(PlantMode.REMOTE, 0.0)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x57E9]))
    tests = [t.move.test for t in spec.mvs if t.move]
    size = np.array([t.step or 0.05 * (m.move.span if m.move else 0.0) for t, m in zip(tests, spec.mvs, strict=True)])
    hold = np.array([t.hold_s or 10 * spec.sample_time_s for t in tests]) / spec.scan_time_s
    low, high = np.array([t.move.limits for t in spec.mvs if t.move]).T
    usual, side = plant.moves.copy(), np.zeros_like(plant.moves)
    beats = 0

    def moves(reading: dict[str, Array]) -> Array:
        nonlocal side, beats
        turn = rng.random(side.shape) < 1.0 / hold
        side = np.where(turn, rng.integers(-1, _MOVE_CHANCE, side.shape), side)
        wanted = np.clip(usual + side * size, low, high)
        beats += 1
        layer.beat(beats, 0.0)
        layer.write({mv.name: wanted[:, i] for i, mv in enumerate(spec.mvs)})
        return layer.scan(reading, spec.scan_time_s, 0.0)

    def given_up(reading: dict[str, Array]) -> NDArray[np.bool_]:
        past = [g.sign * (reading[g.tag] - spec.test_limit(g)) > 0 for g in spec.guardrails if g.tag in reading]
        return np.any([*past, np.zeros(batch, bool)], axis=0)

    return _lived(spec, plant, hours, moves, given_up)


def _plant(spec: PlantSpec, scenario: Scenario, batch: int, seed: int) -> tuple[SimulatedPlant, RegulatoryLayer]:
    plant = SimulatedPlant(spec, seed, batch, Drawn(scenario))
    return plant, RegulatoryLayer(spec, batch, {t.name: plant.moves[:, i] for i, t in enumerate(spec.mvs)})


def _lived(spec: PlantSpec, plant: SimulatedPlant, hours: float, moves, given_up) -> Scans:
    count = round(hours * 3600 / spec.scan_time_s)
    names = [t.name for t in spec.online]
    values = {name: np.full((plant.batch, count), np.nan) for name in names}
    lived = np.full(plant.batch, count)
    for k in range(count):
        reading = plant.measure()
        over = (plant.ended != 0) | given_up(reading)
        lived = np.where(over, np.minimum(lived, k), lived)
        made = moves(reading)
        for name, value in reading.items():
            values[name][:, k] = value
        for i, mv in enumerate(spec.mvs):
            values[mv.name][:, k] = made[:, i]
        plant.advance(made, spec.scan_time_s)
    return Scans(values, lived, plant.facts())


def history_of(spec: PlantSpec, scenario: Scenario, hours: float, path: Path, seed: int) -> Path:
    """The historian at `path` with `hours` of the plant in `scenario`, recorded now unless it is there."""
    if path.exists():
        return path
    part = path.with_suffix(".part")
    for old in path.parent.glob(f"{part.name}*"):
        old.unlink()
    tests = min(TEST_HOURS, TEST_SHARE * hours) / FOLDS
    kinds = [
        ("recorded", operated(spec, scenario, hours / FOLDS - tests, FOLDS, seed)),
        ("excitation", stepped(spec, scenario, tests, FOLDS, seed + 1)),
    ]
    with Historian(part, spec.name) as store:
        store.register(spec)
        for fold in range(FOLDS):
            at = START_S + fold * fold_s(spec, hours)
            for kind, scans in kinds:
                n = int(scans.lived[fold])
                if n < 2:
                    continue
                times = at + spec.scan_time_s * np.arange(n, dtype=np.float64)
                store.sample_block({tag: v[fold, :n] for tag, v in scans.values.items()}, times)
                store.add_runs(kind, [(float(times[0]), float(times[-1]))], seed, scans.facts)
                store.flush(600.0)
                at = float(times[-1]) + _GAP_SAMPLES * spec.sample_time_s
    for made in path.parent.glob(f"{part.name}*"):
        made.rename(path.parent / made.name.replace(part.name, path.name))
    return path


def fold_s(spec: PlantSpec, hours: float) -> float:
    """From the begin of one fold of a history to that of the next, plant seconds."""
    return 3600.0 * hours / FOLDS + 2 * _GAP_SAMPLES * spec.sample_time_s


def fold_of(time_s: float, span_s: float) -> int:
    """Which fold of `span_s` plant seconds a plant time lies in."""
    return int((time_s - START_S) // span_s)


class Part:
    """Some runs of a `Source` by their place in time: those of the fold `held`, of `span_s` plant seconds, or all but those."""

    def __init__(self, source: Source, held: int, span_s: float, *, inside: bool) -> None:
        self._source, self._held, self._span_s, self._inside = source, held, span_s, inside

    @property
    def location(self) -> str:
        return self._source.location

    @property
    def tags(self) -> list[str]:
        return self._source.tags

    @property
    def units(self) -> dict[str, str]:
        return self._source.units

    def runs(self, kinds: Sequence[str] | None = None) -> pl.DataFrame:
        known = self._source.runs()
        place = [fold_of(at / 1e6, self._span_s) == self._held for at in known["start_ts"]]
        mine = known.filter(pl.Series(place) == self._inside)
        return mine if kinds is None else mine.filter(pl.col("kind").is_in(kinds))

    def readings(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        return self._source.readings(tags, start_s, end_s)

    def before(self, tags: Sequence[str], start_s: float) -> pl.DataFrame:
        return self._source.before(tags, start_s)
