"""`Process`: what a plant's server needs from whatever moves the plant (a simulator; a bridge to hardware)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Process(Protocol):
    """A plant, or a batch of identical plants, advanced by hand. Arrays lead with the batch dimension."""

    batch: int

    def advance(self, moves: Array, dt_s: float) -> None:
        """Hold `moves` (batch x n_mv, engineering units) for `dt_s` plant seconds."""
        ...

    def measure(self) -> dict[str, Array]:
        """Sensor readings now: tag -> (batch,). Every online tag but the MVs; NaN where a sensor has failed."""
        ...
