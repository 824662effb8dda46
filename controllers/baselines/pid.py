"""PID loops as a `Controller`, with cascade and feed-forward: a peer in benchmarks, and a controller that needs no model."""

from __future__ import annotations

import time
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from controllers.contracts import Decision, Observation, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec

Array = NDArray[np.float64]

_TAKEN = 0.01  # of an MV's limits: farther from the move asked for, somebody else moves it


class PidLoop(BaseModel):
    """One loop, from the error of `pv` to `mv`: u = bias + gain * (e + integral(e) / integral_s - derivative_s * dpv/dt) + feed-forward, e = target - pv. Signs go with the gain, times are plant seconds.

    `mv` is an MV, or the `pv` of another loop, which then has no target of its own: a cascade. `limits` bound what the
    loop asks for, by default the MV's limits or the range of the tag. `feed_forward`: tag -> gain from its change since
    the start, for DVs and measurements.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pv: str
    mv: str
    gain: float
    integral_s: Annotated[float, Field(gt=0)]
    derivative_s: Annotated[float, Field(ge=0)] = 0.0
    limits: tuple[float, float] | None = None
    feed_forward: dict[str, float] = {}


class PidController:
    """PID loops for a batch of plants of `spec`; MVs without a loop stay where they are.

    Each loop starts from the move in force, and follows it when it is not the one asked for (clamped, in LOCAL, moved by
    hand), so that it neither bumps nor winds up; the outer loop of a cascade does not push on a clamped MV, and starts
    again from the inner `pv` when somebody else has moved the MV. A loop whose `pv` is missing holds. It predicts nothing:
    predictions and margins are NaN, and every decision is `FEASIBLE`, or `INFEASIBLE` where a move in force is not known.

    Raises `ControlError` when a loop starts from a CV without a target that no other loop sets, ends in no MV, shares what
    it moves with another, or is fed forward from no DV or measurement.
    """

    horizon = 1

    def __init__(self, spec: PlantSpec, loops: tuple[PidLoop, ...]) -> None:
        self._spec = spec
        self._mvs = [t.name for t in spec.mvs]
        self._signals = [t.name for t in (*spec.measured, *spec.dvs)]
        self._targets = [t.tag for t in spec.targets]
        self._loops = self._ordered(loops)
        self._inner = [next((i for i, p in enumerate(self._loops) if p.pv == q.mv), None) for q in self._loops]
        self._limits = np.array([t.move.limits for t in spec.mvs if t.move])
        self._rate = np.array([t.move.rate_per_s for t in spec.mvs if t.move]) * spec.sample_time_s
        self.reset()

    def _ordered(self, loops: tuple[PidLoop, ...]) -> tuple[PidLoop, ...]:
        """The loops, outer before inner."""
        moved = {p.mv for p in loops}
        measured = [t.name for t in self._spec.measured]
        depth = {}
        for loop in loops:
            chain = [loop]
            while chain[-1].mv not in self._mvs and len(chain) <= len(loops):
                chain += [p for p in loops if p.pv == chain[-1].mv][:1] or [loop] * len(loops)
            known = loop.pv in measured if loop.pv in moved else loop.pv in self._targets
            alone = [p.mv for p in loops].count(loop.mv) == 1 and [p.pv for p in loops if p.pv in moved].count(
                loop.pv
            ) <= 1
            if not (known and alone and chain[-1].mv in self._mvs and set(loop.feed_forward) <= set(self._signals)):
                raise ControlError(
                    f"a loop from {loop.pv} to {loop.mv}",
                    f"PID of {self._spec.name}",
                    f"Each MV ({', '.join(self._mvs)}) may have one loop, or one cascade of them, from a CV with a target ({', '.join(self._targets)}); feed forward from {', '.join(self._signals)}.",
                )
            depth[loop.pv, loop.mv] = len(chain)
        return tuple(sorted(loops, key=lambda p: -depth[p.pv, p.mv]))

    def reset(self) -> None:
        n = len(self._loops)
        self._signal: Array | None = None  # the last known value of every signal (batch x n)
        self._start: Array | None = None  # the first
        self._integral: list[Array | None] = [None] * n
        self._asked: list[Array | None] = [None] * n
        self._excess: list[Array | float] = [0.0] * n  # what an inner loop wanted beyond what it could ask for

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        applied = observation.standing
        now = np.hstack([observation.measured, observation.dvs])
        last = now if self._signal is None else self._signal
        self._signal = np.where(np.isfinite(now), now, last)
        self._start = (
            self._signal if self._start is None else np.where(np.isfinite(self._start), self._start, self._signal)
        )
        moves, goal = applied.copy(), {}
        for i, loop in enumerate(self._loops):
            pv, before = (v[:, self._signals.index(loop.pv)] for v in (now, last))
            target = goal.get(loop.pv)
            if target is None:
                target = np.asarray(targets.values)[:, 0, self._targets.index(loop.pv)]
            error, slope = np.nan_to_num(target - pv), np.nan_to_num((pv - before) / self._spec.sample_time_s)
            direct = loop.gain * (error - loop.derivative_s * slope)
            for tag, gain in loop.feed_forward.items():
                column = self._signals.index(tag)
                direct = direct + gain * np.nan_to_num(self._signal[:, column] - self._start[:, column])
            step = loop.gain * error * self._spec.sample_time_s / loop.integral_s
            if self._inner[i] is None:
                j = self._mvs.index(loop.mv)
                low, high = max(self._limits[j, 0], targets.move_low[j]), min(self._limits[j, 1], targets.move_high[j])
                bounds = low, high, applied[:, j] - self._rate[j], applied[:, j] + self._rate[j]
                moves[:, j] = self._ask(i, loop, direct, step, applied[:, j], np.isfinite(pv), bounds)
            else:
                held, step = self._inner_state(i, step, now, applied)
                low, high = self._spec.tag(loop.mv).range
                goal[loop.mv] = self._ask(i, loop, direct, step, held, np.isfinite(pv), (low, high, -np.inf, np.inf))
        return Decision.of_moves(self._spec, moves, time.perf_counter() - began)

    def _ask(
        self, i: int, loop: PidLoop, direct: Array, step: Array, held: Array, known: NDArray[np.bool_], bounds: tuple
    ) -> Array:
        """What loop `i` asks for (batch,), from what is in force, `held`; `known`: its `pv` is. `bounds`: low, high, and
        the same from the rate."""
        low, high, slow, fast = bounds
        if loop.limits:
            low, high = np.maximum(low, loop.limits[0]), np.minimum(high, loop.limits[1])
        integral, asked = self._integral[i], self._asked[i]
        if integral is None or asked is None:
            integral = held - direct
        else:
            # Back-calculation: what was not taken of the last move is taken out of the integral.
            integral = integral + np.nan_to_num(held - asked) + step
        integral = np.where(np.isfinite(integral), integral, held - direct)
        raw = np.where(known, integral + direct, held)
        move = np.clip(np.clip(raw, low, high), slow, fast)
        self._integral[i] = integral + np.where(known, move - raw, 0.0)
        self._excess[i], self._asked[i] = np.nan_to_num(raw - move), move
        return move

    def _inner_state(self, i: int, step: Array, now: Array, applied: Array) -> tuple[Array, Array]:
        """For the outer loop `i`: the set-point in force, and its integral's `step`, none where that would only push."""
        loop, inner = self._loops[i], self._inner[i]
        assert inner is not None
        below = self._loops[inner]
        value = now[:, self._signals.index(loop.mv)]
        asked, taken = self._asked[i], self._asked[inner]
        if asked is None or taken is None:
            return value, step
        pushes = np.sign(self._excess[inner]) * np.sign(below.gain) * step > 0
        held = np.where(np.isfinite(asked), asked, value)
        if self._inner[inner] is None:
            j = self._mvs.index(below.mv)
            foreign = np.abs(applied[:, j] - taken) > _TAKEN * (self._limits[j, 1] - self._limits[j, 0])
            # `asked` goes out of the integral again below: the loop starts from the inner measurement.
            held = np.where(foreign & np.isfinite(value), value, held)
        return held, np.where(pushes | ~np.isfinite(value), 0.0, step)
