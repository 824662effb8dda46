"""What was met while a history was read, for the check of training data to tell."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_KEPT = 1000  # blocks of each tag: enough to say what unit they may be in


class Counts(Counter[tuple[str, str]]):
    """(what, tag) -> how many; tag "" where it is not of one tag.

    `first`: (what, tag) -> when the first one was (plant time, us) and how it read. `elsewhere`: tag -> blocks most of whose
    readings lie far outside the tag's range and differ, as those of another unit do: start (plant time, s) and median.
    """

    def __init__(self, *args: dict[tuple[str, str], int]) -> None:
        super().__init__(*args)
        self.first: dict[tuple[str, str], tuple[int, str]] = {}
        self.elsewhere: dict[str, list[tuple[float, float]]] = {}

    def note(self, what: str, tag: str, ts: NDArray[np.int64], shown: list[str]) -> None:
        """Count readings at `ts` (n,); `shown` is how they read, the first one at least."""
        if len(ts):
            self[what, tag] += len(ts)
            self.first.setdefault((what, tag), (int(ts[0]), shown[0]))

    def far(self, tag: str, begin_s: float, ts: NDArray[np.int64], refused: Array, kept: int) -> None:
        """Count the readings `refused` (n,) of a block that begins at `begin_s` and has `kept` others."""
        self.note("out of range", tag, ts, [f"{v:g}" for v in refused[:1]])
        if (
            len(refused) > kept and len(np.unique(refused)) > 2
        ):  # one value again and again is what a logger fills gaps with
            blocks = self.elsewhere.setdefault(tag, [])
            if len(blocks) < _KEPT:
                blocks.append((begin_s, float(np.median(refused))))
