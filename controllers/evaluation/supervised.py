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
    """`controller` for `batch` plants, told of the surprise, until the plant no longer follows `model`: where the surprise has
    been past the limit of `config` for its number of samples, the MVs of that plant go to their safe values and stay there,
    with status FALLBACK. `shed` (batch,) says where, `score` (batch,) is the surprise of the last sample."""

    def __init__(
        self,
        controller: Controller,
        model: WorldModel,
        surprise: PlantSurprise,
        batch: int,
        config: SupervisorConfig | None = None,
    ) -> None:
        self._controller, self._batch = controller, batch
        moves = [t.move for t in model.spec.mvs if t.move]
        self._safe = np.array([m.safe for m in moves])
        self._step = np.array([m.rate_per_s for m in moves]) * model.spec.sample_time_s
        self._watch, self._config = Watch(model, surprise, batch), config or SupervisorConfig()
        self.horizon = controller.horizon
        self.reset()

    def reset(self) -> None:
        self._controller.reset()
        self._watch.reset()
        self._count, self.shed = np.zeros(self._batch, int), np.zeros(self._batch, bool)
        self.score = np.zeros(self._batch)

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began, o = time.perf_counter(), observation
        self.score = self._watch.see(o.measured, o.dvs, o.applied, o.constants).score
        self._count = np.where(self.score > self._config.surprise_to_shed, self._count + 1, 0)
        self.shed = self.shed | (self._count >= self._config.surprise_samples)
        told = dataclasses.replace(o, surprise=self.score)
        wanted = self._controller.decide(told, targets)
        safe = np.clip(self._safe, o.standing - self._step, o.standing + self._step)
        moves = np.where(self.shed[:, None], safe, wanted.moves)
        status = tuple(Status.FALLBACK if s else w for s, w in zip(self.shed.tolist(), wanted.status, strict=True))
        return dataclasses.replace(wanted, moves=moves, status=status, solve_time_s=time.perf_counter() - began)
