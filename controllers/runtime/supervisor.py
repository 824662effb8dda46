"""The supervisor: the only code that decides what is written to MVs. Deterministic; no learning, no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controllers.contracts import Decision, Mode, Status
from controllers.runtime.alarms import AlarmList, Event, Severity
from controllers.runtime.clamp import MoveClamp
from controllers.runtime.config import ControllerConfig
from controllers.runtime.quality import Inputs
from controllers.runtime.readback import ReadbackCheck
from controllers.runtime.surprised import Surprised
from plant.link import PlantMode, Receipt, Sample
from plant.spec import Guardrail, PlantSpec


class Cause(StrEnum):
    """Why AUTO or MANUAL was given up; the value tells the operator what to do before returning."""

    LINK = "restore the connection to the plant"
    HEARTBEAT = "see why the plant's own scan stands still"
    LOCAL = "see at the plant why it took the MVs"
    INPUT = "repair the measurement"
    GUARDRAIL = "bring the plant back inside its limits"
    READBACK = "see what holds the MV (an interlock, a stuck actuator, another user)"
    WRITE = "see why the plant refuses moves"
    ANSWER = "see the controller's log; its answers must be sound again"
    LATE = "see what slows the controller down"
    INFEASIBLE = "wait until a plan exists; check targets and limits"
    RECOVERY = "wait until plans keep every guardrail; check targets and limits"
    SURPRISE = "wait until predictions match the plant again, or retrain the model"
    INTERNAL = "see the controller's log and report the fault"
    OPERATOR = "nothing else"


@dataclass(frozen=True)
class Observed:
    """What one sample brought. `sample` and `inputs` are None when the plant did not answer (`link_error` says why).
    `decision` is None when there is no usable plan; then `late` or `defect` says why, or nothing was asked. `speed_fault`:
    plant time does not run at the clock's rate. `held`: whether the plant was ours when the sample was read. `surprise`: None
    where nothing watches."""

    time_s: float
    sample: Sample | None = None
    inputs: Inputs | None = None
    decision: Decision | None = None
    late: bool = False
    defect: str = ""
    link_error: str = ""
    speed_fault: str = ""
    held: bool = True
    surprise: Surprised | None = None


@dataclass(frozen=True)
class Action:
    """What the loop must do now: `moves` to write (empty: none); `enter_auto`: ask the plant for REMOTE and enter AUTO,
    because a person's standing wish, or the configuration, allows it."""

    moves: Mapping[str, float] = field(default_factory=dict)
    enter_auto: bool = False


_ACTIVE = (Mode.AUTO, Mode.MANUAL)
_CRITICAL_RANK = 1  # the guardrails of this rank are never tolerated past their limit
_MEANING = {
    "regulatory": "The plant's own loops have the MVs",
    "hold": "The MVs stay where they are",
    "safe": "The MVs go to their safe values",
}


class Supervisor:
    """Modes, entry conditions, sheds, and the moves. `report` gets an `Event` for every transition.

    One `step` a sample; `shed`, `enter` and `wrote` in between. `alarms` and `clamp` may be shared for display.
    """

    def __init__(self, spec: PlantSpec, config: ControllerConfig, report: Callable[[Event], None]) -> None:
        self._spec, self._config, self._report = spec, config.supervisor, report
        self._wire = ReadbackCheck(spec, self._config.readback_tolerance, 1.0 - config.loop.deadline_share)
        self.alarms = AlarmList(report)
        self.clamp = MoveClamp(spec, self._config.limit_ramp)
        self.mode, self.target, self.reason = Mode.OFF, Mode.OFF, "just started"
        self.standing = False  # enter AUTO without being asked again
        self._owes = False  # the plant must be given back and has not confirmed it
        self._counts: dict[str, int] = {}
        self._last: Observed | None = None
        self._beat: float | None = None
        self._beats_seen = 0
        self._plan: list[dict[str, float]] = []
        self._by_hand: dict[str, float] = {}

    @property
    def holds_plant(self) -> bool:
        """Whether the plant is ours, so that our heartbeat must go on."""
        fallback_is_ours = self._config.fallback != "regulatory"
        return self.mode in _ACTIVE or (self.mode is Mode.SHED and fallback_is_ours and not self._owes)

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
        why = [f"the read-back of {mv} is missing" for mv, v in self._readback(o).items() if not math.isfinite(v)]
        if o.sample.heartbeat is not None and (self._counts.get("heartbeat") or self._beats_seen < 2):
            why.append("the plant's heartbeat has not been seen to move")
        if o.sample.mode is PlantMode.REMOTE and not (self.holds_plant or self._owes):
            why.append("the plant is in REMOTE already: another controller holds it, wait until it lets go")
        if o.sample.mode is None and self._config.fallback == "regulatory":
            why.append("the plant has no regulatory layer to shed to: configure supervisor.fallback as hold or safe")
        if mode is Mode.MANUAL:
            return why
        why += [f.text for f in o.inputs.faults if f.critical]
        why += [text for _, text in self._past_guardrails(o)]
        why += [o.speed_fault] if o.speed_fault else []
        d = o.decision
        if d is None:
            late = "the last plan was late" if o.late else "there is no plan yet: select ADVISORY first"
            return [*why, o.defect or late]
        if d.status[0] not in (Status.OPTIMAL, Status.FEASIBLE):
            why.append(f"the plan is {d.status[0]}{_said(d)}")
        if o.surprise is not None and o.surprise.score > self._config.surprise_to_enter:
            why.append(
                f"the model is surprised ({o.surprise.text}), at most {self._config.surprise_to_enter:g} is allowed"
            )
        return why

    def enter(self, mode: Mode, who: str, reason: str, time_s: float) -> None:
        """Change to a mode whose blockers are gone (for AUTO and MANUAL, after the plant granted REMOTE)."""
        if mode is Mode.SHED:
            return self.shed(Cause.OPERATOR, f"{who} asked for it{f': {reason}' if reason else ''}", time_s)
        if (self.mode in _ACTIVE and mode not in _ACTIVE) or (self.mode is Mode.SHED and self.holds_plant):
            self._owes = mode not in _ACTIVE
        elif mode in _ACTIVE:
            self._owes = False
        self.target, self.standing = mode, False
        if mode is Mode.MANUAL and self._last is not None:
            self._by_hand = self._readback(self._last)
        self._change(mode, f"{who}: {reason}" if reason else f"{who} selected {mode}", Severity.INFO, time_s)
        self.alarms.clear("shed", time_s)

    def shed(self, cause: Cause, text: str, time_s: float) -> None:
        """Give up AUTO or MANUAL now. Elsewhere nothing is held, and nothing happens."""
        if self.mode not in _ACTIVE:
            return
        self._owes = self._config.fallback == "regulatory"
        automatic = self._config.return_to_auto == "automatic" and cause is not Cause.OPERATOR
        self.standing = automatic and self.mode is Mode.AUTO
        to_return = "it returns to AUTO by itself" if self.standing else f"select {self.mode}"
        message = f"Shed from {self.mode}: {text}. {_MEANING[self._config.fallback]}. To return: {cause.value}, then {to_return}."
        self._change(Mode.SHED, message, Severity.CRITICAL, time_s)
        self.alarms.raise_("shed", Severity.CRITICAL, message, time_s)

    def _change(self, mode: Mode, reason: str, severity: Severity, time_s: float) -> None:
        self._report(Event(time_s, "mode", severity, f"{self.mode} -> {mode}: {reason}"))
        self.mode, self.reason, self._plan = mode, reason, []
        self._wire.forget()
        for key in ("late", "recovery", "surprise", "readback", "auto"):
            self._counts[key] = 0

    def disown(self) -> None:
        """REMOTE was granted, but nobody wants it any more."""
        self._owes = self._owes or not self.holds_plant

    def want_auto(self, who: str) -> None:
        """A person's standing wish: enter AUTO once, as soon as its conditions are met."""
        self.target, self.standing = Mode.AUTO, True
        self.reason = f"{who} wants AUTO; waiting for its conditions"

    # One sample ------------------------------------------------------------------------------------------------------

    def step(self, o: Observed) -> Action:
        """Judge a sample, change the mode if it must change, and say what to write."""
        self._last = o
        if o.sample is not None and o.sample.mode is not PlantMode.REMOTE:
            self._owes = False
        self._count_up(o)
        self._show(o)
        if self.mode in _ACTIVE and (found := self._cause(o)):
            self.shed(*found, o.time_s)
        moves: dict[str, float] = {}
        if o.sample is not None and o.inputs is not None:
            readback = self._readback(o)
            self.clamp.ramp(readback)
            wanted = self._wanted(o) if o.sample.mode is not PlantMode.LOCAL else {}
            if wanted and all(math.isfinite(v) for v in [*readback.values(), *wanted.values()]):
                moves = self.clamp.apply(wanted, readback)
                self._wire.send(moves, readback, o.sample.time_s)
        return Action(moves, self._may_enter_auto())

    def wrote(self, receipt: Receipt, time_s: float) -> None:
        """What became of the moves: a refusal sheds."""
        if not receipt.ok:
            listed = "; ".join(f"{mv}: {why}" for mv, why in receipt.rejected.items())
            self.shed(Cause.WRITE, f"the plant refused a move ({listed})", time_s)

    def hand_move(self, mv: str, value: float) -> str:
        """An operator's move in MANUAL, sent with the next sample. Returns '' or why not."""
        if self.mode is not Mode.MANUAL:
            return f"moves by hand need MANUAL; the mode is {self.mode}"
        limits = self.clamp.asked.get(mv)
        if limits is None:
            return f"{mv} is not an MV; the MVs are {', '.join(self.clamp.asked)}"
        if not (math.isfinite(value) and limits[0] <= value <= limits[1]):
            return f"{value:g} is outside the limits [{limits[0]:g}, {limits[1]:g}] of {mv}"
        self._by_hand[mv] = value
        return ""

    def _wanted(self, o: Observed) -> dict[str, float]:
        """The moves before the clamp."""
        safe = {t.name: t.move.safe for t in self._spec.mvs if t.move is not None}
        if self.mode is Mode.MANUAL:
            return self._by_hand
        if self.mode is Mode.SHED and self._config.fallback == "safe":
            return safe
        if self.mode is not Mode.AUTO:
            return {}
        if self._counts["readback"]:  # ask once more for the same: a controller that gives in would hide a stuck MV
            return self._wire.sent
        if o.decision is not None:
            names = [t.name for t in self._spec.mvs]
            self._plan = [dict(zip(names, map(float, step), strict=True)) for step in o.decision.plan[0]]
            fallback = o.decision.status[0] is Status.FALLBACK  # the standby controller's own move
            # A plan that breaks a guardrail by much is no better than what the fallback would do.
            if self._counts["recovery"] and not fallback:
                self._plan = []
                return safe
            return self._plan[0]
        self._plan = self._plan[1:]  # no plan in time: the next move of the last one, then hold
        return self._plan[0] if self._plan else self._wire.sent or self._readback(o)

    def _count_up(self, o: Observed) -> None:
        def count(key: str, present: bool) -> None:
            self._counts[key] = self._counts.get(key, 0) + 1 if present else 0

        count("lost", o.sample is None)
        if o.sample is None:
            self._beats_seen = 0
            return
        beat = o.sample.heartbeat
        count("heartbeat", beat is not None and beat == self._beat)
        self._beats_seen += beat != self._beat
        self._beat = beat
        count("readback", bool(self._strayed(o)))
        count("late", o.late)
        d = o.decision
        broken = d is not None and d.status[0] is Status.RECOVERY and d.violation[0] > self._config.recovery_violation
        count("recovery", broken or (d is not None and d.status[0] is Status.FALLBACK))
        count("surprise", o.surprise is not None and o.surprise.score > self._config.surprise_to_shed)
        past = [g.name for g, _ in self._past_guardrails(o)]
        for g in self._spec.guardrails:
            count(f"guardrail:{g.name}", g.name in past)

    def _cause(self, o: Observed) -> tuple[Cause, str] | None:
        """The first reason to shed, gravest first; None when there is none."""
        c, n = self._config, self._counts
        if n["lost"] >= c.lost_samples:
            return Cause.LINK, f"the plant does not answer ({o.link_error})"
        if o.sample is None or o.inputs is None:
            return None
        if o.sample.mode is PlantMode.LOCAL and o.held:
            return Cause.LOCAL, "the plant went to LOCAL by itself (its watchdog, its power, or somebody there)"
        if n["heartbeat"] >= c.heartbeat_samples:
            return Cause.HEARTBEAT, "the plant's heartbeat stands still"
        mvs = [t.name for t in self._spec.mvs]
        lost = [f.text for f in o.inputs.disabling if self.mode is Mode.AUTO or f.tag in mvs]
        lost += [f"{mv} has no read-back" for mv, v in self._readback(o).items() if not math.isfinite(v)]
        if lost:
            return Cause.INPUT, "; ".join(lost)
        if n["readback"] >= c.readback_samples:
            return Cause.READBACK, self._strayed(o)
        return self._plan_cause(o) if self.mode is Mode.AUTO else None

    def _plan_cause(self, o: Observed) -> tuple[Cause, str] | None:
        c, n = self._config, self._counts
        for g, text in self._past_guardrails(o):
            if g.rank <= _CRITICAL_RANK or n[f"guardrail:{g.name}"] >= c.guardrail_samples:
                return Cause.GUARDRAIL, text
        if o.defect:
            return Cause.ANSWER, o.defect
        if n["late"] >= c.late_plans:
            return Cause.LATE, f"{n['late']} plans in a row were late"
        if o.decision is not None and o.decision.status[0] is Status.INFEASIBLE:
            return Cause.INFEASIBLE, f"the planner found no answer at all{_said(o.decision)}"
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
        self._counts["auto"] = 0 if self.blockers(Mode.AUTO) else self._counts.get("auto", 0) + 1
        return self._counts["auto"] >= (self._config.return_samples if self.mode is Mode.SHED else 1)

    # What is seen ----------------------------------------------------------------------------------------------------

    def _readback(self, o: Observed) -> dict[str, float]:
        return {t.name: o.inputs.values[t.name] if o.inputs else math.nan for t in self._spec.mvs}

    def _strayed(self, o: Observed) -> str:
        return self._wire.strays(self._readback(o), o.sample.time_s) if o.sample is not None else ""

    def _past_guardrails(self, o: Observed) -> list[tuple[Guardrail, str]]:
        found = []
        for g in self._spec.guardrails:
            value = o.inputs.values.get(g.tag, math.nan) if o.inputs else math.nan
            if g.sign * (g.limit - value) < 0:
                found.append((g, f"{g.tag} is {value:.5g}, past its limit {g.limit:g} ({g.name})"))
        return found

    def _show(self, o: Observed) -> None:
        """Alarms for what is wrong now, whatever the mode."""

        def show(key: str, severity: Severity, text: str) -> None:
            self.alarms.set(key, bool(text), severity, text, o.time_s)

        show("link", Severity.HIGH, f"The plant does not answer: {o.link_error}" if o.sample is None else "")
        show("speed", Severity.HIGH, o.speed_fault)
        if o.inputs is None:
            return
        show("heartbeat", Severity.HIGH, "The plant's heartbeat stands still" if self._counts["heartbeat"] else "")
        faults = {f.tag: f for f in o.inputs.faults}
        for tag in self._spec.online:
            fault = faults.get(tag.name)
            grave = Severity.HIGH if fault and fault.critical else Severity.LOW
            show(f"input:{tag.name}", grave, fault.text if fault else "")
        past = {g.name: text for g, text in self._past_guardrails(o)}
        for g in self._spec.guardrails:
            grave = Severity.CRITICAL if g.rank <= _CRITICAL_RANK else Severity.HIGH
            show(f"guardrail:{g.name}", grave, past.get(g.name, ""))
        show("readback", Severity.HIGH, self._strayed(o))
        show("answer", Severity.HIGH, o.defect)
        show("late", Severity.MEDIUM, "The plan was late; the last one is followed" if o.late else "")
        status = o.decision.status[0] if o.decision is not None else None
        grave = status in (Status.RECOVERY, Status.INFEASIBLE, Status.FALLBACK)
        worst = f", worst violation {o.decision.violation[0]:.3g}" if o.decision is not None else ""
        said = _said(o.decision) if o.decision is not None else ""
        show("plan", Severity.HIGH, f"The plan is {status}{worst}{said}" if grave else "")
        show("target", Severity.LOW, said.removeprefix(": ") if status in (Status.OPTIMAL, Status.FEASIBLE) else "")
        high = o.surprise is not None and o.surprise.score > self._config.surprise_to_enter
        show("surprise", Severity.MEDIUM, o.surprise.text if o.surprise is not None and high else "")


def _said(decision: Decision) -> str:
    """What the controller says about its plan, after a colon; '' where it says nothing."""
    return f": {decision.why[0]}" if decision.why and decision.why[0] else ""
