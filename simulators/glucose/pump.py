"""The insulin pump between a controller and the skin: limits, a bolus that takes its time, and a smallest step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Pump:
    """A batch of pumps. Programmed basal <= 15 U/h, one bolus <= 25 U, delivered at 1.5 U/min at most in whole steps of
    0.05 U; what is not a whole step yet, or did not fit into the interval, is delivered later and never lost.

    A bolus above the cap is cut to it. The figures are those of common commercial pumps.
    """

    max_basal_U_per_h: float = 15.0
    max_bolus_U: float = 25.0
    speed_U_per_h: float = 90.0
    step_U: float = 0.05

    def start(self, batch: int) -> None:
        self._basal_owed = np.zeros(batch)
        self._bolus_owed = np.zeros(batch)

    def deliver(self, basal_U_per_h: Array, bolus_U: Array, dt_s: float) -> Array:
        """The rate (batch,) delivered over the next `dt_s`, U/h, for this basal rate and this new bolus. Anything that is
        not a finite number counts as none."""
        hours = dt_s / 3600.0
        basal = np.clip(np.nan_to_num(basal_U_per_h, nan=0.0, posinf=0.0), 0.0, self.max_basal_U_per_h)
        bolus = np.clip(np.nan_to_num(bolus_U, nan=0.0, posinf=0.0), 0.0, self.max_bolus_U)
        self._basal_owed = self._basal_owed + basal * hours
        self._bolus_owed = np.minimum(self._bolus_owed + bolus, self.max_bolus_U)
        room = self.speed_U_per_h * hours
        from_basal = np.minimum(self._whole(self._basal_owed), self._whole(room))
        from_bolus = np.minimum(self._whole(self._bolus_owed), self._whole(room - from_basal))
        self._basal_owed = self._basal_owed - from_basal
        self._bolus_owed = self._bolus_owed - from_bolus
        return (from_basal + from_bolus) / hours

    def _whole(self, units: Array | float) -> Array:
        return np.floor(np.asarray(units) / self.step_U + 1e-9) * self.step_U
