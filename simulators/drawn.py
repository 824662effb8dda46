"""`Drawn`: one seeded draw of a scenario for a batch of plants, as the `Conditions` they meet."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simulators.conditions import Steady
from simulators.contract import Simulator
from simulators.scenario import ActuatorFault, RandomLevels, Scenario, SensorFault, Signal, Value

Array = NDArray[np.float64]


class Path(Protocol):
    """A drawn signal: its level (batch,) at any time from 0 on."""

    def at(self, time_s: float) -> Array: ...


class Drawn(Steady):
    """What `scenario` has in store for each plant of a batch. Everything follows from the generator given to `start`."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def start(self, simulator: Simulator, batch: int, rng: np.random.Generator) -> None:
        super().start(simulator, batch, rng)
        names, s = simulator.names, self.scenario
        self._batch, self._rng, self.time_s = batch, rng, 0.0
        if s.population:
            self.p = simulator.population(batch, rng, **s.population)
        dirty = {name: rng.random(batch) >= q.clean for name, q in s.parameters.items()}
        for name, q in s.parameters.items():
            self.p[:, names.p.index(name)] *= np.where(dirty[name], _draw(q.factor, batch, rng), 1.0)
        self._loss = {names.p.index(name): q.loss_per_h for name, q in s.parameters.items() if q.loss_per_h}
        self._paths: dict[int, Path] = {}
        if s.timetable:
            table = simulator.timetable(batch, rng, s.duration_s, **s.timetable)
            self._paths |= {names.d.index(name): _TablePath(levels, s.duration_s) for name, levels in table.items()}
        for name, signal in s.disturbances.items():
            i = names.d.index(name)
            self._paths[i] = draw_path(signal, simulator.d0[i], batch, rng)
        self._set_points = {tag: draw_path(signal, np.nan, batch, rng) for tag, signal in s.set_points.items()}
        self._sensors = [_DrawnFault(f, f.size, batch, rng) for f in s.sensors]
        self._actuators = [_DrawnFault(f, f.lag_s, batch, rng) for f in s.actuators]
        self._made: Array | None = None
        self._apply()

    def states(self, moves: Array) -> Array:
        x = np.array(super().states(moves), float)
        rare = self._rng.random(self._batch) < self.scenario.start.rare_share
        for states, where in ((self.scenario.start.states, ~rare), (self.scenario.start.rare, rare)):
            for name, value in states.items():
                i = self._simulator.names.x.index(name)
                x[:, i] = np.where(where, _draw(value, self._batch, self._rng), x[:, i])
        return x

    def advance(self, dt_s: float) -> None:
        self.time_s += dt_s
        self.d, self.p = self.d.copy(), self.p.copy()  # who was shown the old ones keeps them
        for i, loss in self._loss.items():
            self.p[:, i] *= (1.0 - loss) ** (dt_s / 3600.0)
        self._apply()

    def set_points(self, time_s: float | None = None) -> dict[str, Array]:
        """Tag -> set-point (batch,) at a time, default now; NaN before a signal's first point."""
        return {tag: path.at(self.time_s if time_s is None else time_s) for tag, path in self._set_points.items()}

    def actuated(self, asked: Array, dt_s: float) -> Array:
        moves = np.array(asked, float)
        before = moves if self._made is None else self._made
        for drawn in self._actuators:
            fault = drawn.fault
            assert isinstance(fault, ActuatorFault)
            i, on = self._simulator.names.u.index(fault.mv), drawn.active(self.time_s)
            lag = 1.0 - np.exp(-dt_s / drawn.size) if fault.fault == "slow" else 0.0
            moves[:, i] = np.where(on, before[:, i] + lag * (moves[:, i] - before[:, i]), moves[:, i])
        self._made = moves
        return moves

    def readings(self, sensed: dict[str, Array]) -> dict[str, Array]:
        shown = dict(sensed)
        for drawn in self._sensors:
            fault = drawn.fault
            assert isinstance(fault, SensorFault)
            shown[fault.tag] = drawn.shown(shown[fault.tag], self.time_s)
        return shown

    def ahead(self, horizon_s: float) -> list[tuple[float, Array]]:
        """As now; only what a timetable says goes on until it rests (a meal that has begun is finished), and then rests."""
        tables = {i: path for i, path in self._paths.items() if isinstance(path, _TablePath)}
        step_s = min((path.interval_s for path in tables.values()), default=horizon_s)
        spans, d, after_s = [], self.d.copy(), 0.0
        while after_s < horizon_s and any((d[:, i] != self._simulator.d0[i]).any() for i in tables):
            spans.append((min(step_s, horizon_s - after_s), d.copy()))
            after_s += step_s
            for i, path in tables.items():
                usual = self._simulator.d0[i]
                d[:, i] = np.where(d[:, i] == usual, usual, path.at(self.time_s + after_s))
        return [*spans, (horizon_s - after_s, d)] if after_s < horizon_s else spans

    def faulty(self) -> set[str]:
        """Tags whose instrument is at fault now on the first plant of the batch."""
        return {
            getattr(f.fault, "tag", None) or f.fault.mv  # type: ignore[union-attr]
            for f in (*self._sensors, *self._actuators)
            if f.active(self.time_s)[0]
        }

    def facts(self) -> dict[str, Any]:
        return self.scenario.model_dump(exclude_defaults=True, mode="json")

    def _apply(self) -> None:
        for i, path in self._paths.items():
            self.d[:, i] = path.at(self.time_s)


class _DrawnFault:
    """When a fault strikes each plant, and how large it is."""

    def __init__(
        self, fault: SensorFault | ActuatorFault, size: Value | None, batch: int, rng: np.random.Generator
    ) -> None:
        self.fault = fault
        self._from_s = np.where(rng.random(batch) < fault.share, _draw(fault.at_s, batch, rng), np.inf)
        self._to_s = np.inf if fault.for_s is None else self._from_s + _draw(fault.for_s, batch, rng)
        self.size = np.zeros(batch) if size is None else _draw(size, batch, rng)
        self._last: Array | None = None

    def active(self, time_s: float) -> NDArray[np.bool_]:
        return (time_s >= self._from_s - 1e-6) & (time_s < self._to_s - 1e-6)

    def shown(self, value: Array, time_s: float) -> Array:
        """What a faulty sensor shows (batch,)."""
        on = self.active(time_s)
        frozen = value if self._last is None else np.where(on, self._last, value)
        self._last = frozen
        kind = getattr(self.fault, "fault", "")
        if kind == "freeze":
            return frozen
        if kind == "dropout":
            return np.where(on, np.nan, value)
        hours = (time_s - np.where(on, self._from_s, time_s)) / 3600.0
        return value + np.where(on, self.size * (hours if kind == "drift" else 1.0), 0.0)


def draw_path(signal: Signal, usual: float, batch: int, rng: np.random.Generator) -> Path:
    """Draw a signal for a batch: `usual` is its level where nothing is said."""
    if signal.random is not None:
        return _RandomPath(signal.random, usual, batch, rng)
    if signal.value is not None:
        return _PointPath(np.zeros((batch, 1)), _draw(signal.value, batch, rng)[:, None], False)
    points = signal.steps or signal.ramp or ()
    times = np.stack([np.full(batch, -np.inf), *(_draw(t, batch, rng) for t, _ in points)], 1)
    levels = np.stack([np.full(batch, usual), *(_draw(v, batch, rng) for _, v in points)], 1)
    order = np.argsort(times, axis=1, kind="stable")
    return _PointPath(
        np.take_along_axis(times, order, 1), np.take_along_axis(levels, order, 1), signal.ramp is not None
    )


class _PointPath:
    """Points by time (batch x n), held or joined by straight lines."""

    def __init__(self, times_s: Array, levels: Array, linear: bool) -> None:
        self._times_s, self._levels, self._linear = times_s, levels, linear

    def at(self, time_s: float) -> Array:
        rows = np.arange(len(self._times_s))
        i = np.maximum((self._times_s <= time_s + 1e-6).sum(axis=1) - 1, 0)
        level = self._levels[rows, i]
        if not self._linear:
            return level
        j = np.minimum(i + 1, self._times_s.shape[1] - 1)
        span = self._times_s[rows, j] - self._times_s[rows, i]
        inside = np.isfinite(span) & (span > 0)
        part = np.where(inside, (time_s - self._times_s[rows, i]) / np.where(inside, span, 1.0), 0.0)
        return level + np.where(inside, part * (self._levels[rows, j] - level), 0.0)


class _TablePath:
    """Levels (intervals x batch) of equal intervals that fill `duration_s`, over and over."""

    def __init__(self, levels: Array, duration_s: float) -> None:
        self._levels, self.interval_s = levels, duration_s / len(levels)

    def at(self, time_s: float) -> Array:
        return self._levels[int((time_s + 1e-6) // self.interval_s) % len(self._levels)]


class _RandomPath:
    """Random levels, drawn as far ahead as anyone has asked."""

    def __init__(self, levels: RandomLevels, usual: float, batch: int, rng: np.random.Generator) -> None:
        self._spec, self._usual = levels, usual
        (self._rng,) = rng.spawn(1)
        self._times_s, self._levels = np.zeros((batch, 1)), np.full((batch, 1), usual)

    def at(self, time_s: float) -> Array:
        batch, s = len(self._times_s), self._spec
        while self._times_s[:, -1].min() <= time_s:
            step = self._rng.exponential(s.hold_s, batch)
            level = np.where(self._rng.random(batch) < s.rest, self._usual, self._rng.uniform(*s.range, batch))
            self._times_s = np.column_stack([self._times_s, self._times_s[:, -1] + step])
            self._levels = np.column_stack([self._levels, level])
        i = (self._times_s <= time_s + 1e-6).sum(axis=1) - 1
        return self._levels[np.arange(batch), i]


def _draw(value: Value, batch: int, rng: np.random.Generator) -> Array:
    """A value for each plant."""
    return rng.uniform(*value, batch) if isinstance(value, tuple) else np.full(batch, value)
