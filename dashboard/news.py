"""How long ago something *new* came from a source, by our own clock. Plant time stamps say nothing of that: they may stand,
jump or run ahead."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

PATIENCE_S = 3.0  # wall; a silence of this length is told within 5 s, ticks and pauses of the polls included


@dataclass(frozen=True)
class News:
    """`age_s`: wall seconds since something new came, or since we began to listen where nothing new ever did (`ever` False).
    A source is silent once that is more than `patience_s`."""

    age_s: float = 0.0
    patience_s: float = PATIENCE_S
    ever: bool = True

    @property
    def fresh(self) -> bool:
        """Something new came lately. What was only found, and never seen to change, is not fresh."""
        return self.ever and not self.silent

    @property
    def silent(self) -> bool:
        return self.age_s > self.patience_s


class Listener:
    """Compares what one source says with what it said before. May be told and asked from any thread."""

    def __init__(self) -> None:
        self._said: object = None
        self._heard = self._ever = False
        self._at_s = time.monotonic()
        self._turn = threading.Lock()

    def hear(self, said: object) -> None:
        """The source says this now. The first thing that is heard may be hours old: only a change is news."""
        with self._turn:
            if self._heard and said != self._said:
                self._at_s, self._ever = time.monotonic(), True
            self._heard, self._said = True, said

    def news(self, patience_s: float = PATIENCE_S) -> News:
        with self._turn:
            return News(time.monotonic() - self._at_s, patience_s, self._ever)


def duration(seconds: float) -> str:
    """A span of time in words: '12 s', '3 min', '5 h 10 min', '2 d'."""
    if not math.isfinite(seconds):
        return "–"
    s = abs(seconds)
    if s < 100:
        return f"{s:.0f} s"
    minutes = round(s / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours / 24:.0f} d"
