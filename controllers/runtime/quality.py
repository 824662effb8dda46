"""Which measurements may be believed: bad, stale and frozen inputs, and what stands in for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from controllers.runtime.config import QualityConfig
from controllers.runtime.freshness import Repeats
from plant.judgement import judged
from plant.link import Quality, Sample, Value
from plant.spec import PlantSpec, Tag


@dataclass(frozen=True)
class Fault:
    """One tag that is not to be believed: `kind` is bad, stale or frozen; `samples` since when; `text` for operators.

    `lasting`: it has outlived its count. `critical`: the loop cannot do without the tag; so are all MVs, whose read-back
    every move starts from, unless they are optional.
    """

    tag: str
    kind: str
    samples: int
    text: str
    lasting: bool
    critical: bool


@dataclass(frozen=True)
class Inputs:
    """One sample after judgement. `values`: every online tag, the last good value while it may stand in, else NaN.
    `missing`: samples in a row, by tag, without a reading that is believed; only tags that lack one are named.
    `blind`: of the tags that are stamped at each scan none is believed, so that nothing tells whether the rest is old."""

    values: Mapping[str, float]
    faults: tuple[Fault, ...]
    missing: Mapping[str, int] = field(default_factory=dict)
    blind: bool = False

    @property
    def disabling(self) -> tuple[Fault, ...]:
        """Faults of critical tags that have outlived their count."""
        return tuple(f for f in self.faults if f.critical and f.lasting)


class InputQuality:
    """Judges each sample in turn. A tag stamped at each scan is compared with what most of them say, older and newer alike: one
    that lives an hour ahead is the odd one, not all others. A tag stamped on change holds while the plant's scan lives."""

    def __init__(self, spec: PlantSpec, config: QualityConfig, repeats: Repeats) -> None:
        self._spec, self._config, self._repeats = spec, config, repeats
        self._limit = {"bad": config.bad_samples, "stale": config.stale_samples}
        self._good: dict[str, float] = {}
        self._counts: dict[str, dict[str, int]] = {t.name: dict.fromkeys(self._limit, 0) for t in spec.online}
        self._missing: dict[str, int] = {}

    def judge(self, sample: Sample) -> Inputs:
        """The sample's values with faults named; a tag missing from it is bad."""
        values: dict[str, float] = {}
        faults: list[Fault] = []
        for tag in self._spec.online:
            absent = Value(math.nan, Quality.BAD, sample.time_s, "not in the sample")
            value = sample.values.get(tag.name, absent)
            value = judged(tag, value, sample.time_s, self._spec.stamp_window_s)
            fault = self._fault(tag, value, sample.time_s)
            if fault is None:
                self._good[tag.name] = values[tag.name] = value.value
                self._missing.pop(tag.name, None)
            else:
                faults.append(fault)
                self._missing[tag.name] = self._missing.get(tag.name, 0) + 1
                stand_in = self._missing[tag.name] <= self._config.hold_samples
                values[tag.name] = self._good.get(tag.name, math.nan) if stand_in else math.nan
        scanned = {t.name for t in self._spec.online if t.scanned}
        blind = bool(scanned) and scanned <= {f.tag for f in faults}
        return Inputs(values, tuple(faults), dict(self._missing), blind)

    def _fault(self, tag: Tag, value: Value, now_s: float) -> Fault | None:
        counts = self._counts[tag.name]
        critical = tag.critical if tag.move is None else not tag.move.optional
        bad = value.quality is Quality.BAD
        texts = {
            "bad": f"is bad: {value.reason or 'not a number'}" if bad else "",
            "stale": self._stale(tag, value, now_s),
        }
        for kind, text in texts.items():
            counts[kind] = counts[kind] + 1 if text else 0
        for kind, text in texts.items():
            if text:
                lasting = counts[kind] >= self._limit[kind]
                return Fault(tag.name, kind, counts[kind], f"{tag.name} {text}", lasting, critical)
        repeats = self._repeats.counts.get(tag.name, 0)
        if repeats and repeats >= self._repeats.limits[tag.name]:
            text = f"{tag.name} is frozen at {value.value:g} {tag.unit}"
            return Fault(tag.name, "frozen", repeats, text, True, critical)
        return None

    def _stale(self, tag: Tag, value: Value, now_s: float) -> str:
        if not tag.scanned:
            return ""
        limit_s = tag.stale_s or self._config.stale_after * max(self._spec.sample_time_s, tag.period_s or 0.0)
        age_s = now_s - value.time_s
        if age_s < -limit_s:
            return f"is stale: its source time is {-age_s:.0f} s ahead of the others', {limit_s:.0f} s allowed"
        return f"is stale: {age_s:.0f} s old, {limit_s:.0f} s allowed" if age_s > limit_s else ""
