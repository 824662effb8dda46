"""The supervisor: the only code that decides what is written to MVs. Deterministic; no learning, no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from controllers.contracts import Mode, Status
from controllers.runtime.alarms import AlarmList, Event, Severity
from controllers.runtime.clamp import MoveClamp
from controllers.runtime.config import ControllerConfig
from controllers.runtime.fallback import Fallback
from controllers.runtime.gate import (
    CRITICAL_RANK,
    near_guardrails,
    past_guardrails,
    plan_blockers,
    plant_blockers,
    readbacks,
    said,
)
from controllers.runtime.observed import NOT_OURS, Action, Cause, Observed
from controllers.runtime.partial import PartialService
from controllers.runtime.quality import Inputs
from controllers.runtime.readback import ReadbackCheck
from controllers.runtime.shown import plan_conditions, plant_conditions
from controllers.runtime.signs import Signs
from controllers.runtime.trust import Trust
from plant.link import PlantMode, Receipt, Sample
from plant.spec import PlantSpec

_ACTIVE = (Mode.AUTO, Mode.MANUAL)


class Supervisor:
    """Modes, entry conditions, sheds, and the moves. `report` gets an `Event` for every transition.

    For each sample `look`, then `step`; `shed`, `lose`, `enter` and `wrote` in between. `doubts`: what speaks against the model
    from the start. `unknown`: MVs that it never saw move, and a sentence; they stay where they are.
    """

    def __init__(
        self,
        spec: PlantSpec,
        config: ControllerConfig,
        report: Callable[[Event], None],
        doubts: Sequence[str] = (),
        unknown: Mapping[str, str] | None = None,
    ) -> None:
        self._spec, self._config, self._report = spec, config.supervisor, report
        self._wire = ReadbackCheck(spec, self._config.readback_tolerance, 1.0 - config.loop.deadline_share)
        self.alarms = AlarmList(report)
        self.clamp = MoveClamp(spec, self._config.limit_ramp)
        self.partial = PartialService(spec, config.quality, self._config.rearm_samples, unknown)
        self.fallback = Fallback(spec, self._config)
        self.trust = Trust(doubts)
        self.signs = Signs(spec, self._config.heartbeat_samples)
        self.mode, self.target, self.reason = Mode.OFF, Mode.OFF, "just started"
        self.standing = ""  # who wants AUTO without being asked again; '' nobody
        self._owes = False  # the plant must be given back and has not confirmed it
        self._counts: dict[str, int] = {}
        self._last: Observed | None = None
        self._strayed: dict[str, str] = {}
        self._plan: list[dict[str, float]] = []
        self._by_hand: dict[str, float] = {}
        self._needs_grant = spec.handshake is not None and spec.handshake.granted is not None

    @property
    def holds_plant(self) -> bool:
        """Whether the plant is ours, so that our heartbeat must go on."""
        return self.mode in _ACTIVE or (self.mode is Mode.SHED and self.fallback.active and not self._owes)

    @property
    def active(self) -> bool:
        """Whether moves of the controller, or by hand through it, are sent."""
        return self.mode in _ACTIVE

    @property
    def owes_plant(self) -> bool:
        """Whether the plant must be asked for LOCAL; true until it is seen there."""
        return self._owes

    # Modes -----------------------------------------------------------------------------------------------------------

    def blockers(self, mode: Mode) -> list[str]:
        """Why `mode` cannot be entered now. Leaving the plant alone is never blocked."""
        if mode not in _ACTIVE:
            return []
        o = self._last
        if o is None or o.sample is None or o.inputs is None:
            return [f"the plant does not answer: {o.link_error if o else 'nothing read yet'}"]
        why = plant_blockers(self._spec, self._config, o, self.partial.unable) + self.signs.blockers
        if o.sample.mode is PlantMode.REMOTE and not self.holds_plant:
            other = "the plant is in REMOTE already: another controller holds it, wait until it lets go"
            why.append("the plant is just being given back" if self._owes else other)
        return why if mode is Mode.MANUAL else [*why, *plan_blockers(self._spec, self._config, o), *self.trust.blockers]

    def enter(self, mode: Mode, who: str, reason: str, time_s: float) -> None:
        """Change to a mode whose blockers are gone (for AUTO and MANUAL, after the plant granted REMOTE)."""
        if mode is Mode.SHED:
            return self.shed(Cause.OPERATOR, f"{who} asked for it{f': {reason}' if reason else ''}", time_s)
        held, now = self.holds_plant, readbacks(self._spec, self._last) if self._last is not None else {}
        if mode in _ACTIVE:
            self._owes = False
            if self.mode not in _ACTIVE:
                self.fallback.enter(now)
            self.partial.rearm()
        else:
            self._owes = self._owes or held
            self.fallback.leave()
        self.target, self.standing = mode, ""
        if mode is Mode.MANUAL:
            self._by_hand = now
        self._change(mode, f"{who}: {reason}" if reason else f"{who} selected {mode}", Severity.INFO, time_s)
        self.alarms.clear("shed", time_s)
        self.alarms.clear("restart", time_s)

    def shed(self, cause: Cause, text: str, time_s: float) -> None:
        """Give up AUTO or MANUAL now. Elsewhere nothing is held, and nothing happens."""
        if self.mode not in _ACTIVE:
            return
        o = self._last
        blind = o is not None and o.inputs is not None and o.inputs.blind
        self.fallback.begin(Cause.SCAN if blind else cause, readbacks(self._spec, o) if o is not None else {})
        self._owes = not self.fallback.ours and not self.fallback.active and cause is not Cause.OWNER
        automatic = self._config.return_to_auto == "automatic" and cause not in (
            Cause.OPERATOR,
            Cause.OWNER,
            Cause.STALL,
        )
        self.standing = "automatic" if automatic and self.mode is Mode.AUTO else ""
        to_return = "it returns to AUTO by itself" if self.standing else f"select {self.mode}"
        message = f"Shed from {self.mode}: {text}. {self.fallback.meaning}. To return: {cause.value}, then {to_return}."
        self._change(Mode.SHED, message, Severity.CRITICAL, time_s)
        self.alarms.raise_("shed", Severity.CRITICAL, message, time_s)

    def lose(self, cause: Cause, text: str, time_s: float) -> None:
        """We no longer hold the plant, whatever the mode: nothing more is written before a person says so."""
        self.shed(cause, text, time_s)
        if self.mode is Mode.SHED and self.fallback.active and (cause in NOT_OURS or not self.fallback.ours):
            self.fallback.stop()
            self._owes = cause is not Cause.OWNER and not self.fallback.ours
            self._report(Event(time_s, "mode", Severity.HIGH, f"Fallback ended: {text}. {self.fallback.meaning}."))

    def _change(self, mode: Mode, reason: str, severity: Severity, time_s: float) -> None:
        self._report(Event(time_s, "mode", severity, f"{self.mode} -> {mode}: {reason}"))
        self.mode, self.reason, self._plan = mode, reason, []
        self._wire.forget()
        self._strayed = {}
        for key in self._counts:
            if key.startswith(("late", "recovery", "near", "surprise", "readback", "auto")):
                self._counts[key] = 0

    def disown(self) -> None:
        """REMOTE was granted, but nobody wants it any more."""
        self._owes = self._owes or not self.holds_plant

    def want_auto(self, who: str) -> None:
        """A person's standing wish: enter AUTO once, as soon as its conditions are met."""
        self.target, self.standing = Mode.AUTO, who
        self.reason = f"{who} wants AUTO; waiting for its conditions"

    def recall(self, wish: Mode, why: str, time_s: float) -> None:
        """After a restart that a person has to look at: the wish of before is shown, and waits."""
        stood = ", ".join(f"{mv} {value:.5g}" for mv, value in self.fallback.before_auto.items())
        self.target, self.reason = (
            wish,
            f"{why}; AUTO waits for a person{f'. Before AUTO stood {stood}' if stood else ''}",
        )
        self.alarms.raise_("restart", Severity.HIGH, self.reason[:1].upper() + self.reason[1:], time_s)

    # One sample ------------------------------------------------------------------------------------------------------

    def look(self, sample: Sample, inputs: Inputs) -> None:
        """Before anything is decided on a sample: which MVs are ours to move."""
        now = {t.name: inputs.values.get(t.name, math.nan) for t in self._spec.mvs}
        self._strayed = self._wire.strays(now, sample.time_s)
        for mv in now:
            self._count(f"readback:{mv}", mv in self._strayed)
        self.partial.follow(sample, inputs, self._strayed_for_long())

    def step(self, o: Observed) -> Action:
        """Judge a sample, change the mode if it must change, and say what to write."""
        self._last = o
        if o.sample is not None and (o.sample.mode is not PlantMode.REMOTE or o.sample.owned is False):
            self._owes = False
        self._count_up(o)
        self._show(o)
        self.fallback.see(readbacks(self._spec, o))
        if lost := self._lost_hold(o):
            self.lose(*lost, o.time_s)
        elif self.mode in _ACTIVE and (found := self._input_cause(o) or self._plan_cause(o)):
            self.shed(*found, o.time_s)
        if self.mode is Mode.SHED and self.fallback.active:
            self.fallback.advance(readbacks(self._spec, o))
            self._owes = self._owes or not self.fallback.active
        return Action({} if lost else self._moves(o), self._may_enter_auto())

    def wrote(self, receipt: Receipt, time_s: float) -> None:
        """What became of the moves. A refusal sheds; an optional MV drops out alone while others are taken."""
        refused = dict(receipt.rejected)
        if self.mode in _ACTIVE and self.partial.refused(refused, self._wire.sent):
            return
        if refused:
            listed = "; ".join(f"{mv}: {why}" for mv, why in refused.items())
            self.lose(Cause.WRITE, f"the plant refused a move ({listed})", time_s)

    def hand_move(self, mv: str, value: float) -> str:
        """An operator's move in MANUAL, sent with the next sample. Returns '' or why not."""
        if self.mode is not Mode.MANUAL:
            return f"moves by hand need MANUAL; the mode is {self.mode}"
        limits = self.clamp.asked.get(mv)
        if limits is None:
            return f"{mv} is not an MV; the MVs are {', '.join(self.clamp.asked)}"
        if why := self.partial.dropped.get(mv):
            return f"{mv} is not ours to move: {why}"
        if not (math.isfinite(value) and limits[0] <= value <= limits[1]):
            return f"{value:g} is outside the limits [{limits[0]:g}, {limits[1]:g}] of {mv}"
        self._by_hand[mv] = value
        return ""

    # Moves -----------------------------------------------------------------------------------------------------------

    def _moves(self, o: Observed) -> dict[str, float]:
        """What is written: nothing unless the plant is ours and the read-backs are known."""
        if o.sample is None or o.inputs is None:
            return {}
        now = readbacks(self._spec, o)
        self.clamp.ramp(now)
        if o.sample.mode is PlantMode.LOCAL or o.sample.owned is False or (o.sample.mode is None and self._needs_grant):
            return {}
        if o.standing or o.unsettled or o.inputs.blind:  # what may be old: if it lasts it sheds; nothing is done on it
            return {}
        wanted, to_safety = self._wanted(o, now)
        mine = {mv: v for mv, v in wanted.items() if mv not in self.partial.dropped and mv not in self.partial.unable}
        if not mine or not all(math.isfinite(v) and math.isfinite(now[mv]) for mv, v in mine.items()):
            return {}
        moves = self.clamp.apply(mine, now, to_safety)
        self._wire.send(moves, now, o.sample.time_s)
        return moves

    def _wanted(self, o: Observed, now: Mapping[str, float]) -> tuple[Mapping[str, float], bool]:
        """The moves before the clamp, and whether they are the way to the safe side, which operator limits do not bar."""
        if self.mode is Mode.MANUAL:
            return self._by_hand, False
        if self.mode is Mode.SHED and self.fallback.active:
            goals = self.fallback.goals
            return {mv: goals[mv] for mv in self.fallback.away(now)}, True
        if self.mode is not Mode.AUTO:
            return {}, False
        if self._strayed.keys() - self.partial.dropped.keys():
            return self._wire.sent, True  # once more the same: a controller that gives in would hide a stuck MV
        if o.decision is not None:
            names, status = [t.name for t in self._spec.mvs], o.decision.status[0]
            self._plan = [dict(zip(names, map(float, step), strict=True)) for step in o.decision.plan[0]]
            # A plan that breaks a guardrail by much is no better than what the fallback would do.
            if self._counts["recovery"] and status is not Status.FALLBACK:
                self._plan = []
                return {t.name: t.move.safe for t in self._spec.mvs if t.move is not None}, True
            return self._plan[0], status in (Status.RECOVERY, Status.FALLBACK)
        self._plan = self._plan[1:]  # no plan in time: the next move of the last one, then hold
        return self._plan[0] if self._plan else self._wire.sent or now, False

    # Causes ----------------------------------------------------------------------------------------------------------

    def _count(self, key: str, present: bool) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1 if present else 0

    def _count_up(self, o: Observed) -> None:
        self._count("lost", o.sample is None)
        self.signs.follow(o.sample)
        if o.sample is None:
            return
        if o.surprise is not None:
            self.trust.watch(cold=not o.surprise.judged)
        self._count("late", o.late)
        d = o.decision
        broken = d is not None and d.status[0] is Status.RECOVERY and d.violation[0] > self._config.recovery_violation
        self._count("recovery", broken or (d is not None and d.status[0] is Status.FALLBACK))
        self._count("near", bool(near_guardrails(self._spec, self._config, o)))
        self._count("surprise", o.surprise is not None and o.surprise.score > self._config.surprise_to_shed)
        past = [g.name for g, _ in past_guardrails(self._spec, o)]
        for g in self._spec.guardrails:
            self._count(f"guardrail:{g.name}", g.name in past)

    def _lost_hold(self, o: Observed) -> tuple[Cause, str] | None:
        """Why the plant is not, or not to be taken for, ours any more, gravest first. Asked in SHED too while we hold it."""
        if not self.holds_plant:
            return None
        if self._counts["lost"] >= self._config.lost_samples:
            return Cause.LINK, f"the plant does not answer ({o.link_error})"
        if o.sample is None:
            return None
        if o.held and o.sample.owned is False:
            return Cause.OWNER, "somebody else holds the plant (handshake.owner)"
        if o.held and o.sample.mode is PlantMode.LOCAL:
            return Cause.LOCAL, "the plant went to LOCAL by itself (its watchdog, its power, or somebody there)"
        if o.held and self.signs.unknown:
            return Cause.HANDSHAKE, self.signs.unknown
        if self.signs.dead:
            return Cause.HEARTBEAT, self.signs.still
        if o.scan:
            return Cause.SCAN, o.scan
        return (Cause.CLOCK, o.step) if o.step else None

    def _input_cause(self, o: Observed) -> tuple[Cause, str] | None:
        """What is wrong with the readings and with what takes our moves."""
        if o.sample is None or o.inputs is None:
            return None
        needed = [t.name for t in self._spec.mvs if t.move is not None and not t.move.optional]
        lost = [f.text for f in o.inputs.disabling if self.mode is Mode.AUTO or f.tag in needed]
        now, dropped = readbacks(self._spec, o), self.partial.dropped
        lost += [f"{mv} has no read-back" for mv, v in now.items() if not math.isfinite(v) and mv not in dropped]
        if self.mode is Mode.AUTO:
            # What becomes of a dropped MV must be known, and a guardrail must be seen.
            lost += [f"{mv} has no read-back" for mv in dropped if not math.isfinite(now[mv])]
            given_up = self.partial.given_up(o.inputs)
            lost += [f"{g.tag} can no longer be seen ({g.name})" for g in self._spec.guardrails if g.tag in given_up]
        if lost:
            return Cause.INPUT, "; ".join(dict.fromkeys(lost))
        if away := [why for mv, why in self.partial.unable.items() if mv in needed]:
            return Cause.LOOP, "; ".join(away)
        if dropped and len(dropped) == len(now):
            return Cause.LOOP, "every MV has dropped out"
        if strays := [text for mv, text in self._strayed_for_long().items() if mv in needed]:
            return Cause.READBACK, "; ".join(strays)
        return None

    def _plan_cause(self, o: Observed) -> tuple[Cause, str] | None:
        if self.mode is not Mode.AUTO or o.sample is None:
            return None
        c, n = self._config, self._counts
        for g, text in past_guardrails(self._spec, o):
            if g.rank <= CRITICAL_RANK or n[f"guardrail:{g.name}"] >= c.guardrail_samples:
                return Cause.GUARDRAIL, text
        if n["near"] >= c.guardrail_samples:
            return Cause.GUARDRAIL, "; ".join(near_guardrails(self._spec, c, o))
        if o.defect:
            return Cause.ANSWER, o.defect
        if n["late"] >= c.late_plans:
            return Cause.LATE, f"{n['late']} plans in a row were late"
        if o.decision is not None and o.decision.status[0] is Status.INFEASIBLE:
            return Cause.INFEASIBLE, f"the planner found no answer at all{said(o.decision)}"
        if n["recovery"] >= c.recovery_samples:
            text = f"{n['recovery']} plans in a row broke a guardrail by too much, or were the standby's"
            return Cause.RECOVERY, text
        if n["surprise"] >= c.surprise_samples:
            text = o.surprise.text if o.surprise is not None else ""
            return Cause.SURPRISE, f"the model was surprised for {n['surprise']} samples ({text})"
        return None

    def _may_enter_auto(self) -> bool:
        if not self.standing or self.mode is Mode.AUTO:
            return False
        blockers = self.blockers(Mode.AUTO)
        if self.mode is not Mode.SHED:
            self.reason = f"{self.standing} wants AUTO; it waits: {'; '.join(blockers)}"
        self._count("auto", not blockers)
        return self._counts["auto"] >= (self._config.return_samples if self.mode is Mode.SHED else 1)

    def _strayed_for_long(self) -> dict[str, str]:
        longest = self._config.readback_samples
        return {mv: text for mv, text in self._strayed.items() if self._counts[f"readback:{mv}"] >= longest}

    def _show(self, o: Observed) -> None:
        for key, severity, text in (
            *plant_conditions(self._spec, o, self.partial, self.signs),
            *plan_conditions(self._config, o, self._strayed, self.trust),
        ):
            self.alarms.set(key, bool(text), severity, text, o.time_s)
