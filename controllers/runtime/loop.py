"""`ControlLoop`: reads, decides, supervises and writes, once a sample, and answers the operator in between."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from controllers.contracts import Array, Controller, Decision, Mode, Observation, Targets
from controllers.runtime.alarms import Event, Severity
from controllers.runtime.answer import AnswerCheck
from controllers.runtime.asking import Asking
from controllers.runtime.config import ControllerConfig
from controllers.runtime.figures import Figures
from controllers.runtime.freshness import Freshness, Repeats, Scan, unwatched
from controllers.runtime.in_force import InForce
from controllers.runtime.memory import Memory, remembered, restore
from controllers.runtime.observed import Cause, Observed
from controllers.runtime.plant_access import PlantAccess
from controllers.runtime.plant_time import PlantTime
from controllers.runtime.quality import InputQuality, Inputs
from controllers.runtime.records import Recorder, Records
from controllers.runtime.slow_tags import SlowTags
from controllers.runtime.solver import Solver
from controllers.runtime.sources import Source
from controllers.runtime.spoken import ANSWER, KEY, REASON, WHO, plain
from controllers.runtime.state import ControllerState, margins_of, prediction_of, rest_of, said_of
from controllers.runtime.supervisor import Supervisor
from controllers.runtime.surprised import Surprised, Watching, surprised
from controllers.runtime.targets import TargetBoard
from plant.clock import Clock
from plant.link import Link, PlantMode, Sample
from plant.spec import PlantSpec

log = logging.getLogger(__name__)


class ControlLoop:
    """Runs one controller on one plant.

    **Arguments:**

    - `link`: the plant. The loop does not close it; whoever opened it does.
    - `controller`: decides in a thread of its own, never twice at once, each time with a deadline.
    - `historian`: takes events, audits and decisions; None keeps none. Its trouble is an alarm, never a stop.
    - `clock`: plant time schedules the samples, wall time the deadlines.
    - `watch`: says of each sample whether the plant does what its model expects; None watches nothing.
    - `doubts`: why the model does not deserve AUTO, in words; until a named person sets them aside it is refused.
    - `memory`: keeps targets, limits, alarms and what became of AUTO over a restart; None forgets. Its owner closes it.
    - `forecast`: plant time (s) -> what is expected of the DVs from the next sample on, as `Observation.forecast` takes it.
    - `sources`: what feeds targets, zones and forecasts from outside; their trouble is an alarm, never a stop.
    - `unknown`: MVs that the model never saw move, with a sentence; they are never moved.

    Samples are due every `spec.sample_time_s` of plant time. One that is still running when the next is due lets that one
    pass (an overrun): samples are never caught up in a burst. While the plant cannot be reached the loop keeps trying.
    """

    def __init__(
        self,
        spec: PlantSpec,
        config: ControllerConfig,
        link: Link,
        controller: Controller,
        historian: Records | None,
        clock: Clock,
        forecast: Callable[[float], Array | None] | None = None,
        watch: Watching | None = None,
        doubts: Sequence[str] = (),
        memory: Memory | None = None,
        sources: Sequence[Source] = (),
        unknown: Mapping[str, str] | None = None,
    ) -> None:
        self.spec, self.config, self._link, self._controller, self._clock = spec, config, link, controller, clock
        self._recorder = Recorder(spec, historian, self._historian_trouble)
        doubts = [*doubts, *filter(None, [unwatched(spec)])]
        self.supervisor = Supervisor(spec, config, self._recorder.event, doubts, unknown)
        self.targets = TargetBoard(spec, config.preview)
        self.asking = Asking(self.targets, self._audited, self._recorder, lambda: self._time.now_s())
        self.figures = Figures()
        self.changed = asyncio.Event()
        self._time = PlantTime(clock, spec, config.loop)
        self._repeats = Repeats(spec, config.quality)
        self._freshness = Freshness(spec, config.quality, self._repeats, clock.speed)
        self._quality = InputQuality(spec, config.quality, self._repeats)
        self._slow_tags = SlowTags(spec)
        self._in_force = InForce(spec)
        self._forecast, self._watch, self._memory, self._sources = forecast, watch, memory, sources
        self._surprise: Surprised | None = None
        self._check = AnswerCheck(spec)
        self._solver = Solver(controller)
        self._plant = PlantAccess(spec, config.loop, link, clock, self.supervisor, self._time.now_s, self.changed.set)
        self._sample: Sample | None = None
        self._inputs: Inputs | None = None
        self._plan: tuple[float, Decision] | None = None
        self._plan_status = ""
        self._lost_samples = 0.0
        self._mode_requests = 0
        self._deadline_s = config.loop.deadline_s(spec.sample_time_s, clock.speed)

    # Life ------------------------------------------------------------------------------------------------------------

    async def run(self, start: Mode = Mode.ADVISORY, who: str = "start") -> None:
        """Run until cancelled, then give the MVs back. `start` AUTO enters it once its conditions are met, unless the memory
        says that it ended in a shed or a crash: then a person decides."""
        supervisor = self.supervisor
        kept = self._memory.recall() if self._memory else None
        supervisor.enter(Mode.OFF if start is Mode.OFF else Mode.ADVISORY, who, "", self._time.now_s())
        waits = "" if kept is None else restore(kept, supervisor, self.targets)
        if kept is not None and waits:
            supervisor.recall(kept.wish, waits, self._time.now_s())
        if start is Mode.AUTO and (not waits or self.config.supervisor.return_to_auto == "automatic"):
            supervisor.want_auto(who)
        tasks = [
            asyncio.create_task(self._plant.heartbeat.run(), name="heartbeat"),
            asyncio.create_task(self._recorder.watch(), name="historian watch"),
            *(asyncio.create_task(self._follow(source), name="source") for source in self._sources),
        ]
        try:
            await asyncio.sleep(0)  # what the sources know already holds from the first sample on
            await self._sample_forever()
        finally:
            ended = remembered(supervisor, self.targets, self.spec.name)
            supervisor.enter(Mode.OFF, who, "the controller stops", self._time.now_s())
            await self._plant.give_back()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._solver.close()
            if self._memory is not None:
                self._memory.keep(ended.model_copy(update={"orderly": True}))

    async def _sample_forever(self) -> None:
        due_s, sample_s, heartbeat = self._clock.plant_time(), self.spec.sample_time_s, self._plant.heartbeat
        while True:
            heartbeat.expect(max(0.0, due_s - self._clock.plant_time()) / self._clock.speed)
            await self._clock.sleep_until(due_s)
            heartbeat.note()
            if math.isfinite(self._clock.speed):
                self.figures.jitter_s.append(max(0.0, self._clock.plant_time() - due_s) / self._clock.speed)
            try:
                await self._cycle()
                self.supervisor.alarms.clear("internal", self._time.now_s())
            except Exception as e:
                # A fault of ours: the plant is safer with its own loops, and the operator with a loop that goes on.
                log.exception("the control loop failed")
                text, now_s = f"internal fault: {type(e).__name__}: {e}", self._time.now_s()
                self.supervisor.alarms.raise_("internal", Severity.CRITICAL, text, now_s)
                self.supervisor.lose(Cause.INTERNAL, text, now_s)
                await self._plant.give_back()
            self._keep()
            self.figures.cycles += 1
            self.changed.set()
            due_s += sample_s
            if (behind := math.floor((self._clock.plant_time() - due_s) / sample_s) + 1) > 0:
                self.figures.overruns += behind
                due_s += behind * sample_s

    async def _cycle(self) -> None:
        supervisor, heartbeat = self.supervisor, self._plant.heartbeat
        held, asked_s = supervisor.holds_plant, self._clock.plant_time()
        sample, error = await self._plant.read()
        heartbeat.note()
        decision, late, defect, status, scan, step = None, False, "", "", Scan(), ""
        self._surprise = None
        if sample is not None:
            followed = self._time.follow(sample.time_s, asked_s)
            if followed.step_s:
                step = self._new_segment(followed.step_s)
            self._forget_if_lost(followed.missing - 1)
            self._repeats.follow(sample)
            scan = self._freshness.judge(self._time.standing, self._time.age_s())
            self._sample, self._inputs = sample, self._quality.judge(sample)
            supervisor.look(sample, self._inputs)
            if supervisor.mode is not Mode.OFF:
                decision, late, defect = await self._decide(sample, self._inputs)
                status = str(decision.status[0]) if decision else "LATE" if late else "UNUSABLE"
                heartbeat.note()
            else:
                self._lost_samples += 1
        self._plan_status = status
        action = supervisor.step(
            Observed(
                self._time.now_s() if sample is None else sample.time_s,
                sample,
                self._inputs if sample else None,
                decision,
                late,
                defect,
                error,
                self._time.speed_fault(self._link.speed) if sample else "",
                held,
                self._surprise,
                scan.standing,
                scan.standing if scan.lasting else "",
                step,
                self._time.unsettled if sample else "",
            )
        )
        if action.moves:
            await self._plant.write(action.moves)
            self._in_force.send(action.moves, self._clock.plant_time() - asked_s)
        heartbeat.expect(self.config.loop.read_timeout_s)
        await self._plant.give_back()
        if decision is not None and sample is not None:
            self._plan = (sample.time_s, decision)
            self.figures.solve_s.append(decision.solve_time_s)
            self._recorder.decision(sample.time_s, supervisor.mode, decision, self._surprise, self.targets)
        if action.enter_auto:
            await self.set_mode(Mode.AUTO, supervisor.standing, "conditions are met")

    async def _follow(self, source: Source) -> None:
        """Let a source feed this loop until cancelled."""

        def alarm(key: str, text: str) -> None:
            self.supervisor.alarms.set(key, bool(text), Severity.LOW, plain(text, ANSWER), self._time.now_s())

        def note(text: str) -> None:
            log.info("%s", text)
            self._recorder.event(Event(self._time.now_s(), "source", Severity.LOW, plain(text, ANSWER)))

        try:
            await source.follow(self.targets, self._time.now_s, alarm, note)
        except Exception as e:
            log.exception("a schedule or forecast is followed no more")
            alarm("source", f"A schedule or forecast is followed no more: {type(e).__name__}: {e}")

    def _new_segment(self, step_s: float) -> str:
        """The plant's clock was set: what came before is not joined to what comes after."""
        text = f"the plant's clock was set {abs(step_s):.0f} s {'ahead' if step_s > 0 else 'back'}"
        self._recorder.event(Event(self._time.now_s(), "clock", Severity.HIGH, text))
        self._repeats.forget()
        self._slow_tags.forget()
        self._in_force.forget()
        return text

    def _keep(self) -> None:
        if self._memory is not None:
            self._memory.keep(remembered(self.supervisor, self.targets, self.spec.name))

    # Deciding --------------------------------------------------------------------------------------------------------

    async def _decide(self, sample: Sample, inputs: Inputs) -> tuple[Decision | None, bool, str]:
        """The controller's checked answer, or None with whether it was late, or what is wrong with it."""
        limits = self.supervisor.clamp.in_force
        values = self._slow_tags.seen(sample, inputs)
        parts = (self.spec.measured, self.spec.dvs, self.spec.constants)
        measured, dvs, constants = (np.array([[values[t.name] for t in tags]]) for tags in parts)
        applied, position = (row[None] for row in self._in_force.since(values, sample.time_s))
        ahead = self._forecast(sample.time_s) if self._forecast else None
        verdict = None if self._watch is None else self._watch.see(measured, dvs, applied, constants)
        if verdict is not None:
            self._surprise = surprised(verdict, [t.name for t in self.spec.measured])
        surprise = None if verdict is None else verdict.score
        observation = Observation(sample.time_s, measured, dvs, applied, constants, ahead, surprise, position)
        partial = self.supervisor.partial
        dropped, given_up = partial.dropped.keys() | partial.unable.keys(), partial.given_up(inputs)
        targets = Targets(
            self.asking.due(sample.time_s).ahead(sample.time_s, self._controller.horizon),
            np.array([limits[t.name][0] for t in self.spec.mvs]),
            np.array([limits[t.name][1] for t in self.spec.mvs]),
            np.array([t.name in dropped for t in self.spec.mvs]) if dropped else None,
            np.array([t.tag in given_up for t in self.spec.targets]) if given_up else None,
            self.targets.zones_now(given_up),
            self.targets.prices_now(),
        )
        self._plant.heartbeat.expect(self._deadline_s)
        answer = await self._solver.decide(observation, targets, self._deadline_s)
        if answer.late:
            self.figures.missed_deadlines += 1
            self._lost_samples += 1
            return None, True, ""
        self._lost_samples = 0.0
        defect = answer.error or self._check.defect(answer.decision)
        if defect:
            return None, False, f"The controller's answer is unusable: {defect}"
        assert isinstance(answer.decision, Decision)
        return answer.decision, False, ""

    def _forget_if_lost(self, missing: float) -> None:
        """A history with a hole is worse than none."""
        # A sample time may be off by half without one being lost.
        self._lost_samples += missing if missing > 0.5 else 0.0
        if self._lost_samples > self.config.loop.reset_after:
            self._solver.reset()
            if self._watch is not None:
                self._watch.reset()

    def _historian_trouble(self, reason: str) -> None:
        text = f"The historian cannot store; records wait, control goes on: {reason}"
        self.supervisor.alarms.set("historian", bool(reason), Severity.MEDIUM, text, self._time.now_s())

    # The operator ----------------------------------------------------------------------------------------------------

    async def set_mode(self, mode: str, who: str, reason: str = "") -> str:
        """Ask for a mode. Returns '' or why not. Leaving AUTO is never refused. AUTO asked for in AUTO takes back what others
        have moved."""
        who, reason = plain(who, WHO), plain(reason, REASON)
        before = self.supervisor.mode
        refusal = await self._set_mode(mode, who, reason)
        return self._audited(who, "SetMode", "controller", before, mode, refusal)

    async def _set_mode(self, mode: str, who: str, reason: str) -> str:
        if mode not in list(Mode):
            return f"no mode '{plain(mode, WHO)}'; modes: {', '.join(Mode)}"
        wanted = Mode(mode)
        self._mode_requests += 1
        this_request = self._mode_requests
        if wanted in (Mode.AUTO, Mode.MANUAL):
            if wanted is self.supervisor.mode:
                self.supervisor.partial.rearm()
                return ""
            if blockers := self.supervisor.blockers(wanted):
                return f"{wanted} is not possible: {'; '.join(blockers)}"
            assert self._sample is not None
            if self._sample.mode is not None and (refusal := await self._plant.request(PlantMode.REMOTE)):
                return f"the plant does not grant REMOTE: {refusal}"
            if this_request != self._mode_requests:
                self.supervisor.disown()
                await self._plant.give_back()
                return "another mode was asked for meanwhile"
        elif wanted is Mode.SHED and self.supervisor.mode not in (Mode.AUTO, Mode.MANUAL):
            return f"there is nothing to shed in {self.supervisor.mode}"
        self.supervisor.enter(wanted, who, reason, self._time.now_s())
        await self._plant.give_back()
        return ""

    def set_target(self, tag: str, value: float, who: str) -> str:
        """Ask for a CV's target. Returns '' or why not."""
        before = self.targets.values.get(tag, "")
        return self._audited(who, "SetTarget", tag, before, value, self.targets.set(tag, value))

    def set_limit(self, mv: str, low: float, high: float, who: str) -> str:
        """Ask for an MV's operator limits. Returns '' or why not."""
        before = list(self.supervisor.clamp.asked.get(mv, ""))
        return self._audited(who, "SetLimit", mv, before, [low, high], self.supervisor.clamp.ask(mv, low, high))

    def set_move(self, mv: str, value: float, who: str) -> str:
        """Move an MV by hand in MANUAL. Returns '' or why not."""
        before = self._inputs.values.get(mv, "") if self._inputs else ""
        return self._audited(who, "SetMove", mv, before, value, self.supervisor.hand_move(mv, value))

    def acknowledge(self, key: str, who: str) -> str:
        """Acknowledge an alarm. Returns '' or why not."""
        key = plain(key, KEY)
        refusal = self.supervisor.alarms.acknowledge(key, plain(who, WHO), self._time.now_s())
        return self._audited(who, "Acknowledge", key, "", "", refusal)

    def override(self, who: str, reason: str) -> str:
        """Set aside the doubts about the model, in a person's name and for a reason. Returns '' or why not."""
        who, reason = plain(who, WHO), plain(reason, REASON)
        doubts = "; ".join(self.supervisor.trust.blockers)
        return self._audited(who, "Override", "doubts", doubts, reason, self.supervisor.trust.override(who, reason))

    def _audited(self, who: str, action: str, target: str, old: object, new: object, refusal: str) -> str:
        who, target, refusal = plain(who, WHO) or "unknown", plain(target, KEY), plain(refusal, ANSWER)
        new = plain(new, REASON) if isinstance(new, str) else new
        self._recorder.audit(self._time.now_s(), who, action, target, old, new, refusal)
        self._keep()
        self.changed.set()
        return refusal

    # What is shown ---------------------------------------------------------------------------------------------------

    def state(self) -> ControllerState:
        """The controller now."""
        s, f = self.supervisor, self.figures
        plan_s, plan = self._plan if self._plan else (math.nan, None)
        said = plan if self._plan_status else None  # a plan that nobody makes any more explains nothing
        solve, jitter = f.percentiles_ms(f.solve_s), f.percentiles_ms(f.jitter_s)
        return ControllerState(
            time_s=self._time.now_s(),
            mode_target=s.target,
            mode_actual=s.mode,
            mode_reason=s.reason,
            plan_status=self._plan_status,
            plan_time_s=plan_s,
            sample_age_s=self._time.age_s(),
            violation=float(plan.violation[0]) if plan else math.nan,
            surprise=self._surprise.score if self._surprise else math.nan,
            blame=self._surprise.tags if self._surprise else {},
            solve_ms=plan.solve_time_s * 1e3 if plan else math.nan,
            solve_p50_ms=solve[0],
            solve_p99_ms=solve[1],
            jitter_p50_ms=jitter[0],
            jitter_p99_ms=jitter[1],
            heartbeat=self._plant.heartbeat.counter,
            cycles=f.cycles,
            missed_deadlines=f.missed_deadlines,
            overruns=f.overruns,
            targets=self.targets.values,
            zones=self.targets.zones,
            prices=self.targets.prices,
            schedule=self.targets.coming,
            rest=rest_of(self.spec, said),
            why=said_of(said.why) if said else "",
            active=said_of(said.active) if said else "",
            limits=s.clamp.asked,
            margins=margins_of(self.spec, self._inputs, plan),
            prediction=prediction_of(self.spec, plan, plan_s),
            alarms=tuple(s.alarms),
            tag_status=s.partial.words(self._inputs, s.clamp.in_force) if self._inputs else {},
            doubts=s.trust.doubts,
        )
