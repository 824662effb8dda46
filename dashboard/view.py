"""`OperatorView`: everything one tick of the operator page shows, and what of it is abnormal. No I/O, no markup."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dashboard.live import PlantState
from plant.link import Quality
from plant.opcua.controller_client import ControllerSnapshot, Margin
from plant.spec import Guardrail, PlantSpec, Role, Tag

_STALE_SAMPLES = 3.0  # without a `stale_s` of its own, a tag is stale after this many control samples
_MARGIN_NOISE = 0.01  # share of the calibrated margin by which a converged plan may still touch it


class State(StrEnum):
    """How much attention something needs; the value is its CSS class."""

    NORMAL = ""
    WARNING = "amber"
    ALARM = "red"


@dataclass(frozen=True)
class Reading:
    """The newest stored value of a tag, engineering units, with its source time (plant s since the Unix epoch)."""

    value: float
    quality: Quality
    time_s: float


@dataclass(frozen=True)
class Series:
    """A stretch of history: plant times (s), and values with None where there is a gap or a bad value."""

    time_s: tuple[float, ...] = ()
    value: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One line of the event list. `who` is empty for what the system did itself."""

    time_s: float
    kind: str
    severity: str
    text: str
    who: str = ""


@dataclass(frozen=True)
class History:
    """What the historian knows for a page: newest readings, trends, past targets by tag, and the event list (newest first)."""

    readings: Mapping[str, Reading] = field(default_factory=dict)
    trends: Mapping[str, Series] = field(default_factory=dict)
    targets: Mapping[str, Series] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class OperatorView:
    """One moment of one plant. `controller` or `plant` None: unreachable, and the error beside it says why."""

    spec: PlantSpec
    history: History
    history_error: str = ""
    controller: ControllerSnapshot | None = None
    controller_error: str = ""
    plant: PlantState | None = None
    plant_error: str = ""

    @property
    def now_s(self) -> float | None:
        """Plant time: the newest reading or plan, whichever is newer. None while nothing is known."""
        times = [r.time_s for r in self.history.readings.values()]
        if self.controller is not None and self.controller.plan_time_s > 0:
            times.append(self.controller.plan_time_s)
        return max(times, default=None)

    def target(self, tag: str) -> float | None:
        """The target in force, from the controller; None when it is away or the tag has none."""
        return self.controller.targets.get(tag) if self.controller is not None else None

    def operator_limits(self, tag: Tag) -> tuple[float, float] | None:
        """An MV's operator limits, else its own; None for other tags."""
        if tag.move is None:
            return None
        asked = self.controller.limits.get(tag.name) if self.controller is not None else None
        return asked or tag.move.limits

    def guardrails(self, tag: str) -> tuple[Guardrail, ...]:
        return tuple(g for g in self.spec.guardrails if g.tag == tag)

    def fault(self, tag: Tag) -> str:
        """Why the newest reading cannot be believed; '' when it can."""
        reading, now = self.history.readings.get(tag.name), self.now_s
        if reading is None or now is None:
            return "no data"
        if reading.quality is Quality.BAD or not math.isfinite(reading.value):
            return "bad"
        age = now - reading.time_s
        if age > (tag.stale_s or _STALE_SAMPLES * self.spec.sample_time_s):
            return f"stale, {age:.0f} s"
        return "uncertain" if reading.quality is Quality.UNCERTAIN else ""

    def state(self, tag: Tag) -> State:
        """Red past a guardrail of rank 1, amber past another or without a believable value."""
        reading = self.history.readings.get(tag.name)
        past = [g for g in self.guardrails(tag.name) if reading and g.sign * (g.limit - reading.value) < 0]
        if past:
            return State.ALARM if min(g.rank for g in past) == 1 else State.WARNING
        if reading is None and self.history_error:
            return State.NORMAL  # a banner says so once, for every tag
        return State.WARNING if self.fault(tag) else State.NORMAL


def normal_band(view: OperatorView, tag: Tag) -> tuple[float, float] | None:
    """Where a tag belongs: between its guardrails, within its target's limits, or an MV's operator limits. None: unknown."""
    if tag.move is not None:
        return view.operator_limits(tag)
    rails = view.guardrails(tag.name)
    wanted = next((t for t in view.spec.targets if t.tag == tag.name), None)
    if not rails and wanted is None:
        return None
    low = max(
        [g.min for g in rails if g.min is not None] + ([wanted.limits[0]] if wanted else []), default=tag.range[0]
    )
    high = min(
        [g.max for g in rails if g.max is not None] + ([wanted.limits[1]] if wanted else []), default=tag.range[1]
    )
    return (low, high) if low < high else None


def display_range(view: OperatorView, tag: Tag) -> tuple[float, float]:
    """The scale of a tag's bar: its limits, target and nominal with room around them, inside the engineering range.

    A reactor that lives at 325 K and must not pass 350 K is unreadable on a scale of 280 to 520 K.
    """
    points = [tag.nominal, *(g.limit for g in view.guardrails(tag.name))]
    points += [v for t in view.spec.targets if t.tag == tag.name for v in t.limits]
    points += list(tag.move.limits) if tag.move else []
    low, high = min(points), max(points)
    if low == high:
        return tag.range
    room = (0.08 if tag.move else 0.4) * (high - low)
    return max(tag.range[0], low - room), min(tag.range[1], high + room)


def expected_margin(view: OperatorView, g: Guardrail, margin: Margin) -> float:
    """How near the plan itself comes to a limit, before any allowance for error. NaN without a plan."""
    plan = view.controller.prediction.tags.get(g.tag, ()) if view.controller is not None else ()
    distances = [g.sign * (g.limit - v) for v in plan if math.isfinite(v)]
    return min(distances, default=margin.worst + margin.calibrated)


def margin_state(margin: Margin, expected: float) -> State:
    """Red: the limit is passed now, or the plan itself passes it. Amber: the plan uses up part of the calibrated margin
    kept for prediction error. A plan that rides on that margin is doing its work."""
    if margin.now < 0 or expected < 0:
        return State.ALARM
    allowance = margin.calibrated if math.isfinite(margin.calibrated) else 0.0
    return State.WARNING if margin.worst < -max(_MARGIN_NOISE * allowance, 1e-6) else State.NORMAL


def trend_tags(spec: PlantSpec, limit: int = 4) -> tuple[str, ...]:
    """The tags a page trends unless told otherwise: CVs, whatever has a guardrail, MVs, then the other measurements."""
    guarded = {g.tag for g in spec.guardrails}
    first = [t.name for t in spec.tags if t.role is Role.CV or (t.name in guarded and t.role is not Role.HIDDEN)]
    moves = [t.name for t in spec.mvs]
    rest = [t.name for t in spec.tags if t.role is Role.AUX]
    room = max(limit - min(len(moves), limit // 2), 1)
    chosen = [*first[:room], *moves[: limit - min(len(first), room)]]
    chosen += [name for name in rest if name not in chosen][: limit - len(chosen)]
    return tuple(name for name in [t.name for t in spec.tags] if name in chosen)


def number(value: float | None, tag: Tag | None = None) -> str:
    """A value with the digits its tag's noise or range makes meaningful; an en dash when there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if tag is None:
        return f"{value:.3g}"
    resolution = max(tag.noise, (tag.range[1] - tag.range[0]) / 2000)
    return f"{value:.{min(max(0, math.ceil(-math.log10(resolution))), 6)}f}"
