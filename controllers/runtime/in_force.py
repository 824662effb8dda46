"""What the MVs did between two samples, from read-backs a sample apart: the same moves as a model learns from a history."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.moves import mean_over, path_of
from plant.spec import Move, PlantSpec

Array = NDArray[np.float64]
_GAP = 1.5  # samples: what happened over a longer time is not asked


class InForce:
    """The time mean of each MV since the last sample, and where it is now.

    A move of ours went from the position then to the position now at the MV's rate, beginning when it was sent, and rested there.
    What somebody else moved went there evenly. An MV of which only its target is read (`move.recorded`) follows it at its rate;
    where somebody else changed the target, from the middle of the interval on.
    """

    def __init__(self, spec: PlantSpec) -> None:
        self._moves = {t.name: t.move for t in spec.mvs if t.move is not None}
        self._sample_s = spec.sample_time_s
        self.forget()

    def forget(self) -> None:
        """Nothing was read or sent before."""
        self._time_s = float("nan")
        self._read: dict[str, float] = {}
        self._stood: dict[str, float] = {}
        self._sent: dict[str, float] = {}

    def send(self, moves: Mapping[str, float], after_s: float) -> None:
        """`moves` were sent `after_s` plant seconds after the last sample."""
        self._sent |= dict.fromkeys(moves, max(after_s, 0.0))

    def since(self, values: Mapping[str, float], time_s: float) -> tuple[Array, Array]:
        """The mean since the last sample, and the position now (n_mv each), given what is read now, at plant time `time_s`."""
        length = time_s - self._time_s
        known = 0.0 < length <= _GAP * self._sample_s
        both = []
        for mv, move in self._moves.items():
            now, began = values[mv], self._sent.get(mv)
            before = self._read.get(mv, np.nan) if known else np.nan
            if not np.isfinite(before):
                mean = position = now
            elif move.recorded == "target":
                start = length / 2 if began is None else min(began, length)
                mean, position = _followed(move, before, now, self._stood[mv], start, length)
            else:
                mean, position = now - (now - before) * _late(move, now - before, began, length), now
            both.append((mean, position))
            self._read[mv], self._stood[mv] = now, position
        self._time_s, self._sent = time_s, {}
        mean, position = np.array(both, dtype=np.float64).reshape(-1, 2).T
        return mean, position


def _late(move: Move, distance: float, began: float | None, length: float) -> float:
    """The share of a change by `distance` that the mean over `length` s lacks; it began after `began` s, None: who knows when."""
    if began is None:
        return 0.5
    began = min(began, length)
    lasts = min(abs(distance) / move.rate_per_s, length - began)
    return (began + 0.5 * lasts) / length


def _followed(
    move: Move, before: float, now: float, stood: float, began: float, length: float
) -> tuple[float, float]:  # fmt: skip
    """Mean and position of an MV that `stood` there under the target `before`, and went to `now` from `began` s on."""
    end = round(length * 1e6)
    ts = np.array([0, min(max(round(began * 1e6), 1), end - 1), end], np.int64)
    path = path_of((ts, np.array([before, now, now])), move, stood)
    mean = mean_over(path, ts[2:], end, np.array([now]), 0, True)
    return float(mean[0]), path.at_end
