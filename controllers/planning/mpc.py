"""`JepaMpc`: the world model, the planner and the offset correction as one `Controller`."""

from __future__ import annotations

import dataclasses
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from controllers.contracts import Decision, Observation, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.goal import Goal, GoalEnergy
from controllers.planning.latent import Array, LatentController
from controllers.planning.problem import Energy, Problem
from controllers.planning.target_layer import TargetLayers
from controllers.planning.tuning import Tuning
from models.calibration import Calibration
from models.gains import Gains
from models.world_model import WorldModel
from plant.errors import ControlError


class JepaMpc(LatentController):
    """Plans for the targets and zones in the latent space of `model`, for `batch` plants. Under `energy: goal` the latents' own
    prediction errors move the `goal`.

    Raises `ControlError` when the horizon is longer than the model was validated to, a goal is to be steered to and none
    is given, or the tuning names what the plant has not.
    """

    def __init__(
        self,
        model: WorldModel,
        config: PlannerConfig | None = None,
        calibration: Calibration | None = None,
        batch: int = 1,
        deadline_s: float | None = None,
        goal: Goal | None = None,
        gains: Gains | None = None,
    ) -> None:
        rails = len(model.spec.guardrails)
        margins = np.zeros(rails) if calibration is None else calibration.margins[-1, :rails].double().numpy()
        self.layers = TargetLayers(model.spec, gains, margins, batch)
        super().__init__(model, config, calibration, batch, deadline_s)
        if self.config.energy == "goal" and goal is None:
            raise ControlError(
                "energy: goal without a goal",
                f"planner of {self.spec.name}",
                "Give the controller a Goal, from training runs or of a window, or take energy: decoded.",
            )
        self.goal = goal if self.config.energy == "goal" else None
        self._tuning = t = Tuning(self.spec, self.config)
        whiten = torch.eye(model.config.latent) if self.goal is None or self.goal.whiten is None else self.goal.whiten
        energy = (Energy if self.goal is None else partial(GoalEnergy, whiten.double()))(
            t.columns, t.scale, t.effort, t.suppression, self.config.steady, t.zone_columns, t.zone_scale
        )
        self.planner = self._planner(energy)

    def reset(self) -> None:
        super().reset()
        self.layers.reset()
        self._plan: Tensor | None = None

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The next move for every plant.

        A plant with no measurement at all, whose moves in force are unknown, whose limits contradict each other, or whose plan is
        not finite, gets status INFEASIBLE and its fallback move.
        """
        began = time.perf_counter()
        deadline = self._deadline(began)
        targets = self.layers.targets(observation, targets)
        with torch.inference_mode():
            z, position, seen = self._observe(observation)
            problem = self._problem(z, position, targets, observation.forecast)
            warm = problem.previous[:, None].expand(-1, self.horizon, -1) if self._plan is None else self._plan
            plan = self.planner.plan(problem, warm, deadline)
            planned = time.perf_counter()
            decision = self.layers.told(self._decision(plan, problem, targets, seen, began))
            self._plan = torch.cat([plan.rollout.moves[:, 1:], plan.rollout.moves[:, -1:]], dim=1)
            self._took(planned)
        return decision

    def _problem(self, z: Tensor, position: Tensor, targets: Targets, forecast: Array | None) -> Problem:
        problem, t = super()._problem(z, position, targets, forecast), self._tuning
        course = problem.targets
        if t.paced:
            held = problem.previous[:, None].expand(-1, self.horizon, -1)
            now = self._reading(z) + problem.bias[:, 0]
            free = self.planner.roll(problem, held)[0].measured
            course = t.reference(now[:, t.columns], free[..., t.columns], course)
        problem = dataclasses.replace(
            problem, targets=course, zones=t.zones(targets, course), rest=t.rest(targets, self.batch)
        )
        return dataclasses.replace(problem, goal=self._goal(problem))

    def _goal(self, problem: Problem) -> Tensor | None:
        """Where each predicted latent should be (batch x horizon x latent), less what predictions of that length missed. A
        target that is left out is where the model reads it now."""
        if self.goal is None:
            return None
        reading = (self._reading(problem.z) + problem.bias[:, 0])[:, None, self.planner.energy.columns]
        targets = torch.where(problem.targets.isnan(), reading, problem.targets)
        d = self.model.denormalise(problem.dvs, "dvs").flatten(0, 1)
        samples = self.goal.windows(targets.flatten(0, 1), d).double()
        windows = samples[:, None].expand(-1, self.model.config.window, -1)
        z = self.model.encode(windows, self._constants.repeat_interleave(self.horizon, 0))
        return z.view(self.batch, self.horizon, -1) - self._missed
