"""A guest's visit to a plant behind a `Link`: ask for the MVs, look, move, and put back what was found, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controllers.runtime.config import ControllerConfig
from controllers.runtime.freshness import Freshness, Repeats
from controllers.runtime.plant_time import PlantTime
from controllers.runtime.signs import Signs
from homeostat.guest import Guest, Phase, tolerance
from homeostat.identification import TestPlan, move_of
from plant.clock import Clock
from plant.errors import ControlError, LinkError
from plant.handshake import Handshake
from plant.link import Link, PlantMode, Quality, Sample
from plant.spec import PlantSpec, Tag

log = logging.getLogger(__name__)
_LOST_S = 10.0  # wall seconds without an answer after which a guest gives up
_UNKNOWN = 2  # looks in a row at which nobody says that the plant is ours, or a guardrail's tag is not known
_ELSEWHERE = 3  # samples that an MV may read something else than it was told


@dataclass(frozen=True)
class Visit:
    """How a visit ended: `reason` '' where it was carried through as planned; `failed` whether it was not. `restored`: each MV of
    the test -> (what it read before, what it reads at the end, NaN where unknown). `turns` at test limits."""

    reason: str
    failed: bool
    restored: Mapping[str, tuple[float, float]]
    turns: int


def unguarded(spec: PlantSpec) -> str:
    """Why nobody would take over from a guest that dies; '' where somebody would."""
    if spec.handshake is None:
        return "its YAML has no handshake"
    return "nothing watches its controller (watchdog: none)" if spec.handshake.watchdog.form == "none" else ""


async def visit(
    spec: PlantSpec,
    link: Link,
    clock: Clock,
    plan: TestPlan,
    stop: asyncio.Event,
    *,
    go_on: bool = False,
    on_progress: Callable[[float, Guest], None] | None = None,
) -> Visit:
    """Carry out `plan` on the plant behind `link`, until its end or until `stop` is set. Every MV goes back to where it stood, at
    its rate, and the plant is given back. `on_progress(plant seconds since the first look, the guest)`.

    Raises `ControlError` where the plant cannot be taken: it refuses, an MV or a guardrail's tag cannot be read.
    """
    host = _Host(spec, link, clock)
    await host.take()
    try:
        start = await host.found(plan)
        guest = Guest(spec, plan, start, clock.plant_time(), go_on)
        try:
            await host.entertain(guest, plan, stop, on_progress)
        finally:
            if guest.phase is not Phase.DONE:  # something unforeseen: the MVs go back all the same
                guest.turn_back("it was interrupted")
                await host.entertain(guest, plan, None, None)
        ends = {mv: (at, host.last.get(mv, math.nan)) for mv, at in start.items() if mv in guest.left}
        return Visit(guest.reason, guest.failed, ends, guest.turns)
    finally:
        await host.give_back()


class _Host:
    """The plant as a guest meets it: who holds it, what can be believed, what it refuses."""

    def __init__(self, spec: PlantSpec, link: Link, clock: Clock) -> None:
        self._spec, self._link, self._clock = spec, link, clock
        self._shake = spec.handshake or Handshake()
        self._beating: asyncio.Task[None] | None = None
        self._ours = False
        self.last: dict[str, float] = {}
        self._unknown = 0
        self._blind: dict[str, int] = {}
        self._elsewhere: dict[str, float] = {}
        # What the runtime makes of readings, once a sample as there.
        config = ControllerConfig()
        self._repeats = Repeats(spec, config.quality)
        self._freshness = Freshness(spec, config.quality, self._repeats)
        self._time = PlantTime(clock, spec, config.loop)
        self._signs = Signs(spec, config.quality.scan_samples)
        self._stale_after_s = config.quality.stale_after * spec.sample_time_s
        self._judged_s = -math.inf

    async def take(self) -> None:
        """Ask for the MVs, and keep the heartbeat going from then on."""
        if self._shake.permit is not None:
            receipt = await self._link.request_mode(PlantMode.REMOTE)
            if not receipt.ok:
                raise ControlError(
                    f"the plant does not give its MVs: {'; '.join(receipt.rejected.values())}",
                    f"plant {self._spec.name}", "Clear the cause first.",
                )  # fmt: skip
        self._ours = True
        if self._shake.watchdog.form != "none":
            self._beating = asyncio.create_task(self._beat())

    async def give_back(self) -> None:
        """Stop the heartbeat and ask the plant to take its MVs, unless it has."""
        if self._beating is not None:
            self._beating.cancel()
        if self._ours and self._shake.permit is not None:
            with contextlib.suppress(LinkError):  # the watchdog takes them
                await self._link.request_mode(PlantMode.LOCAL)
        self._ours = False

    async def found(self, plan: TestPlan) -> dict[str, float]:
        """Where the MVs stand; `ControlError` where that, or what a guardrail watches, is not known."""
        deadline = self._clock.wall_time() + _LOST_S
        while True:
            sample = await self._link.read()
            values = self._usable(sample)
            held = sample.mode is PlantMode.REMOTE or self._shake.granted is None
            names = [*(test.mv for test in plan.tests), *self._watched()]
            missing = [name for name in names if not math.isfinite(values[name])]
            if held and not missing:
                break
            if self._clock.wall_time() > deadline or self._clock.speed == math.inf:
                what = (
                    f"{', '.join(missing)} cannot be read" if held else "the plant does not say that its MVs are ours"
                )
                raise ControlError(what, f"plant {self._spec.name}", "Mend it first: nothing was moved.")
            await asyncio.sleep(0.2)
        start = {test.mv: values[test.mv] for test in plan.tests}
        for mv, at in start.items():
            low, high = move_of(self._spec.tag(mv)).limits
            near = tolerance(self._spec.tag(mv))
            if not low - near <= at <= high + near:
                raise ControlError(
                    f"{mv} stands at {at:g}, outside its limits [{low:g}, {high:g}]", f"plant {self._spec.name}",
                    "Bring it inside first: nothing was moved.",
                )  # fmt: skip
        return start

    async def entertain(
        self, guest: Guest, plan: TestPlan, stop: asyncio.Event | None, on_progress: Callable[[float, Guest], None] | None
    ) -> None:  # fmt: skip
        """Look and move until the guest is done."""
        start_s = due = self._clock.plant_time()
        answered_s = self._clock.wall_time()
        while guest.phase is not Phase.DONE:
            if stop is not None and stop.is_set():
                guest.turn_back("it was asked to stop", failed=False)
            try:
                await self._look(guest, plan)
                answered_s = self._clock.wall_time()
            except LinkError as e:
                guest.turn_back(f"the plant could not be reached: {e.what}")
                if self._clock.wall_time() - answered_s > _LOST_S:
                    guest.give_up(f"{guest.reason}; nobody knows whether the MVs are back: {guest.left}")
            if on_progress:
                on_progress(self._clock.plant_time() - start_s, guest)
            now = self._clock.plant_time()
            due = max(due + plan.look_s, now)  # looks that were missed are not made up for
            await self._clock.sleep_until(due)

    async def _look(self, guest: Guest, plan: TestPlan) -> None:
        asked_s = self._clock.plant_time()
        sample = await self._link.read()
        if lost := self._lost(sample):
            self._ours = False
            guest.give_up(f"{lost}; the MVs were last asked for {guest.left}")
            return
        values = self._usable(sample)
        self.last = values
        if why := self._why_back(sample, values, guest, plan, asked_s):
            guest.turn_back(why)
        moves = guest.look(self._clock.plant_time(), values)
        if not moves:
            return
        receipt = await self._link.write(moves)
        if not receipt.ok:
            refused = "; ".join(receipt.rejected.values())
            if guest.phase is not Phase.RETURNING:
                log.warning("%s: moves refused: %s", self._spec.name, refused)
            guest.turn_back(f"moves were refused: {refused}")

    def _lost(self, sample: Sample) -> str:
        """Why the MVs are not ours any more; '' while they are."""
        if self._shake.granted is not None and sample.mode is PlantMode.LOCAL:
            return f"the plant took its MVs back{f': {sample.reason}' if sample.reason else ''}"
        if sample.owned is False:
            return "another session holds the plant"
        if self._shake.granted is None:
            return ""
        self._unknown = self._unknown + 1 if sample.mode is None or sample.faults else 0
        if self._unknown < _UNKNOWN:
            return ""
        return sample.faults[0] if sample.faults else "the plant does not say that its MVs are ours"

    def _why_back(
        self, sample: Sample, values: Mapping[str, float], guest: Guest, plan: TestPlan, asked_s: float
    ) -> str:
        """Why a test on a plant that is still ours must end; '' where it may go on."""
        for test in plan.tests:
            if sample.loops.get(test.mv) is False:
                return f"the loop of {test.mv} does not take our moves"
        for name in self._watched():
            self._blind[name] = 0 if math.isfinite(values[name]) else self._blind.get(name, 0) + 1
            tag = self._spec.tag(name)
            if self._blind[name] * plan.look_s > max(
                _UNKNOWN * self._spec.sample_time_s, tag.stale_s or 0.0, 2 * (tag.period_s or 0.0)
            ):
                why = sample.values[name].reason
                return f"{name}, which a guardrail watches, cannot be believed{f': {why}' if why else ''}"
        return self._not_new(sample, asked_s) or self._taken_by_hand(values, guest, plan)

    def _not_new(self, sample: Sample, asked_s: float) -> str:
        """Why the readings of a server that answers may be old ones all the same; '' where nothing speaks for it."""
        if asked_s - self._judged_s < self._spec.sample_time_s - 1e-6:
            return ""
        self._judged_s = asked_s
        followed = self._time.follow(sample.time_s, asked_s)
        self._repeats.follow(sample)
        self._signs.follow(sample)
        scan = self._freshness.judge(self._time.standing, self._time.age_s())
        frozen = [n for n in self._watched() if self._repeats.counts.get(n, 0) >= self._repeats.limits.get(n, math.inf)]
        if scan.lasting:
            return scan.standing
        if followed.step_s:
            return f"the plant's clock was set by {followed.step_s:.0f} s"
        if frozen:
            return f"{frozen[0]}, which a guardrail watches, is frozen"
        return self._signs.still if self._signs.dead else ""

    def _taken_by_hand(self, values: Mapping[str, float], guest: Guest, plan: TestPlan) -> str:
        """Whether an MV stays where nobody here put it."""
        now = self._clock.plant_time()
        for test in plan.tests:
            tag, asked = self._spec.tag(test.mv), guest.left[test.mv]
            if move_of(tag).write_node is not None or abs(values[test.mv] - asked) <= max(test.step, tolerance(tag)):
                self._elsewhere.pop(test.mv, None)
            elif now - self._elsewhere.setdefault(test.mv, now) > _ELSEWHERE * self._spec.sample_time_s:
                return f"{test.mv} reads {values[test.mv]:g} and was asked for {asked:g}: somebody else moves it"
        return ""

    def _watched(self) -> list[str]:
        return [g.tag for g in self._spec.guardrails if g.tag in {t.name for t in self._spec.online}]

    def _usable(self, sample: Sample) -> dict[str, float]:
        """Every online tag's value; NaN where it is Bad or stale."""
        values = {t.name: math.nan for t in self._spec.online}
        for name, value in sample.values.items():
            if value.quality is not Quality.BAD and not self._stale(self._spec.tag(name), sample.time_s - value.time_s):
                values[name] = value.value
        return values

    def _stale(self, tag: Tag, age_s: float) -> bool:
        limit_s = tag.stale_s or max(self._stale_after_s, 3 * (tag.period_s or 0.0))
        return tag.scanned and abs(age_s) > limit_s

    async def _beat(self) -> None:
        counter = 0
        while True:
            counter += 1
            with contextlib.suppress(LinkError):  # the looks meet the same fault and report it
                await self._link.beat(counter)
            await asyncio.sleep(self._shake.watchdog.period_s / 2)
