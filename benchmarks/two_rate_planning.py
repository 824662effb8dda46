"""Two-rate planning in one latent: a slow layer plans every `n` samples over macro steps of `n` samples and hands latents down
as sub-goals; the control layer plans at the sample rate over a short horizon towards them, guardrails first as ever.

The macro predictor learns on the frozen encoder's latents; its macro-action is the mean move over its samples, which the slow
layer holds (HWM, arXiv 2604.03208, has macro-actions of a few dimensions for the same reason). `benchmarks.two_rate` has
its gate.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Decision, Observation, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.goal import GoalEnergy
from controllers.planning.mpc import JepaMpc
from controllers.planning.planner import Planner
from controllers.planning.problem import Convex, Energy, Problem, Rollout
from controllers.planning.scp import ScpPlanner
from models.calibration import Calibration
from models.config import TrainingConfig
from models.descent import Descent
from models.windows import Run
from models.world_model import Mlp, WorldModel
from plant.errors import ControlError, ModelError

_TRAINING = TrainingConfig()
_READ_OUT = 3.0  # weight of what the predicted latents read, beside the latents themselves


class Macro:
    """Runs in strides of `n` samples: latents `z` (any x steps+1 x latent), mean moves `u` and disturbances `d` of each
    stride (any x steps x n_mv, n_dv), measurements `y` (any x steps+1 x n_measured), normalised; `sure` (any x steps)
    where everything is known, and was so since the first."""

    def __init__(self, model: WorldModel, runs: Sequence[Run], n: int, steps: int) -> None:
        parts: list[list[Tensor]] = []
        with torch.no_grad():
            for run in runs:
                rows = torch.from_numpy(np.concatenate([run.measured, run.dvs, run.applied], 1)).float()
                padding = torch.full((model.config.window - 1, rows.shape[1]), torch.nan)
                z = model.encode(torch.cat([padding, rows]).unfold(0, model.config.window, 1).mT)
                y, d, u = rows.split([model.n_measured, model.n_dv, model.n_mv], 1)
                span = n * steps
                for start in range(0, len(rows) - span, n):
                    here = slice(start, start + span + 1, n)
                    moves = u[start + 1 : start + span + 1].view(steps, n, -1).mean(1)
                    met = d[start : start + span].reshape(steps, n, -1).mean(1)
                    parts.append([z[here], moves, met, y[here]])
        if not parts:
            raise ModelError(
                f"no run of {n * steps + 1} samples", f"macro steps of {model.spec.name}", "Record longer."
            )
        self.z, u, d, y = (torch.stack(column) for column in zip(*parts, strict=True))
        self.u, self.d, self.y = (model.normalise(v, k) for v, k in ((u, "mvs"), (d, "dvs"), (y, "measured")))
        known = [torch.isfinite(v).all(-1) for v in (self.u, self.d, self.y[:, 1:])]
        self.sure = torch.stack(known).all(0).float().cumprod(1)[..., None]
        self.u, self.d, self.y = (v.nan_to_num(0.0) for v in (self.u, self.d, self.y))

    def rolled(self, model: WorldModel, at: Tensor | slice = slice(None)) -> Tensor:
        """Latents at the ends of the strides as `model`, whose step is one, predicts them."""
        z = [self.z[at][:, 0]]
        for k in range(self.u.shape[1]):
            z.append(model.advance_normalised(z[-1], self.u[at][:, k], self.d[at][:, k]))
        return torch.stack(z[1:], 1)


def train_macro(model: WorldModel, runs: Sequence[Run], n: int, ahead: int, steps: int, seed: int = 0) -> WorldModel:
    """`model` with a predictor of `n` samples a step, which learns in `steps` steps of descent from roll-outs of `ahead` of its
    own steps on `runs`. Encoder, read-out and guardrail heads stay as they are."""
    torch.manual_seed(seed)
    macro = copy.deepcopy(model).requires_grad_(False)
    macro.spec = model.spec.model_copy(update={"sample_time_s": n * model.spec.sample_time_s})
    macro.config = model.config.model_copy(update={"horizon": ahead})
    latent = model.config.latent
    macro.predictor = Mlp(latent + model.n_mv + model.n_dv, model.config.predictor_width, latent)
    for layer in (macro.predictor.linear, macro.predictor.last):
        torch.nn.init.zeros_(layer.weight)
    data = Macro(model, runs, n, ahead)
    std = data.z.flatten(0, 1).std(0)
    descent = Descent(macro.predictor.parameters(), macro.predictor, _TRAINING, steps, "macro predictor")
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        at = torch.randint(len(data.z), (_TRAINING.batch,), generator=rng)
        rolled, sure = data.rolled(macro, at), data.sure[at]
        missed = ((rolled - data.z[at][:, 1:]) / std).square()
        read = (macro.read_out_head(rolled) - data.y[at][:, 1:]).square()
        descent.step((sure * missed).mean() + _READ_OUT * (sure * read).mean(), step)
    return macro.requires_grad_(False)


class Uncompiled(JepaMpc):
    """Plans in torch: sub-goals have no compiled planner, and times are compared like with like."""

    def _planner(self, energy: Energy) -> Planner:
        shift = self.model.normalise(self._low, "mvs")
        return ScpPlanner(
            self.model, self.config, energy, self.model.normalise(self._low + self._span, "mvs") - shift, shift
        )


class Layer(Protocol):
    """What hands sub-goals down: asked every `n` samples, it looks `horizon` samples ahead."""

    n: int
    horizon: int

    def reset(self) -> None: ...

    def path(self, z: Tensor, window: Tensor, observation: Observation, targets: Targets) -> Tensor:
        """From the latents (batch x latent) and windows (batch x window x channels) of now, the latents (batch x 2n x
        latent) to be in at the next 2n samples."""
        ...


class SlowLayer(Uncompiled):
    """Plans over the whole horizon of `macro`, whose steps are `n` samples; between their ends the path is straight."""

    def __init__(self, macro: WorldModel, n: int, config: PlannerConfig, margins: Tensor, batch: int = 1) -> None:
        steps = macro.config.horizon
        # A macro step costs its end n times over and n small moves instead of one large one; energies are divided by n.
        config = config.model_copy(update={"horizon": steps, "suppression": config.suppression / n**2})
        super().__init__(macro, config, Calibration(margins[-1:].expand(steps, -1), 0.0, 0), batch)
        self.n, self.horizon = n, n * steps

    def path(self, z: Tensor, window: Tensor, observation: Observation, targets: Targets) -> Tensor:
        applied = window[:, -self.n :, -self.model.n_mv :]
        measured, dvs, _ = window[:, -1].split([self.model.n_measured, self.model.n_dv, self.model.n_mv], -1)
        self._learn_bias(z, measured, applied.mean(1))
        self._z, self._d = z, torch.where(torch.isfinite(dvs), dvs, self._d)
        ends = Targets(targets.values[:, self.n - 1 :: self.n], targets.move_low, targets.move_high)
        problem = self._problem(z, applied[:, -1], ends, observation.forecast)
        warm = problem.previous[:, None].expand(-1, self.config.horizon, -1) if self._plan is None else self._plan
        plan = self.planner.plan(problem, warm)
        self._plan = torch.cat([plan.rollout.moves[:, 1:], plan.rollout.moves[:, -1:]], dim=1)
        ways = torch.cat([z[:, None], plan.rollout.z[:, 1:3] + self._missed[:, :2]], 1)
        share = torch.arange(1, self.n + 1).double()[:, None] / self.n
        legs = ways[:, :-1, None] + share * ways.diff(dim=1)[:, :, None]
        return legs.flatten(1, 2)


class OracleLayer:
    """Sub-goals that nobody can have: where NMPC with the true equations means to be, as `model` encodes it."""

    def __init__(self, model: WorldModel, nmpc: NmpcController, n: int) -> None:
        self.model, self.nmpc, self.n, self.horizon = copy.deepcopy(model).double(), nmpc, n, nmpc.horizon

    def reset(self) -> None:
        self.nmpc.reset()

    def path(self, z: Tensor, window: Tensor, observation: Observation, targets: Targets) -> Tensor:
        for _ in range(self.n - 1):  # its warm start is shifted by one sample a call
            self.nmpc._guess = {b: _shifted(g, self.nmpc) for b, g in self.nmpc._guess.items()}
        decision = self.nmpc.decide(observation, targets)
        ahead = 2 * self.n
        dvs = np.repeat(observation.dvs[:, None], ahead, 1)
        rows = torch.from_numpy(np.concatenate([decision.predicted[:, :ahead], dvs, decision.plan[:, :ahead]], 2))
        windows = torch.cat([window, rows], 1).unfold(1, window.shape[1], 1)[:, 1:].mT
        return self.model.encode(windows)


def _shifted(guess: np.ndarray, nmpc: NmpcController) -> np.ndarray:
    blocks = np.split(guess, np.cumsum([size * nmpc.horizon for size in nmpc._shape])[:-1])
    return np.concatenate([np.vstack([v[1:], v[-1:]]).ravel() for v in (b.reshape(nmpc.horizon, -1) for b in blocks)])


class EndEnergy(GoalEnergy):
    """The task energy over the control horizon, and at its end `weight` times the squared distance to the sub-goal."""

    def __init__(self, weight: float, whiten: Tensor, *decoded: object) -> None:
        super().__init__(whiten, *decoded)
        self.weight = weight

    def tracking(self, rollout: Rollout, problem: Problem) -> Tensor:
        end = self._distance(rollout, problem)[:, -1].square().sum(-1)
        return Energy.tracking(self, rollout, problem) + self.weight * end

    def convex(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> Convex:
        task = Energy.convex(self, rollout, problem, sensitivity, read_out)
        slope = (self.whiten / sensitivity.shape[2] ** 0.5) @ sensitivity[:, -1]
        error = self._distance(rollout, problem)[:, -1, :, None]
        p, q = 2 * self.weight * slope.mT @ slope, 2 * self.weight * (slope.mT @ error)[..., 0]
        return task._replace(p=task.p + p, q=task.q + q)


class TwoRateMpc(Uncompiled):
    """The control layer: `config.horizon` samples, at most `layer.n`, towards the sub-goals of `layer`; distance by `whiten`
    (any x latent). With `weight` the sub-goal counts beside the task and at the end only, without it alone and at every
    sample. Raises `ControlError` for a control horizon that the sub-goals do not reach.
    """

    def __init__(
        self, model: WorldModel, layer: Layer, config: PlannerConfig, calibration: Calibration, whiten: Tensor,
        weight: float | None, batch: int = 1,
    ) -> None:  # fmt: skip
        if config.horizon > layer.n + 1:
            raise ControlError(
                f"a control horizon of {config.horizon} samples and sub-goals {layer.n} apart",
                f"two-rate planner of {model.spec.name}", "Plan no further than the sub-goals reach.",
            )  # fmt: skip
        self.layer, self._whiten, self._weight = layer, whiten, weight
        super().__init__(model, config, calibration, batch)
        self.horizon = layer.horizon

    def _planner(self, energy: Energy) -> Planner:
        decoded = energy.columns, energy.scale, energy.effort, energy.suppression
        whiten = self._whiten.double()
        towards = GoalEnergy(whiten, *decoded) if self._weight is None else EndEnergy(self._weight, whiten, *decoded)
        return super()._planner(towards)

    def reset(self) -> None:
        super().reset()
        self.layer.reset()
        self._path, self._age = torch.empty(0), self.layer.n

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        self._seen = observation, targets
        return super().decide(observation, targets)

    def _problem(self, z: Tensor, applied: Tensor, targets: Targets, forecast: np.ndarray | None) -> Problem:
        self._age += 1
        if self._age >= self.layer.n:
            self._path, self._age = self.layer.path(z, self._window, *self._seen), 0
        problem = super()._problem(z, applied, targets, forecast)
        if self._plan is None:
            self._plan = problem.previous[:, None].expand(-1, self.config.horizon, -1)
        return problem

    def _goal(self, problem: Problem) -> Tensor:
        return self._path[:, self._age : self._age + self.config.horizon] - self._missed
