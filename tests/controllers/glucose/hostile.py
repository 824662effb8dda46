"""A hostile policy for the tests of what stands between a controller and a pump."""

from __future__ import annotations

import numpy as np

from controllers.contracts import Decision, Observation, Targets
from plant.spec import PlantSpec


class AlwaysMost:
    """The same rate always, by default all the insulin the pump can give."""

    horizon = 1

    def __init__(self, spec: PlantSpec, batch: int, rate_U_per_h: float = 90.0) -> None:
        self._spec, self._batch, self._rate = spec, batch, rate_U_per_h

    def reset(self) -> None:
        pass

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        return Decision.of_moves(self._spec, np.full((self._batch, 1), self._rate), 0.0)
