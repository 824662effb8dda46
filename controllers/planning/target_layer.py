"""`TargetLayer`: where the MVs should rest, from gains that are sure: limits first, then zones and targets by rank, then prices.

Each reading at rest is what it is now less what the moves so far still owe it, plus its gains times the moves to come, as in dynamic
matrix control's steady-state step (Qin & Badgwell, Control Engineering Practice 11, 2003, section 5.2). Linear programmes by
HiGHS, one a rank: none gives up what the one before has kept. What the last one's multipliers say is the active set, with prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from controllers.contracts import Array, Decision, Observation, Targets
from controllers.planning.ranked_lp import Programme, Row
from models.gains import Gains
from plant.spec import PlantSpec

_CROSSES = 5.0  # settling times in which resting values may go from one limit of an MV to the other
_MINOR = 0.2  # of the strongest sure effect on a reading: one whose interval stays below is taken for none
_NOTHING = 0.02  # of a reading's range over an MV's whole: alike, where no effect is sure
_FILTER = 0.2  # of the settling time: over which readings are averaged
_LEAST = 5.0  # samples that is at least
_OFTEN = 20.0  # programmes a settling time
_SPARES = 0.01  # of a zone's half width, at most one scale, that resting values keep from its ends


@dataclass(frozen=True)
class Shadow:
    """What holds the cost: `what` in words, its `tag`, and what one unit of the tag more room gives, `per_unit`, in `currency` an
    hour."""

    what: str
    tag: str
    per_unit: float
    currency: str


@dataclass(frozen=True)
class Resting:
    """`rest` (n_mv): where the MVs are to rest now, NaN where nowhere in particular; `goal` (n_mv) where they will have got in the
    end; `readings` (n_measured) there, NaN where not known. `feasible`: every limit, zone and target can be had; else `fights` says
    which cannot, beside what. `active`: what holds the cost, a sentence each, from `shadows`. `saving`: what going there is worth,
    in `currency` an hour; 0 without prices."""

    rest: Array
    goal: Array
    readings: Array
    feasible: bool = True
    fights: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    saving: float = 0.0
    currency: str = ""


@dataclass
class _State:
    """What is remembered of the plant: the last readings and filtered ones, and of each move what has arrived at each reading,
    filtered alike."""

    read: Array
    readings: Array
    arrived: Array  # (n_cv x n_mv)
    filtered: Array  # (n_cv x n_mv)
    gap: Array  # samples since each reading
    past: list[Array] = field(default_factory=list)
    rest: Array = field(default_factory=lambda: np.empty(0))
    waited: float = math.inf
    last: Resting | None = None


class TargetLayer:
    """Resting values for one plant, sample by sample. `margins` (n_guardrail, tag units) are kept from limits. `settling_s` is the
    longest settling time of the gains it uses: resting values take `_CROSSES` of them from limit to limit, so that what a move does
    is seen before the next.

    An MV is left where it is where its effect on anything that is wanted is not known; a price is followed only in a
    direction that pays for every gain in its interval.
    """

    def __init__(self, spec: PlantSpec, gains: Gains, margins: Array | None = None) -> None:
        self.spec, self.gains = spec, gains
        self.margins = np.zeros(len(spec.guardrails)) if margins is None else margins
        self._names = [t.name for t in spec.measured]
        moves = [t.move for t in spec.mvs if t.move]
        self._span = np.array([m.span for m in moves])
        self._usual = np.array([math.nan if m.rest is None else m.rest for m in moves])
        wanted = {w.tag for w in (*spec.targets, *spec.zones, *spec.guardrails, *spec.prices)}
        self._wanted = np.array([n in wanted for n in self._names])
        self._cv_span = np.array([t.span for t in spec.measured])
        self._dt = spec.sample_time_s
        with np.errstate(invalid="ignore"):
            lag = (gains.settling_s - gains.dead_s) / 3
        dead = np.where(np.isfinite(gains.dead_s), gains.dead_s, 0.0)
        self._late = np.round(dead / self._dt).astype(int)
        lag = np.where(np.isfinite(lag), np.maximum(lag, 0.0), 0.0)
        self._step = 1 - np.exp(-self._dt / np.maximum(lag, 1e-9))
        used = gains.sure.any(0) & self._wanted[:, None] & np.isfinite(gains.settling_s)
        self.settling_s = float(max(gains.settling_s[used].max() if used.any() else 0.0, 2 * _LEAST * self._dt))
        self._filter = 1 - math.exp(-self._dt / max(_FILTER * self.settling_s, _LEAST * self._dt))
        self._state: _State | None = None

    @staticmethod
    def needed(spec: PlantSpec) -> bool:
        """Whether a plant wants anything that a layer could give: prices or zones."""
        return bool(spec.mvs) and bool(spec.prices or spec.zones)

    def reset(self) -> None:
        """Forget the past."""
        self._state = None

    def rest(self, measured: Array, applied: Array, targets: Targets, plant: int = 0) -> Resting:
        """Once a sample: `measured` (n_measured, NaN where missing) and `applied` (n_mv, in force until now); `targets` as the
        controller has them, of which `plant` is this one's place in the batch."""
        state = self._taken_in(measured, applied)
        state.waited += self._dt
        if state.last is None or state.waited >= self.settling_s / _OFTEN:
            state.last, state.waited = self._solved(state, applied, targets, plant), 0.0
        goal = state.last.goal
        far = self._span * self._dt / (_CROSSES * self.settling_s)
        # A resting value never runs away from a plant that does not follow it.
        near = self._span / _CROSSES
        begin = np.clip(np.where(np.isfinite(state.rest), state.rest, applied), applied - near, applied + near)
        state.rest = begin + np.clip(goal - begin, -far, far)
        shown = np.where(np.isfinite(goal), state.rest, self._usual)
        return replace(state.last, rest=shown)

    def _taken_in(self, measured: Array, applied: Array) -> _State:
        shape = self.gains.gain.shape[1:]
        s = self._state
        if s is None or not np.isfinite(s.filtered).all():
            here = np.tile(np.where(np.isfinite(applied), applied, np.nan), (shape[0], 1))
            s = self._state = _State(
                measured.copy(), measured.copy(), here, here.copy(), np.zeros(shape[0]), rest=applied.copy()
            )
        s.past.append(np.where(np.isfinite(applied), applied, s.past[-1] if s.past else applied))
        if len(s.past) > int(self._late.max(initial=0)) + 1:
            s.past.pop(0)
        past = np.array(s.past)
        late = past[np.maximum(len(past) - 1 - self._late, 0), np.arange(shape[1])]
        s.arrived = s.arrived + self._step * (late - s.arrived)
        read = np.isfinite(measured)
        s.readings = np.where(read & ~np.isfinite(s.readings), measured, s.readings)
        # Both sides of a gain are filtered alike, where a reading comes rarely too.
        s.gap = s.gap + 1
        share = np.where(read, 1 - (1 - self._filter) ** s.gap, 0.0)
        s.gap = np.where(read, 0, s.gap)
        s.filtered = s.filtered + share[:, None] * (s.arrived - s.filtered)
        s.readings = s.readings + share * np.where(read, measured - s.readings, 0.0)
        s.read = np.where(read, measured, s.read)
        return s

    def _solved(self, s: _State, applied: Array, targets: Targets, plant: int) -> Resting:
        point = self.gains.at(s.readings, applied)
        gain, free = self._usable(point)
        if targets.dropped is not None:
            free &= ~np.asarray(targets.dropped, bool)
        free &= np.isfinite(applied)
        now = s.readings + (gain * (applied - s.filtered)).sum(1)
        lp = self._programme(point, gain, free, now, s, applied, targets, plant)
        answer = lp.solve()
        goal = np.where(free, np.clip(applied + answer.x, targets.move_low, targets.move_high), np.nan)
        if not self.spec.prices:  # nothing pulls an MV that has no resting value of its own
            goal = np.where(np.isfinite(self._usual), goal, np.nan)
        readings = np.where(self.gains.integrating, s.readings, now + gain @ answer.x)
        currency = self.spec.prices[0].currency if self.spec.prices else ""
        shadows = tuple(
            Shadow(row.name, row.tag, price, currency) for row, price in answer.shadows if row.tag and abs(price) > 0
        )
        return Resting(
            goal, goal, readings, not answer.fights, tuple(self._fight(*f) for f in answer.fights),
            tuple(self._held(h) for h in shadows), shadows, max(0.0, -answer.cost), currency,
        )  # fmt: skip

    def _usable(self, point: int) -> tuple[Array, Array]:
        """Gains that are used (n_cv x n_mv), 0 elsewhere, and which MVs (n_mv) may be moved: those whose effect on everything wanted
        is sure or minor."""
        g = self.gains
        gain = np.where(g.sure[point], g.gain[point], 0.0)
        scaled = np.abs(gain) * self._span
        most = np.where(g.against[point], np.inf, np.maximum(np.abs(g.low[point]), np.abs(g.high[point]))) * self._span
        minor = np.maximum(_MINOR * scaled.max(1, initial=0.0), np.where(g.integrating, 0.0, _NOTHING * self._cv_span))
        known = g.sure[point] | (most <= minor[:, None])
        return gain, known[self._wanted].all(0) & g.sure[point].any(0)

    def _programme(
        self, point: int, gain: Array, free: Array, now: Array, s: _State, applied: Array, targets: Targets, plant: int
    ) -> Programme:  # fmt: skip
        spec, g = self.spec, self.gains
        low, high = np.asarray(targets.move_low), np.asarray(targets.move_high)
        with np.errstate(invalid="ignore"):
            least = np.where(free, np.minimum(low - applied, high - applied), 0.0)
            most = np.where(free, np.maximum(high - applied, low - applied), 0.0)
        lp = Programme(np.nan_to_num(least), np.nan_to_num(most), self._span, [t.name for t in spec.mvs])
        tau = max(_FILTER * self.settling_s, _LEAST * self._dt)
        for i in np.flatnonzero(g.integrating & self._wanted & g.sure[point].any(1)):
            slope = (s.read[i] - s.readings[i]) / tau * 3600.0
            drift = slope + float(gain[i] @ (applied - s.filtered[i]))
            name, scale = self._names[i], self._cv_span[i] / 100
            if np.isfinite(drift):
                lp.add(0, Row(f"the balance of {name}", "", gain[i], -drift, -drift, scale))
        for k, rail in enumerate(spec.guardrails):
            i = self._names.index(rail.tag) if rail.tag in self._names else None
            if i is None or g.integrating[i] or not np.isfinite(now[i]):
                continue
            end = rail.limit - rail.sign * self.margins[k] - now[i]
            sides = (-np.inf, end) if rail.sign > 0 else (end, np.inf)
            lp.add(rail.rank, Row(f"guardrail {rail.name}", rail.tag, gain[i], *sides, spec.scale(rail)))
        after = max((r.rank for r in spec.guardrails), default=0)
        zones = targets.zones
        for k, zone in enumerate(spec.zones):
            i = self._names.index(zone.tag)
            ends = (zone.low, zone.high) if zones is None else zones[k]
            a, b = (math.nan if v is None else float(v) for v in ends)
            if g.integrating[i] or not np.isfinite(now[i]):
                continue
            scale = spec.zone_scale(zone)
            spare = min(scale, _SPARES * (b - a) / 2 if np.isfinite(b - a) else scale)
            bottom, top = (
                (-np.inf if np.isnan(a) else a + spare - now[i]),
                (np.inf if np.isnan(b) else b - spare - now[i]),
            )
            lp.add(after + zone.rank, Row(f"the zone of {zone.tag}", zone.tag, gain[i], bottom, top, scale))
        left_out = np.zeros(len(spec.targets), bool) if targets.left_out is None else np.asarray(targets.left_out)
        values = np.asarray(targets.values)
        for k, target in enumerate(spec.targets):
            i = self._names.index(target.tag)
            value = float(values[min(plant, len(values) - 1), -1, k])
            if left_out[k] or g.integrating[i] or not np.isfinite(now[i] + value):
                continue
            gap = value - now[i]
            lp.add(after + target.rank, Row(f"the target of {target.tag}", target.tag, gain[i], gap, gap, target.scale))
        lp.price(*self._prices(point, targets))
        lp.rests(np.where(np.isfinite(self._usual), self._usual - applied, np.nan))
        return lp

    def _prices(self, point: int, targets: Targets) -> tuple[Array, Array]:
        """What a unit more and a unit less of each MV costs an hour at least (n_mv each): the worst of every gain's interval."""
        more, less = np.zeros(len(self._span)), np.zeros(len(self._span))
        mvs, g = [t.name for t in self.spec.mvs], self.gains
        prices = (
            [p.per_unit for p in self.spec.prices] if targets.prices is None else np.asarray(targets.prices).tolist()
        )
        for tag, price in zip((p.tag for p in self.spec.prices), prices, strict=True):
            if tag in mvs:
                more[mvs.index(tag)] += price
                less[mvs.index(tag)] -= price
                continue
            i = self._names.index(tag)
            if g.integrating[i]:
                continue
            sure = g.sure[point, i]
            ends = np.where(sure, price * np.stack([g.low[point, i], g.high[point, i]]), 0.0)
            more += ends.max(0)
            less += (-ends).max(0)
        return more, less

    def _fight(self, row: Row, short: float, beside: tuple[str, ...]) -> str:
        tag = self.spec.tag(row.tag) if row.tag else None
        much = f" by {short:.3g} {tag.unit}".rstrip() if tag else ""
        return f"{row.name} cannot be kept{much}" + (f" beside {' and '.join(beside)}" if beside else "")

    def _held(self, shadow: Shadow) -> str:
        tag = self.spec.tag(shadow.tag)
        step = 1.0 if tag.span >= 10 else 10.0 ** math.floor(math.log10(tag.span / 50))
        gives = abs(shadow.per_unit) * step
        return f"the cost is held by {shadow.what}: {step:g} {tag.unit} more gives {gives:.3g} {shadow.currency}/h"


class TargetLayers:
    """A layer for each of `batch` plants, for a controller to ask once a sample; none where nothing asks for one, or nobody
    knows the gains."""

    def __init__(self, spec: PlantSpec, gains: Gains | None, margins: Array, batch: int) -> None:
        needed = gains is not None and TargetLayer.needed(spec)
        self._layers = [TargetLayer(spec, gains, margins) for _ in range(batch)] if gains is not None and needed else []
        self.found: tuple[Resting, ...] = ()

    def reset(self) -> None:
        """Forget the past."""
        self.found = ()
        for layer in self._layers:
            layer.reset()

    def targets(self, observation: Observation, targets: Targets) -> Targets:
        """`targets` with resting values; as they are where they have some, or where there is no layer."""
        self.found = ()
        if not self._layers or targets.rest is not None:
            return targets
        self.found = tuple(
            layer.rest(observation.measured[b], observation.applied[b], targets, b)
            for b, layer in enumerate(self._layers)
        )
        return replace(targets, rest=np.stack([r.rest for r in self.found]))

    def told(self, decision: Decision) -> Decision:
        """`decision` with where the MVs rest and what holds the cost; where it has no reason of its own, with which zones and
        targets fight."""
        if not self.found:
            return decision
        own = decision.why or ("",) * len(self.found)
        return replace(
            decision,
            why=tuple(w or "; ".join(r.fights) for w, r in zip(own, self.found, strict=True)),
            rest=np.stack([r.rest for r in self.found]),
            active=tuple("; ".join(r.active) for r in self.found),
        )
