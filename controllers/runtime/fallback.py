"""Where the MVs go when AUTO is given up."""

from __future__ import annotations

import math
from collections.abc import Mapping

from controllers.runtime.config import SupervisorConfig
from controllers.runtime.observed import NOT_OURS, UNSEEN, Cause
from plant.spec import PlantSpec


class Fallback:
    """What SHED means for each MV, after `supervisor.fallback` and `move.fallback`, and how far it has got.

    Set-points go back to what the operator had before AUTO. Where that is not known, they stay.
    """

    def __init__(self, spec: PlantSpec, config: SupervisorConfig) -> None:
        self._spec, self._word = spec, config.fallback
        self._moves = {t.name: t.move for t in spec.mvs if t.move is not None}
        self._slack = {mv: config.readback_tolerance * move.span for mv, move in self._moves.items()}
        self.before_auto: dict[str, float] = {}
        """MV -> where it stood before AUTO."""
        self.left_at: dict[str, float] = {}
        """MV -> where we left it without having put it back: while it stands there, no operator has had a say."""
        self.active = False
        """We hold the plant and drive its MVs to `goals`."""
        self._samples_left = math.inf
        self._restarted = False

    @property
    def put_back(self) -> bool:
        """Whether the MVs stand where a person, or the plant, has put them."""
        return not (self.left_at or self.active or self._restarted)

    @property
    def ours(self) -> bool:
        """Whether we hold the MVs in SHED, because nobody else would."""
        return self._word != "regulatory"

    @property
    def meaning(self) -> str:
        """What happens now, for operators."""
        if not self.active:
            return "Nothing is written any more" if self.ours else "The plant has its MVs back"
        if not self.ours:
            return "The MVs go back to where they stood, then the plant has them"
        return {
            "hold": "The MVs stay where they are",
            "safe": "The MVs go to their safe values",
        }.get(self._word, "The MVs go to their fallbacks")

    @property
    def goals(self) -> dict[str, float]:
        """Where each MV goes; those that stay are not named."""
        if self._word == "safe":
            return {mv: move.safe for mv, move in self._moves.items()}
        if self._word == "hold":
            return {}
        found = {}
        for mv, move in self._moves.items():
            goal = move.fallback
            goal = (
                move.safe if goal == "safe" else self.before_auto.get(mv, math.nan) if goal == "before_auto" else goal
            )
            if not isinstance(goal, str) and math.isfinite(goal):
                found[mv] = goal
        return found

    def enter(self, readback: Mapping[str, float]) -> None:
        """AUTO or MANUAL begins: what stands now is the operator's, unless it is what we left."""
        for mv, now in readback.items():
            left = self.left_at.get(mv, math.nan)
            if not (abs(now - left) <= self._slack[mv] and mv in self.before_auto):  # false for NaN
                self.before_auto[mv] = now
        self.left_at.clear()
        self.active = self._restarted = False

    def recall(self, before_auto: Mapping[str, float]) -> None:
        """After a restart: the MVs were ours and have not been put back. Where they stand at the first sample we left them."""
        inside = {mv: v for mv, v in before_auto.items() if mv in self._moves}
        self.before_auto = {
            mv: v for mv, v in inside.items() if self._moves[mv].limits[0] <= v <= self._moves[mv].limits[1]
        }
        self._restarted = bool(self.before_auto)

    def see(self, readback: Mapping[str, float]) -> None:
        """The read-backs of a sample."""
        if self._restarted and readback and all(map(math.isfinite, readback.values())):
            self.left_at, self._restarted = dict(readback), False

    def leave(self) -> None:
        """A person has the MVs as they stand."""
        self.left_at.clear()
        self.active = self._restarted = False

    def begin(self, cause: Cause, readback: Mapping[str, float]) -> None:
        """AUTO is given up."""
        self.left_at = {mv: v for mv, v in readback.items() if math.isfinite(v)}
        self._samples_left = math.inf
        if self.ours:
            self.active = cause not in NOT_OURS
            return
        # Where a local loop takes an MV it must have it now, and the others with it: the plant is given back as a whole.
        away = self.away(readback) if not self._spec.regulatory.loops and cause not in UNSEEN else {}
        self.active = bool(away)
        if away:
            sample_s = self._spec.sample_time_s
            self._samples_left = 2 + math.ceil(max(far / self._moves[mv].reach(sample_s) for mv, far in away.items()))

    def advance(self, readback: Mapping[str, float]) -> None:
        """One sample in SHED: a plant that is to be given back is, once its MVs have arrived or have had their time."""
        if not self.active or self.ours:
            return
        self._samples_left -= 1
        away = self.away(readback)
        self.left_at = {mv: v for mv, v in readback.items() if mv in away}
        self.active = bool(away) and self._samples_left > 0

    def stop(self) -> None:
        """The plant is no longer ours to drive."""
        self.active = False

    def away(self, readback: Mapping[str, float]) -> dict[str, float]:
        """MVs that are not where they go, and how far they have to."""
        far = {mv: abs(readback.get(mv, math.nan) - goal) for mv, goal in self.goals.items()}
        return {mv: d for mv, d in far.items() if d > 1e-6 * self._moves[mv].span}
