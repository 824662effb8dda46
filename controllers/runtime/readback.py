"""Do the MVs go where they were sent?"""

from __future__ import annotations

from collections.abc import Mapping

from plant.spec import PlantSpec

_SHARE = 0.1  # of a step: less is standing still
_IN_VAIN = 3  # samples: one until the plant takes a move, one until it shows it


class ReadbackCheck:
    """Compares moves in force with those sent: each must be at the move sent, or on its way there at its rate. An MV that never
    moves at all is found by what it was asked for since, however small each step was.

    **Arguments:**

    - `tolerance`: share of an MV's limits that counts as the same.
    - `reaction`: share of a sample that even a late write leaves to the MV to move in.
    """

    def __init__(self, spec: PlantSpec, tolerance: float, reaction: float) -> None:
        self._moves = {t.name: t.move for t in spec.mvs if t.move is not None}
        self._tolerance, self._reaction, self._scan_s = tolerance, reaction, spec.scan_time_s
        self.sent: dict[str, float] = {}
        self._start: dict[str, float] = {}
        self._time_s = 0.0
        self._owed: dict[str, float] = {}
        self._stands: dict[str, int] = {}

    def send(self, moves: Mapping[str, float], readback: Mapping[str, float], time_s: float) -> None:
        """Moves sent after the sample of plant time `time_s`, whose read-back they started from."""
        self.sent, self._start, self._time_s = dict(moves), dict(readback), time_s

    def forget(self) -> None:
        """Nothing is expected any more."""
        self.sent = {}
        self._owed.clear()
        self._stands.clear()

    def slack(self, mv: str) -> float:
        """The difference that counts as none, in the MV's unit."""
        return self._tolerance * self._moves[mv].span

    def strays(self, readback: Mapping[str, float], time_s: float) -> dict[str, str]:
        """MVs that went elsewhere, and how, in words; empty when all obey or nothing was sent."""
        # Two scans: one until the plant takes the move, one until it shows it.
        moving_s = max(0.0, (time_s - self._time_s) * self._reaction - 2 * self._scan_s)
        found = {}
        for mv, sent in self.sent.items():
            start, now, slack = self._start[mv], readback[mv], self.slack(mv)
            reach = self._moves[mv].reach(moving_s)
            slowest = min(start + reach, sent) if sent > start else max(start - reach, sent)
            if not min(slowest, sent) - slack <= now <= max(slowest, sent) + slack:
                found[mv] = f"{mv} is {now:.4g} where {sent:.4g} was sent"
            elif self._stuck(mv, sent - start, now - start):
                found[mv] = f"{mv} stays at {now:.4g}, whatever is sent"
        return found

    def _stuck(self, mv: str, asked: float, moved: float) -> bool:
        """Asked to move for some samples, altogether by more than counts as none, and always in vain."""
        in_vain = abs(asked) > 1e-9 * self._moves[mv].span and moved * asked < _SHARE * asked * asked
        self._owed[mv] = self._owed.get(mv, 0.0) + abs(asked) if in_vain else 0.0
        self._stands[mv] = self._stands.get(mv, 0) + 1 if in_vain else 0
        return self._stands[mv] >= _IN_VAIN and self._owed[mv] > self.slack(mv)
