"""The last clamp before the wire: finite, absolute limits, operator limits, rate. It knows no model and trusts none."""

from __future__ import annotations

import math
from collections.abc import Mapping

from plant.errors import ControlError
from plant.spec import Move, PlantSpec


class MoveClamp:
    """Engineer limits come from the spec and never change; operator limits lie inside them and are ramped when changed. They
    hold for ordinary moves only: the way to the safe side is never theirs to bar.

    **Arguments:**

    - `limit_ramp`: share of an MV's engineer limits by which an operator limit moves a sample.
    """

    def __init__(self, spec: PlantSpec, limit_ramp: float) -> None:
        self._moves: dict[str, Move] = {t.name: t.move for t in spec.mvs if t.move is not None}
        self._step = {name: m.reach(spec.sample_time_s) for name, m in self._moves.items()}
        self._ramp = {name: limit_ramp * m.span for name, m in self._moves.items()}
        self._asked = {name: m.limits for name, m in self._moves.items()}
        self._in_force = dict(self._asked)
        self._now: dict[str, float] = {}

    @property
    def asked(self) -> dict[str, tuple[float, float]]:
        """Operator limits as asked for: MV -> (low, high)."""
        return dict(self._asked)

    @property
    def in_force(self) -> dict[str, tuple[float, float]]:
        """Operator limits as they hold now, on their way to what was asked."""
        return dict(self._in_force)

    def ask(self, mv: str, low: float, high: float) -> str:
        """Set operator limits. Returns '' or why not: limits that would drive an MV away from its safe value are refused."""
        if mv not in self._moves:
            return f"{mv} is not an MV; the MVs are {', '.join(self._moves) or 'none'}"
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            return f"limits of {mv} must be two numbers, low < high, not [{low:g}, {high:g}]"
        (bottom, top), safe = self._moves[mv].limits, self._moves[mv].safe
        if low < bottom or high > top:
            return f"limits of {mv} must lie inside the engineer limits [{bottom:g}, {top:g}]"
        now = self._now.get(mv, math.nan)
        if (safe < low and now < low) or (safe > high and now > high):
            return f"limits [{low:g}, {high:g}] would drive {mv} from {now:.5g} away from its safe value {safe:g}; leave it the way there"
        if self._moves[mv].discrete and not any(low <= level <= high for level in self._moves[mv].discrete):
            return f"no level of {mv} lies within [{low:g}, {high:g}]"
        self._asked[mv] = (low, high)
        return ""

    def ramp(self, readback: Mapping[str, float]) -> None:
        """Once a sample: bring the limits in force nearer to those asked. A tighter one starts at the move in force, so
        that it takes nothing away at once and then pulls steadily."""
        self._now = dict(readback)
        for mv, (low, high) in self._asked.items():
            now, ramp = readback.get(mv, math.nan), self._ramp[mv]
            low_now, high_now = self._in_force[mv]
            if math.isfinite(now):
                high_now = min(high_now, max(high, now)) if high < high_now else high_now
                low_now = max(low_now, min(low, now)) if low > low_now else low_now
            self._in_force[mv] = (_toward(low_now, low, ramp), _toward(high_now, high, ramp))

    def apply(
        self, wanted: Mapping[str, float], readback: Mapping[str, float], to_safety: bool = False
    ) -> dict[str, float]:
        """The moves of the MVs of `wanted`: inside operator limits unless they go `to_safety`, then within the rate of the
        read-back, then inside engineer limits; of a discrete MV the nearest of its values that is within all of these.

        Raises `ControlError` when a move or a read-back is not finite.
        """
        moves = {}
        for mv, target in wanted.items():
            move, now = self._moves[mv], readback.get(mv, math.nan)
            if not (math.isfinite(now) and math.isfinite(target)):
                raise ControlError(f"{mv} cannot go from {now} to {target}", "last clamp", "Nothing was sent.")
            low, high = move.limits if to_safety else self._in_force[mv]
            target = min(max(target, low), high)
            bottom, top = now - self._step[mv], now + self._step[mv]
            target = min(max(target, bottom), top)
            moves[mv] = min(max(target, move.limits[0]), move.limits[1])
            if levels := move.discrete:
                slack = 1e-9 * move.span
                reached = [v for v in levels if bottom - slack <= v <= top + slack and low - slack <= v <= high + slack]
                # Between two levels, or pulled away by a limit: the nearest there is, which is where it stands or close by.
                moves[mv] = min(reached or levels, key=lambda v: abs(v - moves[mv]))
        return moves


def _toward(value: float, goal: float, step: float) -> float:
    return min(value + step, goal) if goal > value else max(value - step, goal)
