"""`Guest`: an identification test that turns back in time. It sees readings and answers with moves; it does no I/O, keeps no clock,
and is the same on a live plant and in lock-step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from homeostat.heading import Heading
from homeostat.identification import TestPlan, move_of, wave
from plant.spec import Guardrail, PlantSpec, Tag

_PROBES = (0.25, -0.5)  # of the step and back again, before a test begins in earnest
_SEEN_BY = 6  # holds after which a probe ends though it is not seen in every guardrail's tag; else after one
_CAUTION = 2  # holds a response is given to turn round where neither a probe nor anybody tells; one where somebody did
_PATIENCE = 20  # holds after a turn that the plant may take to come to rest, or to come back inside
_SLOWER = 1.25  # how much further than in a probe a tag may go on after a turn
_MOVES, _RESTS = 4.0, 2.0  # standard deviations of a slope from which on a tag moves, and below which it rests
_SURE = 1.0  # standard deviations by which a heading must pass a test limit


@dataclass
class _Probe:
    """A small move, of `size` steps from `since_s` on (None: the MVs were on their way already), and back: how far each tag goes on
    after the turn at `turned_s`, for each unit of the slope it had then. `at` keeps level and slope at the turn of the tags that
    moved, `worst` how far they went on."""

    size: float | None
    since_s: float = 0.0
    turned_s: float = 0.0
    at: dict[str, tuple[float, float]] | None = None
    worst: dict[str, float] = field(default_factory=dict)


class Phase(StrEnum):
    """`watching` before the first move, `testing`, `returning` to where the MVs stood, `waiting` there until the plant is
    well inside its test limits again, `done`."""

    WATCHING = "watching"
    TESTING = "testing"
    RETURNING = "returning"
    WAITING = "waiting"
    DONE = "done"


def tolerance(tag: Tag) -> float:
    """Within what of its start an MV counts as put back (its unit): a tenth of a hundredth of its limits, or its resolution."""
    return max(1e-3 * move_of(tag).span, tag.resolution)


class Guest:
    """One test on one plant.

    **Arguments:**

    - `plan`: what is moved, and how.
    - `start`: where each MV stands (its unit). Every MV goes back there at its rate, whatever ends the test.
    - `time_s`: plant time now. The first looks only watch.
    - `go_on`: after a turn at a test limit, wait until the plant is inside again and go on with half the step.

    `look` is called every `plan.look_s` plant seconds; after it `phase`, `reason` (why it turned back last, '' before) and
    `failed` (whether the test was not carried through) say how it stands. `turns` counts the times it turned back at a test
    limit.
    """

    def __init__(
        self, spec: PlantSpec, plan: TestPlan, start: Mapping[str, float], time_s: float, go_on: bool = False
    ) -> None:
        self._spec, self._plan, self._go_on = spec, plan, go_on
        self._tags = {t.name: t for t in spec.mvs}
        self._start = {test.mv: start[test.mv] for test in plan.tests}
        self._asked = dict(self._start)
        self._rails = [g for g in spec.guardrails if g.tag in {t.name for t in spec.online}]
        self._hold_s = max(test.hold_s for test in plan.tests)
        window_s = min(max(3 * spec.sample_time_s, self._hold_s / 2), 20 * plan.look_s)
        self._headings = {
            g.tag: Heading(spec.tag(g.tag), window_s, plan.look_s, spec.sample_time_s) for g in self._rails
        }
        self._begin_s = time_s + max((h.window_s for h in self._headings.values()), default=0.0)
        samples = round(plan.group_s / spec.sample_time_s)
        rng = np.random.default_rng(np.random.SeedSequence([plan.seed, 0xE7C17E]))
        self._waves = {t.mv: wave(t, plan.form, samples, spec.sample_time_s, rng) for t in plan.tests}
        self._samples, self._group, self._drawn = samples, -1, -1
        self._size = dict.fromkeys(self._waves, 1.0)
        self._since_s = self._last_s = time_s
        self._goes_on_s: dict[
            str, list[float]
        ] = {}  # tag -> seconds of its slope that it goes on after a turn, by probe
        self._probes: list[_Probe] = []
        self.phase, self.reason, self.failed, self.turns = Phase.WATCHING, "", False, 0

    @property
    def moved(self) -> bool:
        """Whether any MV was asked to leave where it stood."""
        return any(value != self._start[mv] for mv, value in self._asked.items())

    @property
    def left(self) -> dict[str, float]:
        """Where each MV of the test was last asked to stand."""
        return dict(self._asked)

    def turn_back(self, reason: str, failed: bool = True) -> None:
        """End the test for a reason from outside: every MV goes back, and stays."""
        if self.phase is not Phase.DONE:
            self._back(reason, failed, for_good=True)

    def give_up(self, reason: str) -> None:
        """The MVs are not ours any more, or cannot be reached: nothing more is asked of them."""
        self.phase, self.reason, self.failed = Phase.DONE, reason, True

    def look(self, time_s: float, values: Mapping[str, float]) -> dict[str, float]:
        """What was read at plant time `time_s` (tag -> value, NaN where none can be believed) -> the moves to write now, in the
        MVs' units, ramped; {} where nothing is to be written."""
        elapsed_s, self._last_s = min(max(time_s - self._last_s, 0.0), 2 * self._plan.look_s), time_s
        for tag, heading in self._headings.items():
            heading.see(time_s, values.get(tag, np.nan))
        if self.phase in (Phase.WATCHING, Phase.TESTING, Phase.WAITING) and (near := self._near()):
            if self.phase is Phase.WATCHING:
                self._back(f"{near} before anything was moved", True, for_good=True)
            elif self.phase is Phase.TESTING:
                self.turns += 1
                self._back(near, not self._go_on, for_good=not self._go_on)
        if self.phase is Phase.WATCHING and time_s >= self._begin_s - 1e-6:
            self.phase = Phase.TESTING
            self._next_group(time_s)
        if self.phase is Phase.WAITING:
            self._wait(time_s)
        if self.phase is Phase.TESTING:
            return self._test(time_s)
        return self._return(time_s, elapsed_s, values) if self.phase is Phase.RETURNING else {}

    def _back(self, reason: str, failed: bool, *, for_good: bool) -> None:
        self._for_good = for_good or (self.phase is Phase.RETURNING and self._for_good)
        if self.phase is not Phase.RETURNING:
            self._since_s = self._last_s
        if not (self.failed and self.reason):
            self.reason, self.failed = reason, failed
        self.phase = Phase.RETURNING

    def _near(self) -> str:
        """Which test limit is reached or headed for, in words; '' where none is."""
        for g in self._rails:
            heading, limit = self._headings[g.tag], self._spec.test_limit(g)
            trends, unit = heading.trends(), self._spec.tag(g.tag).unit
            level = min([heading.latest, *(t.level for t in trends[:1])], key=lambda v: g.sign * v)
            if g.sign * (level - limit) >= 0 or g.margin(heading.latest) <= 0:
                return f"{g.tag} at {level:.4g} {unit} is at the test limit {limit:.4g} {unit} of {g.name}"
            if not self.moved and self.phase is not Phase.WATCHING:
                continue  # nothing can be turned back
            for trend in trends:
                ahead_s = self._turn_s(g, trend.span_s)
                there = trend.ahead(ahead_s, g.sign, _SURE)
                if g.sign * trend.slope > 0 and g.sign * there >= g.sign * limit:
                    return (
                        f"{g.tag} at {trend.level:.4g} {unit} is heading for {there:.4g} {unit} within {ahead_s:.0f} s, past"
                        f" the test limit {limit:.4g} {unit} of {g.name}"
                    )
        return ""

    def _turn_s(self, g: Guardrail, span_s: float) -> float:
        """How many seconds of its slope a guardrail's tag would go on if every MV turned round now: until we look and act, until
        it shows in a line over `span_s`, while the MVs go back, and while the response itself turns. That is probed; unknown, it
        is a hold, or two where nobody said how slow the plant is."""
        back_s = max(
            (abs(at - self._start[mv]) / move_of(self._tags[mv]).rate_per_s for mv, at in self._asked.items()),
            default=0.0,
        )
        shown_s = self._plan.look_s + span_s / 2 + self._spec.tag(g.tag).dead_time_s + back_s / 2
        group = self._plan.groups[max(self._group, 0)]
        supposed_s = max((1 if test.known else _CAUTION) * test.hold_s for test in group)
        if probed := self._goes_on_s.get(g.tag):
            # Probes go both ways: what drifts by itself makes one of them look slower, and another faster.
            goes_on_s = float(np.exp(np.mean(np.log(np.maximum(probed, self._plan.look_s)))))
            return max(shown_s, back_s / 2 + max(supposed_s / 2, _SLOWER * goes_on_s))
        return shown_s + supposed_s

    def _next_group(self, time_s: float) -> None:
        """Begin with the next MVs: another response, and other probes."""
        self._group, self._drawn, self._begin_s = self._group + 1, -1, time_s
        self._goes_on_s = {}
        self._probes = [_Probe(size) for size in _PROBES]

    def _test(self, time_s: float) -> dict[str, float]:
        """The moves of a test: probes first, then its signal on the sample grid."""
        if self._probes:
            return self._probe(time_s)
        if any(t.sure > _MOVES for tag in self._unknown() for t in self._headings[tag].trends()):
            self._probes.append(_Probe(None))  # it moves for the first time: see how it turns before going on
            return self._probe(time_s)
        sample_s = self._spec.sample_time_s
        drawn = int((time_s - self._begin_s + 1e-6) // sample_s)
        if drawn >= self._samples:
            if self._group + 1 < len(self._plan.groups):
                self._next_group(time_s)
            else:
                self._back("", False, for_good=True)
            return self._ramp({}, 0.0)
        if drawn == self._drawn:
            return {}
        self._drawn = drawn
        return self._ramp(self._at({t.mv: self._waves[t.mv][drawn] for t in self._plan.groups[self._group]}), sample_s)

    def _at(self, waves: Mapping[str, float]) -> dict[str, float]:
        """The values of the MVs of this group for waves in [-1, 1]."""
        return {
            test.mv: test.towards(
                self._start[test.mv], move_of(self._tags[test.mv]), self._size[test.mv] * waves[test.mv]
            )
            for test in self._plan.groups[self._group]
        }

    def _unknown(self) -> list[str]:
        """Tags of which no probe has told yet how they turn."""
        return [tag for tag in self._headings if tag not in self._goes_on_s]

    def _probe(self, time_s: float) -> dict[str, float]:
        """Out for a hold, back, and wait until everything rests."""
        probe, group = self._probes[0], self._plan.groups[self._group]
        hold_s = max(test.hold_s for test in group)
        trends = {tag: h.trends() for tag, h in self._headings.items()}
        seen = {
            tag: max(some, key=lambda t: t.sure) for tag, some in trends.items() if any(t.sure > _MOVES for t in some)
        }
        probe.since_s = probe.since_s or time_s
        out_s = time_s - probe.since_s
        if (
            probe.at is None
            and probe.size
            and (out_s < hold_s or (out_s < _SEEN_BY * hold_s and len(seen) < len(trends)))
        ):
            # A discrete MV has no smaller step than its next level.
            size = {t.mv: float(np.sign(probe.size)) if t.levels else probe.size for t in group}
            return self._ramp(self._at(size), self._plan.look_s)
        if probe.at is None:
            probe.turned_s, probe.at = time_s, {tag: (t.level, t.slope) for tag, t in seen.items()}
        for tag, (level, slope) in probe.at.items():
            if trends[tag]:
                further = float(np.sign(slope)) * (trends[tag][0].level - level) / abs(slope)
                probe.worst[tag] = max(probe.worst.get(tag, 0.0), further)
        rests = all(t.sure < _RESTS for tag in probe.at for t in trends[tag])
        waited_s = time_s - probe.turned_s
        if not self.moved and (waited_s > _PATIENCE * hold_s or (rests and waited_s >= hold_s)):
            for tag, further_s in probe.worst.items():
                self._goes_on_s.setdefault(tag, []).append(further_s)
            self._probes.pop(0)
            if not self._probes and self._drawn < 0:
                self._begin_s = time_s
            elif not self._probes:
                self._begin_s += time_s - probe.turned_s  # the signal goes on where it was
        return self._ramp({}, self._plan.look_s)

    def _ramp(self, wanted: Mapping[str, float], seconds: float) -> dict[str, float]:
        """One step of every MV towards what is wanted of it, else to where it stood, as far as its rate lets it go."""
        for mv, start in self._start.items():
            move = move_of(self._tags[mv])
            target, step = wanted.get(mv, start), move.reach(seconds)
            if move.discrete or abs(target - self._asked[mv]) <= step:
                self._asked[mv] = target
            else:
                self._asked[mv] += float(np.sign(target - self._asked[mv])) * step
        return dict(self._asked)

    def _return(self, time_s: float, elapsed_s: float, values: Mapping[str, float]) -> dict[str, float]:
        """One step of the way back, until every MV reads what it read at the start."""
        home = not self.moved
        off = {
            mv: values.get(mv, np.nan)
            for mv in self._asked
            if not abs(values.get(mv, np.nan) - self._start[mv]) <= tolerance(self._tags[mv])
        }
        if home and not off:
            self.phase = Phase.DONE if self._for_good else Phase.WAITING
            self._since_s = time_s
            return {}
        slowest_s = max(move_of(self._tags[mv]).span / move_of(self._tags[mv]).rate_per_s for mv in self._asked)
        if time_s - self._since_s > 2 * slowest_s + 10 * self._spec.sample_time_s:
            stands = ", ".join(f"{mv} reads {at:g}, not {self._start[mv]:g} as before" for mv, at in off.items())
            self.phase, self.failed = Phase.DONE, True
            self.reason = f"{self.reason or 'the test is over'}; not put back: {stands}"
            return {}
        return self._ramp({}, elapsed_s)

    def _wait(self, time_s: float) -> None:
        """After a turn: go on with half the step once the plant is well inside again, or give up."""
        if time_s - self._since_s > _PATIENCE * self._hold_s:
            self._back(f"{self.reason}, and did not come back inside", True, for_good=True)
            self.failed = True
        elif time_s - self._since_s >= self._hold_s and all(self._inside(g) for g in self._rails):
            for test in self._plan.groups[self._group]:
                self._size[test.mv] *= 0.5
            self.phase = Phase.TESTING

    def _inside(self, g: Guardrail) -> bool:
        limit, trends = self._spec.test_limit(g), self._headings[g.tag].trends()
        clear = all(
            g.sign * (limit - t.ahead(self._turn_s(g, t.span_s), g.sign, -_SURE)) > 0
            and g.sign * (limit - t.level) > self._spec.scale(g) + 2 * t.level_sd
            for t in trends
        )
        return bool(trends) and clear
