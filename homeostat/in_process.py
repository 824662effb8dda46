"""`InProcessLink`: a simulated plant behind its own regulatory layer, in this process, as a `Link`. It lives as far as the clock says
whenever it is asked: with a `LockStepClock`, hours in a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import numpy as np

from plant.clock import Clock
from plant.link import PlantMode, Quality, Receipt, Sample, Value
from plant.regulatory import RegulatoryLayer
from plant.spec import PlantSpec
from simulators.plant import SimulatedPlant


class InProcessLink:
    """One simulated plant as a `Link`: scans of `spec.scan_time_s` until the clock's plant time, at each call.

    `worst` keeps for each guardrail whose tag the simulator puts out the true value nearest to its limit, or farthest past it, at
    the ends of all scans since the start or since `forget`.
    """

    def __init__(self, spec: PlantSpec, plant: SimulatedPlant, clock: Clock) -> None:
        self.spec, self.plant, self._clock = spec, plant, clock
        self.layer = RegulatoryLayer(spec, 1, {t.name: plant.moves[:, i] for i, t in enumerate(spec.mvs)})
        self._start_s, self._scans = clock.plant_time(), 0
        self.worst: dict[str, float] = {}
        self._see()

    @property
    def speed(self) -> float:
        return self._clock.speed

    async def read(self) -> Sample:
        """Every tag as its sensor shows it now, Bad where it shows nothing."""
        self._live()
        now = self._clock.plant_time()
        shown = {tag: float(v[0]) for tag, v in self.plant.measure().items()}
        shown |= {t.name: float(self.layer.outputs[0, i]) for i, t in enumerate(self.spec.mvs)}
        values = {
            tag: Value(v, Quality.GOOD if np.isfinite(v) else Quality.BAD, self._start_s + self._scans * self.spec.scan_time_s)
            for tag, v in shown.items()
        }  # fmt: skip
        return Sample(now, values, self.layer.mode, self._scans, True, {}, self._clock.wall_time())

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        self._live()
        return Receipt(self.layer.write(moves))

    async def request_mode(self, mode: PlantMode) -> Receipt:
        self._live()
        refusal = self.layer.request_mode(mode, 0.0)
        return Receipt({"Mode": refusal} if refusal else {})

    async def beat(self, counter: int) -> None:
        """Nothing watches in lock-step: wall time does not pass."""

    async def subscribe(self) -> AsyncIterator[Mapping[str, Value]]:
        """Nothing: who works in lock-step reads."""
        for nothing in ():
            yield nothing

    async def close(self) -> None:
        """Nothing to close."""

    def forget(self) -> None:
        """Begin `worst` anew."""
        self.worst = {}
        self._see()

    def _live(self) -> None:
        while self._start_s + (self._scans + 1) * self.spec.scan_time_s <= self._clock.plant_time() + 1e-6:
            outputs = self.layer.scan(self.plant.measure(), self.spec.scan_time_s, 0.0)
            self.plant.advance(outputs, self.spec.scan_time_s)
            self._scans += 1
            self._see()

    def _see(self) -> None:
        true = self.plant.true_outputs()
        for g in self.spec.guardrails:
            if g.tag in true:
                now = float(true[g.tag][0])
                self.worst[g.name] = g.sign * max(g.sign * self.worst.get(g.name, now), g.sign * now)
