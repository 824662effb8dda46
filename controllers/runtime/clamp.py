"""The last clamp before the wire: finite, absolute limits, operator limits, rate. It knows no model and trusts none."""

from __future__ import annotations

import math
from collections.abc import Mapping

from plant.errors import ControlError
from plant.spec import Move, PlantSpec


class MoveClamp:
    """Engineer limits come from the spec and never change; operator limits lie inside them and are ramped when changed.

    **Arguments:**

    - `limit_ramp`: share of an MV's engineer limits by which an operator limit moves a sample.
    """

    def __init__(self, spec: PlantSpec, limit_ramp: float) -> None:
        self._moves: dict[str, Move] = {t.name: t.move for t in spec.mvs if t.move is not None}
        self._step = {name: m.rate_per_s * spec.sample_time_s for name, m in self._moves.items()}
        self._ramp = {name: limit_ramp * (m.limits[1] - m.limits[0]) for name, m in self._moves.items()}
        self._asked = {name: m.limits for name, m in self._moves.items()}
        self._in_force = dict(self._asked)

    @property
    def asked(self) -> dict[str, tuple[float, float]]:
        """Operator limits as asked for: MV -> (low, high)."""
        return dict(self._asked)

    @property
    def in_force(self) -> dict[str, tuple[float, float]]:
        """Operator limits as they hold now, on their way to what was asked."""
        return dict(self._in_force)

    def ask(self, mv: str, low: float, high: float) -> str:
        """Set operator limits. Returns '' or why not."""
        if mv not in self._moves:
            return f"{mv} is not an MV; the MVs are {', '.join(self._moves)}"
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            return f"limits of {mv} must be two numbers, low < high, not [{low:g}, {high:g}]"
        bottom, top = self._moves[mv].limits
        if low < bottom or high > top:
            return f"limits of {mv} must lie inside the engineer limits [{bottom:g}, {top:g}]"
        self._asked[mv] = (low, high)
        return ""

    def ramp(self, readback: Mapping[str, float]) -> None:
        """Once a sample: bring the limits in force nearer to those asked. A tighter one starts at the move in force, so
        that it takes nothing away at once and then pulls steadily."""
        for mv, (low, high) in self._asked.items():
            now, ramp = readback.get(mv, math.nan), self._ramp[mv]
            low_now, high_now = self._in_force[mv]
            if math.isfinite(now):
                high_now = min(high_now, max(high, now)) if high < high_now else high_now
                low_now = max(low_now, min(low, now)) if low > low_now else low_now
            self._in_force[mv] = (_toward(low_now, low, ramp), _toward(high_now, high, ramp))

    def apply(self, wanted: Mapping[str, float], readback: Mapping[str, float]) -> dict[str, float]:
        """Every MV's move: inside operator limits, then within the rate of the read-back, then inside engineer limits.

        An MV that is not wanted moves not. Raises `ControlError` when a move or a read-back is not finite.
        """
        moves = {}
        for mv, move in self._moves.items():
            now = readback.get(mv, math.nan)
            target = wanted.get(mv, now)
            if not (math.isfinite(now) and math.isfinite(target)):
                raise ControlError(f"{mv} cannot go from {now} to {target}", "last clamp", "Nothing was sent.")
            low, high = self._in_force[mv]
            target = min(max(target, low), high)
            target = min(max(target, now - self._step[mv]), now + self._step[mv])
            moves[mv] = min(max(target, move.limits[0]), move.limits[1])
        return moves


def _toward(value: float, goal: float, step: float) -> float:
    return min(value + step, goal) if goal > value else max(value - step, goal)
