"""Measurements slower than the sample time: seen when they are new, missing between, as in the data a model learned from."""

from __future__ import annotations

import math

from controllers.runtime.quality import Inputs
from plant.link import Sample
from plant.spec import PlantSpec


class SlowTags:
    """Which readings of the tags with a `period_s` are new. The rule is that of `models.dataset`: another value than before,
    or the same again with a source time a whole period later; a server may stamp what it holds anew at each scan."""

    def __init__(self, spec: PlantSpec) -> None:
        self._half_s = 0.5 * spec.sample_time_s
        self._period_s = {
            t.name: t.period_s for t in spec.measured if t.period_s is not None and t.period_s > spec.sample_time_s
        }
        self._last: dict[str, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._period_s)

    def forget(self) -> None:
        """Nothing was read before."""
        self._last.clear()

    def seen(self, sample: Sample, inputs: Inputs) -> dict[str, float]:
        """The values of `inputs`, NaN where a slow tag has said nothing new since the sample before."""
        values = dict(inputs.values)
        for tag, period_s in self._period_s.items():
            reading = sample.values.get(tag)
            last = self._last.get(tag)
            new = reading is not None and math.isfinite(values[tag]) and (
                last is None or reading.value != last[0] or reading.time_s - last[1] >= period_s - self._half_s
            )  # fmt: skip
            if new and reading is not None:
                self._last[tag] = (reading.value, reading.time_s)
            else:
                values[tag] = math.nan
        return values
