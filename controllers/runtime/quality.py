"""Which measurements may be believed: bad, stale, frozen and out-of-range inputs, and what stands in for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from controllers.runtime.config import QualityConfig
from plant.link import Quality, Sample, Value
from plant.spec import PlantSpec, Role, Tag


@dataclass(frozen=True)
class Fault:
    """One tag that is not to be believed: `kind` is bad, stale or frozen; `samples` since when; `text` for operators.

    `lasting`: it has outlived its count. `critical`: the loop cannot do without the tag; so are all MVs, whose read-back
    every move starts from.
    """

    tag: str
    kind: str
    samples: int
    text: str
    lasting: bool
    critical: bool


@dataclass(frozen=True)
class Inputs:
    """One sample after judgement. `values`: every online tag, the last good value while it may stand in, else NaN."""

    values: Mapping[str, float]
    faults: tuple[Fault, ...]

    @property
    def disabling(self) -> tuple[Fault, ...]:
        """Faults of critical tags that have outlived their count."""
        return tuple(f for f in self.faults if f.critical and f.lasting)


class InputQuality:
    """Judges each sample in turn. Ages are measured against the newest source time of the sample, so that they do not
    depend on any clock of ours; a plant whose time stands still as a whole is seen by its heartbeat."""

    def __init__(self, spec: PlantSpec, config: QualityConfig) -> None:
        self._spec, self._config = spec, config
        self._limit = {"bad": config.bad_samples, "stale": config.stale_samples, "frozen": config.frozen_samples}
        self._last: dict[str, Value] = {}
        self._same: dict[str, int] = {}
        self._good: dict[str, float] = {}
        self._counts: dict[str, dict[str, int]] = {t.name: dict.fromkeys(self._limit, 0) for t in spec.online}
        self._held: dict[str, int] = {}

    def judge(self, sample: Sample) -> Inputs:
        """The sample's values with faults named; a tag missing from it is bad."""
        values: dict[str, float] = {}
        faults: list[Fault] = []
        for tag in self._spec.online:
            value = sample.values.get(tag.name, Value(math.nan, Quality.BAD, sample.time_s, "not in the sample"))
            fault = self._fault(tag, value, sample.time_s)
            self._last[tag.name] = value
            if fault is not None:
                faults.append(fault)
            if fault is None:
                self._good[tag.name], self._held[tag.name] = value.value, 0
                values[tag.name] = value.value
            else:
                self._held[tag.name] = self._held.get(tag.name, 0) + 1
                stand_in = self._held[tag.name] <= self._config.hold_samples
                values[tag.name] = self._good.get(tag.name, math.nan) if stand_in else math.nan
        return Inputs(values, tuple(faults))

    def _fault(self, tag: Tag, value: Value, now_s: float) -> Fault | None:
        counts, critical = self._counts[tag.name], tag.critical or tag.role is Role.MV
        texts = {"bad": self._bad(tag, value), "stale": self._stale(tag, value, now_s)}
        for kind, text in texts.items():
            counts[kind] = counts[kind] + 1 if text else 0
        counts["frozen"] = self._repeats(tag, value, counts["frozen"])
        if counts["frozen"] >= self._limit["frozen"]:
            texts["frozen"] = f"is frozen at {value.value:g} {tag.unit}"
        for kind, text in texts.items():
            if text:
                lasting = counts[kind] >= self._limit[kind]
                return Fault(tag.name, kind, counts[kind], f"{tag.name} {text}", lasting, critical)
        return None

    def _bad(self, tag: Tag, value: Value) -> str:
        if value.quality is Quality.BAD or not math.isfinite(value.value):
            return f"is bad: {value.reason or 'not a number'}"
        if not tag.range[0] <= value.value <= tag.range[1]:
            return f"is out of range: {value.value:g} {tag.unit} outside [{tag.range[0]:g}, {tag.range[1]:g}]"
        return ""

    def _stale(self, tag: Tag, value: Value, now_s: float) -> str:
        if tag.role is Role.COND:
            return ""  # what holds for a run may have been stamped when it began
        limit_s = tag.stale_s or self._config.stale_after * max(self._spec.sample_time_s, tag.period_s or 0.0)
        age_s = now_s - value.time_s
        return f"is stale: {age_s:.0f} s old, {limit_s:.0f} s allowed" if age_s > limit_s else ""

    def _repeats(self, tag: Tag, value: Value, so_far: int) -> int:
        """How many new readings in a row equalled the one before. No new reading (an old source time) says nothing."""
        last = self._last.get(tag.name)
        if tag.noise == 0 or last is None or value.time_s <= last.time_s:
            return so_far
        return so_far + 1 if value.value == last.value else 0
