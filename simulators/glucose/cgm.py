"""Continuous glucose monitors as sensors: the published error models, sampling, range, and what goes wrong with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError

Array = NDArray[np.float64]
_DAY_MIN = 1440.0


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as events a day and their mean length in minutes (exponential). A dropout reads NaN; a compression
    (someone sleeps on the sensor) reads up to `compression_mg_dL` too low; a stuck sensor repeats its last value."""

    dropouts_per_day: float = 0.0
    dropout_min: float = 30.0
    compressions_per_day: float = 0.0
    compression_min: float = 40.0
    compression_mg_dL: float = 50.0
    stuck_per_day: float = 0.0
    stuck_min: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0 or (name.endswith("_min") and value == 0):
                raise SpecError(f"{name} = {value}", "CGM faults", "Give a positive number (0 a day: never).")


class Cgm(ABC):
    """A CGM for a batch: a new value every `sample_min`, held in between, clipped to `low`..`high` mg/dL.

    `sigma` is the standard deviation of its error, mg/dL: the published process scaled by `sigma / published_sigma`; 0
    reads the truth.
    """

    sample_min: ClassVar[float]
    low: ClassVar[float]
    high: ClassVar[float]
    published_sigma: ClassVar[float]

    def __init__(self, sigma: float | None = None, faults: Faults | None = None) -> None:
        self._scale = 1.0 if sigma is None else sigma / self.published_sigma
        self._faults = faults or Faults()

    def start(self, batch: int, rng: np.random.Generator) -> None:
        self._batch, self._rng, self._next_min = batch, rng, -np.inf
        self._value = np.full(batch, np.nan)
        self._until = {kind: np.full(batch, -np.inf) for kind in ("dropout", "compression", "stuck")}
        self._depth = np.zeros(batch)
        self._last_min: float | None = None
        self._begin()

    def see(self, time_s: float, true: Array) -> None:
        now = time_s / 60.0
        if now < self._next_min - 1e-6:
            return
        error = self._scale * self._error(now)
        elapsed = self.sample_min if self._last_min is None else now - self._last_min
        value = np.clip(true + error - self._compressed(now, elapsed), self.low, self.high)
        stuck = self._happens("stuck", now, elapsed) & np.isfinite(self._value)
        value = np.where(stuck, self._value, value)
        self._value = np.where(self._happens("dropout", now, elapsed), np.nan, value)
        self._last_min, self._next_min = now, now + self.sample_min

    def read(self) -> Array:
        return self._value.copy()

    @abstractmethod
    def _begin(self) -> None:
        """Draw the error's past, in its stationary law."""

    @abstractmethod
    def _error(self, now_min: float) -> Array:
        """The published error (batch,) at that minute, mg/dL; times never go back."""

    def _happens(self, kind: str, now: float, elapsed: float) -> NDArray[np.bool_]:
        """Whether that fault is on; each begins at random and lasts an exponential time."""
        f = self._faults
        rate, mean = {
            "dropout": (f.dropouts_per_day, f.dropout_min),
            "compression": (f.compressions_per_day, f.compression_min),
            "stuck": (f.stuck_per_day, f.stuck_min),
        }[kind]
        until = self._until[kind]
        if rate:
            begins = (self._rng.random(self._batch) < -np.expm1(-rate * elapsed / _DAY_MIN)) & (until <= now)
            until[begins] = now + self._rng.exponential(mean, int(begins.sum()))
            if kind == "compression":
                self._depth[begins] = f.compression_mg_dL * self._rng.random(int(begins.sum()))
        return until > now

    def _compressed(self, now: float, elapsed: float) -> Array:
        return np.where(self._happens("compression", now, elapsed), self._depth, 0.0)


class BretonKovatchev(Cgm):
    """Breton & Kovatchev, J. Diabetes Sci. Technol. 2 (2008) 853: an AR(1) every 15 min through a Johnson SU transform,
    e' = 0.7 (e + N(0, 1)), error = -5.47 + 15.9574 sinh((e + 0.5444) / 1.6898), interpolated by cubics in between."""

    sample_min = 5.0
    low, high = 39.0, 600.0
    published_sigma = 11.73  # of the nodes: the Johnson transform of the stationary AR(1), variance 0.49 / 0.51
    node_min = 15.0
    memory = 0.7

    def _begin(self) -> None:
        spread = self.memory / np.sqrt(1.0 - self.memory**2)
        self._e = spread * self._rng.standard_normal(self._batch)
        self._nodes = [self._transform(self._e)]
        while len(self._nodes) < 4:
            self._push()
        self._segment_min: float | None = None

    @staticmethod
    def _transform(e: Array) -> Array:
        return -5.47 + 15.9574 * np.sinh((e + 0.5444) / 1.6898)

    def _push(self) -> None:
        self._e = self.memory * (self._e + self._rng.standard_normal(self._batch))
        self._nodes.append(self._transform(self._e))

    def _error(self, now_min: float) -> Array:
        if self._segment_min is None:
            self._segment_min = now_min
        while now_min >= self._segment_min + self.node_min - 1e-6:
            self._segment_min += self.node_min
            self._push()
            self._nodes.pop(0)
        a, b, c, d = self._nodes  # a cubic from b to c with the slopes the neighbours give (Catmull-Rom)
        t = (now_min - self._segment_min) / self.node_min
        return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


class DexcomG6(Cgm):
    """Vettoretti et al., IEEE EMBC 2019 (PMID 31946005): the sum of two AR(2) processes a minute, the sensor's own and what it
    shares with others worn beside it; a value every 5 min. Its calibration drift is left out."""

    sample_min = 5.0
    low, high = 40.0, 400.0
    coefficients = np.array([[1.220, -0.331], [1.340, -0.492]])
    innovation_variance = np.array([3.641, 5.538])
    published_sigma = 7.96  # sqrt of the two stationary variances, 25.6 and 37.8

    def _begin(self) -> None:
        (phi1, phi2), var = self.coefficients.T, self.innovation_variance
        sd = np.sqrt((1 - phi2) * var / ((1 + phi2) * ((1 - phi2) ** 2 - phi1**2)))
        rho = phi1 / (1 - phi2)
        older, newer = self._rng.standard_normal((2, 2, self._batch))
        self._older = sd[:, None] * older
        self._newer = rho[:, None] * self._older + (sd * np.sqrt(1 - rho**2))[:, None] * newer
        self._at_min: float | None = None

    def _error(self, now_min: float) -> Array:
        steps = 0 if self._at_min is None else round(now_min - self._at_min)
        for _ in range(steps):
            shock = np.sqrt(self.innovation_variance)[:, None] * self._rng.standard_normal((2, self._batch))
            (phi1, phi2) = self.coefficients.T
            self._older, self._newer = (
                self._newer,
                phi1[:, None] * self._newer + phi2[:, None] * self._older + shock,
            )
        self._at_min = now_min if self._at_min is None else self._at_min + steps
        return self._newer.sum(0)
