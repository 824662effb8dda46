"""Where a noisy reading is heading: level and slope that one odd reading does not bend, and how sure they are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from plant.spec import Tag

_FEWEST = 4  # points before a slope is believed
_MOST = 20  # points of a line
_LONG = 12  # samples that slow movements are looked for in


@dataclass(frozen=True)
class Trend:
    """`level` now and `slope` a plant second, with the standard deviations `level_sd` and `slope_sd` (the tag's unit), over the
    last `span_s` plant seconds."""

    level: float
    slope: float
    level_sd: float
    slope_sd: float
    span_s: float

    def ahead(self, seconds: float, sign: float, sure: float = 1.0) -> float:
        """The value `seconds` from now on the side of `sign`, less `sure` standard deviations of it."""
        sd = (self.level_sd**2 + (seconds * self.slope_sd) ** 2) ** 0.5
        return self.level + self.slope * seconds - sign * sure * sd

    @property
    def sure(self) -> float:
        """By how many of its standard deviations the slope differs from none."""
        return abs(self.slope) / max(self.slope_sd, 1e-300)


class Heading:
    """The readings of one tag, and lines through the last of them by the medians of all slopes (Theil 1950, Sen 1968): through
    those of the last `window_s` plant seconds, and through the means of the last dozen samples, which show a slow movement under
    the noise of fast readings."""

    def __init__(self, tag: Tag, window_s: float, look_s: float, sample_s: float) -> None:
        every_s = max(look_s, tag.period_s or 0.0)
        self.window_s = max(window_s, (_FEWEST + 1) * every_s)
        self._noise = max(tag.noise, tag.resolution / 12**0.5)
        count = max(_FEWEST + 1, min(_MOST, int(self.window_s / every_s) + 1))
        self._short: deque[tuple[float, float]] = deque(maxlen=count)
        self._block_s, self._long = max(sample_s, every_s), deque[tuple[float, float, int]](maxlen=_LONG)
        self._block: list[tuple[float, float]] = []

    def see(self, time_s: float, value: float) -> None:
        """A reading at a plant time; what is not a number is none."""
        if not np.isfinite(value) or (self._short and time_s <= self._short[-1][0]):
            return
        self._short.append((time_s, value))
        self._block.append((time_s, value))
        if time_s - self._block[0][0] >= self._block_s - 1e-6:
            t, y = np.array(self._block).T
            self._long.append((float(t.mean()), float(np.median(y)), len(t)))
            self._block = []

    @property
    def latest(self) -> float:
        """The median of the last three readings."""
        return float(np.median([v for _, v in list(self._short)[-3:]])) if self._short else np.nan

    def trends(self) -> list[Trend]:
        """The short line, and the long one where there are readings enough; none while too little was seen."""
        if len(self._short) < _FEWEST:
            return []
        now_s = self._short[-1][0]
        t, y = np.array(self._short).T
        found = [_line(t - now_s, y, self._noise)]
        if len(self._long) > _FEWEST and self._long[0][2] > 1:
            t, y, n = np.array(self._long).T
            found.append(
                _line(t - now_s, y, 1.25 * self._noise / n.mean() ** 0.5)
            )  # a median of n is less sure than their mean
        return found


def _line(t: np.ndarray, y: np.ndarray, noise: float) -> Trend:
    first, second = np.triu_indices(len(t), 1)
    slope = float(np.median((y[second] - y[first]) / (t[second] - t[first])))
    rest = y - slope * t
    level = float(np.median(rest))
    noise = max(noise, 1.4826 * float(np.median(np.abs(rest - level))))
    spread = float(((t - t.mean()) ** 2).sum()) ** 0.5
    return Trend(level, slope, noise * (1 / len(t) + (t.mean() / spread) ** 2) ** 0.5, noise / spread, float(-t[0]))
