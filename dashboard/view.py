"""`OperatorView`: everything one tick of the operator page shows, and what of it is abnormal. No I/O, no markup."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from dashboard.live import ClockStep, PlantState
from dashboard.news import News, duration
from plant.link import Quality
from plant.opcua.controller_client import ControllerSnapshot, Margin, Prediction
from plant.spec import Guardrail, PlantSpec, Role, Tag

_PLAN_SAMPLES = 3.0  # a plan for a time further from now than this many control samples is of another time
_STEP_SHOWN_S = 30.0  # wall; long enough to be read, and in the event list for good
_STALE_SAMPLES = 3.0  # without a `stale_s` of its own, a tag is stale after this many control samples
_MARGIN_NOISE = 0.01  # share of the calibrated margin by which a converged plan may still touch it


class State(StrEnum):
    """How much attention something needs; the value is its CSS class."""

    NORMAL = ""
    WARNING = "amber"
    ALARM = "red"


@dataclass(frozen=True)
class Reading:
    """A value of a tag, engineering units, with its source time (plant s since the Unix epoch), and why it is not good."""

    value: float
    quality: Quality
    time_s: float
    reason: str = ""


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
    """One moment of one plant.

    `said_controller`, `said_plant`: what each said last, which may be old; None: nothing yet. The errors say why one does not
    answer. `history` is what is stored. How old each is by our own clock, its news tell; what is shown as the present comes
    from `controller`, `plant` and `readings`, which know the difference.
    """

    spec: PlantSpec
    history: History
    history_error: str = ""
    said_controller: ControllerSnapshot | None = None
    controller_error: str = ""
    said_plant: PlantState | None = None
    plant_error: str = ""
    controller_news: News = field(default_factory=News)
    plant_news: News = field(default_factory=News)
    stored_news: News = field(default_factory=News)
    clock_step: ClockStep | None = None

    @property
    def controller(self) -> ControllerSnapshot | None:
        """What the controller says now; None while it cannot be reached or has nothing new to say."""
        return self.said_controller if self.controller_news.fresh else None

    @property
    def plant(self) -> PlantState | None:
        """What the plant says now; None while it cannot be reached or stands still."""
        return self.said_plant if self.plant_news.fresh else None

    @property
    def _live(self) -> bool:
        """Whether values come from the plant itself, rather than from what is stored: from whoever had news last."""
        if self.said_plant is None or not self.said_plant.values:
            return False
        ages = [(not n.fresh, not n.ever, n.age_s) for n in (self.plant_news, self.stored_news)]
        return self.plant_news.fresh or ages[0] <= ages[1] or not self.history.readings

    @property
    def news(self) -> News:
        """Of the values that are shown."""
        return self.plant_news if self._live else self.stored_news

    @property
    def old(self) -> str:
        """Why no value shown can be taken for the present, in words; '' while they can."""
        n = self.news
        if n.fresh or not self.readings:
            return ""
        return f"old, {duration(n.age_s)}" if n.ever else "from before, waiting"

    @property
    def trends_old(self) -> bool:
        """Whether nothing new is stored."""
        return not self.stored_news.fresh

    @cached_property
    def readings(self) -> Mapping[str, Reading]:
        """The newest value of each tag, of whoever had news last: the plant itself, or what is stored of it."""
        if not self._live or self.said_plant is None:
            return self.history.readings
        return {name: Reading(v.value, v.quality, v.time_s, v.reason) for name, v in self.said_plant.values.items()}

    @property
    def now_s(self) -> float | None:
        """Plant time of the values shown, else of the plan. None while nothing is known."""
        if self._live and self.said_plant is not None and self.said_plant.time_s is not None:
            return self.said_plant.time_s
        stored = max((r.time_s for r in self.history.readings.values()), default=None)
        if stored is None and self.controller is not None and self.controller.plan_time_s > 0:
            return self.controller.plan_time_s
        return stored

    @property
    def plan(self) -> Prediction:
        """The controller's plan, as long as it is one for the present; else an empty one."""
        c, now = self.controller, self.now_s
        if c is None or now is None or self.old or not c.plan_time_s > 0:
            return Prediction()
        ahead_s = abs(c.plan_time_s - now)
        return c.prediction if ahead_s <= _PLAN_SAMPLES * self.spec.sample_time_s else Prediction()

    @property
    def margins(self) -> Mapping[str, Margin]:
        """Guardrails' margins; none from a controller whose own values are old."""
        c = self.controller
        if c is None or c.sample_age_s > _PLAN_SAMPLES * self.spec.sample_time_s:
            return {}
        return c.margins

    def status(self, tag: str) -> str:
        """The controller's word on a tag: ON, HELD, DROPPED, PREDICTED, BAD, AT HIGH, AT LOW. '' when it has none."""
        return self.controller.tag_status.get(tag, "") if self.controller is not None else ""

    @property
    def stepped(self) -> ClockStep | None:
        """A jump of the plant's clock that is still worth a banner."""
        return self.clock_step if self.clock_step is not None and self.clock_step.age_s < _STEP_SHOWN_S else None

    def target(self, tag: str) -> float | None:
        """The target in force, from the controller; None when it is away or the tag has none."""
        return self.controller.targets.get(tag) if self.controller is not None else None

    def zone(self, tag: str) -> tuple[float, float] | None:
        """The zone in force, from the controller: low and high, infinite where a side is open; None when it is away or the tag has
        none."""
        found = self.controller.zones.get(tag) if self.controller is not None else None
        if found is None:
            return None
        low, high = found
        return -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high

    def outside_zone(self, tag: str) -> str:
        """ABOVE ZONE or BELOW ZONE; '' inside, and where either is not known."""
        zone, reading = self.zone(tag), self.readings.get(tag)
        if zone is None or reading is None or self.old or not math.isfinite(reading.value):
            return ""
        return "ABOVE ZONE" if reading.value > zone[1] else "BELOW ZONE" if reading.value < zone[0] else ""

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
        reading, now = self.readings.get(tag.name), self.now_s
        if reading is None or now is None:
            return "no data"
        if self.old:
            return self.old
        if reading.quality is Quality.BAD or not math.isfinite(reading.value):
            return "bad"
        age, limit = now - reading.time_s, tag.stale_s or _STALE_SAMPLES * self.spec.sample_time_s
        if tag.scanned and abs(age) > limit:
            return f"stale, {duration(age)}" if age > 0 else f"stamped {duration(age)} ahead"
        return "uncertain" if reading.quality is Quality.UNCERTAIN else ""

    def state(self, tag: Tag) -> State:
        """Red past a guardrail of rank 1, amber past another or without a believable value. What is old has no state: that it
        is old is shown instead."""
        reading = self.readings.get(tag.name)
        if self.old:
            return State.NORMAL
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
    points += [v for z in view.spec.zones if z.tag == tag.name for v in z.limits]
    points += list(tag.move.limits) if tag.move else []
    low, high = min(points), max(points)
    if low == high:
        return tag.range
    room = (0.08 if tag.move else 0.4) * (high - low)
    return max(tag.range[0], low - room), min(tag.range[1], high + room)


def expected_margin(view: OperatorView, g: Guardrail, margin: Margin) -> float:
    """How near the plan itself comes to a limit, before any allowance for error. NaN without a plan."""
    plan = view.plan.tags.get(g.tag, ())
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
    """The tags a page trends unless told otherwise: CVs, whatever has a guardrail or a zone, MVs, then the other measurements."""
    guarded = {g.tag for g in spec.guardrails} | {z.tag for z in spec.zones}
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
