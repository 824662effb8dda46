"""What the supervisor makes of a surprised model, for a batch of plants in lock-step."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from controllers.contracts import Controller, Decision, Observation, Status, Targets
from controllers.runtime.config import SupervisorConfig
from models.plant_surprise import PlantSurprise, Watch
from models.world_model import WorldModel


class Supervised:
    """`controller` for `batch` plants, told of the surprise, until the plant no longer follows `model`: where the surprise has been past the limits of
    `config` for its number of samples, `fallback` has that plant from then on, with status FALLBACK. `shed` (batch,) says
    where, `score` (batch,) is the surprise of the last sample."""

    def __init__(
        self,
        controller: Controller,
        fallback: Controller,
        model: WorldModel,
        surprise: PlantSurprise,
        batch: int,
        config: SupervisorConfig | None = None,
    ) -> None:
        self._controller, self._fallback, self._batch = controller, fallback, batch
        self._watch, self._config = Watch(model, surprise, batch), config or SupervisorConfig()
        self.horizon = controller.horizon
        self.reset()

    def reset(self) -> None:
        for part in (self._controller, self._fallback, self._watch):
            part.reset()
        self._count, self.shed = np.zeros(self._batch, int), np.zeros(self._batch, bool)
        self.score = np.zeros(self._batch)

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began, o = time.perf_counter(), observation
        self.score = self._watch.see(o.measured, o.dvs, o.applied, o.constants).score
        self._count = np.where(self.score > self._config.surprise_to_shed, self._count + 1, 0)
        self.shed = self.shed | (self._count >= self._config.surprise_samples)
        told = dataclasses.replace(o, surprise=self.score)
        wanted, instead = self._controller.decide(told, targets), self._fallback.decide(o, targets)
        moves = np.where(self.shed[:, None], instead.moves, wanted.moves)
        status = tuple(Status.FALLBACK if s else w for s, w in zip(self.shed.tolist(), wanted.status, strict=True))
        return dataclasses.replace(wanted, moves=moves, status=status, solve_time_s=time.perf_counter() - began)
