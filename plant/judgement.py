"""The one judgement of a value: for `check`, the link, the recorder, training and the runtime alike.

It asks whether the number can be what the instrument measured and whether its source time can be one. Whether a value is still
fresh depends on those before it, and is asked elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plant.link import Quality, Value
from plant.spec import Tag

EARLIEST_S = 631152000.0
"""1990: no control system of today was stamping before."""


def believable(tag: Tag, values: ArrayLike) -> NDArray[np.bool_]:
    """Which of `values` (any shape, the tag's unit) the instrument can have read: finite, past the range by no more than
    `tag.over_range` of it, and one of its states where it has any."""
    read = np.asarray(values, dtype=np.float64)
    slack = tag.over_range * tag.span
    with np.errstate(invalid="ignore"):
        good = np.isfinite(read) & (read >= tag.range[0] - slack) & (read <= tag.range[1] + slack)
    return good & np.isin(read, list(tag.states)) if tag.states else good


def impossible(time_s: float, now_s: float, window_s: float, scanned: bool = True) -> str:
    """Why a source time (plant time, s) cannot be one at `now_s`; '' where it can. What is not `scanned` may have rested for
    years: a set-point is stamped when it was last changed (OPC UA Part 4, 7.11.3)."""
    if abs(time_s - now_s) <= window_s:  # false for NaN
        return ""
    if not scanned and EARLIEST_S <= time_s <= now_s:
        return ""
    try:
        shown = f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        shown = f"{time_s:g} s"
    return f"its source time {shown} cannot be: it is not within {window_s / 3600:g} h of now"


def judged(tag: Tag, value: Value, now_s: float, window_s: float) -> Value:
    """`value` as far as it may be believed at plant time `now_s`: Bad with the reason where it may not. A source time further
    than `window_s` from now is replaced by `now_s`, so that no arithmetic ever meets 1601."""
    if why := impossible(value.time_s, now_s, window_s, tag.scanned):
        value = replace(value, time_s=now_s, quality=Quality.BAD, reason=value.reason or why)
    if value.quality is Quality.BAD:
        return value
    if not math.isfinite(value.value):
        return replace(value, quality=Quality.BAD, reason=value.reason or "not a number")
    if not believable(tag, value.value):
        expected = f"one of {list(tag.states)}" if tag.states else f"in [{tag.range[0]:g}, {tag.range[1]:g}]"
        return replace(
            value, quality=Quality.BAD, reason=f"out of range: {value.value:g} {tag.unit}, expected {expected}"
        )
    return value
