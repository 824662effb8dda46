"""NMPC that plays its plans through the simulator itself: the yardstick where a plant's equations are too many for CasADi."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.planning.allowance import Allowance
from controllers.planning.config import PlannerConfig
from controllers.planning.explained import contradiction
from controllers.planning.problem import Energy, Problem, Rollout
from controllers.planning.scp import ScpPlanner
from controllers.planning.tuning import Tuning
from models.calibration import Calibration
from models.config import ModelConfig
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.registry import simulator_of
from simulators.stepping import Stepper, stepper_of

Array = NDArray[np.float64]
State = Callable[[], tuple[Array, Array, Array]]
"""What plants are like now: states (batch x n_x), disturbances (batch x n_d) and parameters (batch x n_p)."""

_NUDGE = 0.002  # of an MV's span, by which a move is changed to see what follows


class Truth(nn.Module):
    """A simulator as planners want a model. Its latent of a sample ahead is the outputs that targets and zones name and the margins
    of the guardrails in their scales; that of now is [states, disturbances, parameters]. Recoverability is left out."""

    n_constant = 0

    def __init__(self, spec: PlantSpec, horizon: int) -> None:
        super().__init__()
        simulator = simulator_of(spec)
        rails = tuple(g.model_copy(update={"fallback_tag": None}) for g in spec.guardrails)
        self.spec = spec.model_copy(update={"guardrails": rails})
        names = simulator.names
        self.stepper: Stepper = stepper_of(type(simulator))
        self.sizes = [len(names.x), len(names.d), len(names.p)]
        self.read = [wanted.tag for wanted in (*spec.targets, *spec.zones)]
        tags = [*self.read, *(g.tag for g in rails)]
        if unknown := [t for t in tags if t not in names.y]:
            raise ControlError(
                f"the simulator has no output {', '.join(unknown)}", f"NMPC of {spec.name}",
                f"Its outputs are {', '.join(names.y)}.",
            )  # fmt: skip
        self._outputs = [names.y.index(t) for t in tags]
        self.n_measured, self.n_mv = len(self.read), len(names.u)
        self._sign = np.array([1.0] * self.n_measured + [-g.sign / self.spec.scale(g) for g in rails])
        self._limit = np.array([0.0] * self.n_measured + [g.limit for g in rails])
        self.config = ModelConfig(latent=len(tags), horizon=horizon)
        self.register_buffer("channel_std", torch.ones(len(tags)).double())
        self.register_buffer("margin_scale", torch.ones(len(rails)).double())
        self.read_out_head = nn.Linear(len(tags), self.n_measured, bias=False).double().requires_grad_(False)
        nn.init.eye_(self.read_out_head.weight)

    @property
    def limit_heads(self) -> Truth:
        return self

    fallback_heads = limit_heads

    def watched(self, x: Array, u: Array, d: Array, p: Array) -> Array:
        """The latent (batch x latent) of plants in these states, with these moves in force."""
        return self._sign * (self.stepper.outputs(x, u, d, p)[:, self._outputs] - self._limit)

    def limit_margins(self, z: Tensor) -> Tensor:
        return z[..., self.n_measured :]

    fallback_margins = limit_margins

    def jacobian(self, z: Tensor) -> Tensor:
        """d `limit_margins` / d z."""
        slope = torch.eye(z.shape[-1], dtype=z.dtype)[self.n_measured :]
        return slope.expand(*z.shape[:-1], *slope.shape)


class SimulatorPlanner(ScpPlanner):
    """Sequential convex programming with roll-outs of the simulator; slopes are differences of roll-outs that part where a
    move is changed."""

    model: Truth

    def __init__(self, model: Truth, config: PlannerConfig, energy: Energy, scale_u: Tensor, shift_u: Tensor) -> None:
        super().__init__(model, config, energy, scale_u, shift_u)  # type: ignore[arg-type]
        self._dt = model.spec.sample_time_s

    def roll(self, problem: Problem, moves: Tensor) -> tuple[Rollout, Tensor]:
        u = (moves * self.scale_u + self.shift_u).numpy()
        x, d, p = np.split(problem.z.numpy(), np.cumsum(self.model.sizes)[:-1], axis=1)
        before, watched = [], []
        for k in range(self.config.horizon):
            before.append(np.concatenate([x, d, p, u[:, k]], 1))
            x, _ = self.model.stepper.advance(x, u[:, k], d, p, self._dt)
            watched.append(self.model.watched(x, u[:, k], d, p))
        y = torch.from_numpy(np.stack(watched, 1))
        states = torch.cat([torch.zeros_like(y[:, :1]), y], 1)
        rollout = Rollout(moves, states, y[..., : self.model.n_measured] + problem.bias, self.model.limit_margins(y))
        return rollout, torch.from_numpy(np.stack(before, 1))

    def sensitivity(self, inputs: Tensor) -> Tensor:
        batch, h, m = len(inputs), self.config.horizon, self.model.n_mv
        cuts, nudge = np.cumsum(self.model.sizes), _NUDGE * self.scale_u.numpy()
        starts = inputs.numpy()
        _, d, p, _ = np.split(starts[:, 0], cuts, axis=1)
        slopes = np.zeros((batch, h, self.model.config.latent, h * m))
        branches = np.empty((0, starts.shape[-1]))[:, : cuts[0]]  # the nudged ones so far, move by move, plant by plant
        for k in range(h):
            x, u = starts[:, k, : cuts[0]], starts[:, k, cuts[-1] :]
            moves = [u + nudge * (np.arange(m) == i) for i in range(m)]
            n = 1 + len(branches) // batch + m
            branches = np.concatenate([x, branches, *([x] * m)])
            moved = np.concatenate([np.tile(u, (n - m, 1)), *moves])
            held = np.tile(d, (n, 1)), np.tile(p, (n, 1))
            branches, _ = self.model.stepper.advance(branches, moved, *held, self._dt)
            y = self.model.watched(branches, moved, *held).reshape(n, batch, -1)
            slopes[:, k, :, : n - 1] = (y[1:] - y[0]).transpose(1, 2, 0) / _NUDGE
            branches = branches[batch:]
        return torch.from_numpy(slopes)


class SimulatorNmpc:
    """`ScpPlanner` on the plants' own equations, with their true states, disturbances and parameters from `state`: energy,
    limits, rates, guardrails and their ranking are those of `JepaMpc` with the same `config`. `calibration` holds the margins
    to keep, of which those of recoverability are not asked for; none: the bare limits. Disturbances are held.

    Raises `ControlError` where the simulator has no output that a target or guardrail names.
    """

    def __init__(
        self, spec: PlantSpec, state: State, config: PlannerConfig | None = None, calibration: Calibration | None = None
    ) -> None:
        self.spec, self.config, self._state = spec, config or PlannerConfig(), state
        self.horizon = self.config.horizon
        moves = [t.move for t in spec.mvs if t.move]
        self._low, self._span = _double([m.limits[0] for m in moves]), _double([m.span for m in moves])
        self._rate = _double([m.reach(spec.sample_time_s) for m in moves]) / self._span
        self._safe = (_double([m.safe for m in moves]) - self._low) / self._span
        count = len(spec.guardrails)
        self._scale = _double([spec.scale(g) for g in spec.guardrails])
        kept = Calibration.none(self.horizon, count) if calibration is None else calibration
        self._required = kept.margins[: self.horizon, :count].double() / self._scale + self.config.guard
        self._tuning = t = Tuning(spec, self.config)
        targets = list(range(len(spec.targets)))
        energy = Energy(targets, t.scale, t.effort, t.suppression, self.config.steady, t.zoned, t.zone_scale)
        self.planner = SimulatorPlanner(Truth(spec, self.horizon), self.config, energy, self._span, self._low)
        self.reset()

    def reset(self) -> None:
        self._plan: Tensor | None = None
        self._allowance: Allowance | None = None

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The next move for every plant; INFEASIBLE and the safe move where the state is not finite or the limits leave none."""
        began = time.perf_counter()
        x, d, p = self._state()
        z = torch.from_numpy(np.concatenate([x, d, p], 1))
        batch, h, n = len(z), self.horizon, self.planner.model.n_measured
        known = torch.isfinite(z).all(1) & (not contradiction(self.spec, targets))
        goals, low, high = (_double(v) for v in (targets.values, targets.move_low, targets.move_high))
        goals = goals[:, torch.arange(h).clamp(max=goals.shape[1] - 1)].expand(batch, -1, -1)
        now = self.planner.model.watched(x, np.array(observation.applied, float), d, p)
        self._allowance = self._allowance or Allowance(self.spec, batch)
        latent = torch.from_numpy(now)
        required = self._allowance.required(
            self._required.expand(batch, -1, -1), self.planner.model.limit_margins(latent)
        )
        problem = Problem(
            z=z,
            dvs=torch.zeros(batch, h, 0).double(),
            previous=(_double(observation.standing) - self._low) / self._span,
            low=(low - self._low) / self._span,
            high=(high - self._low) / self._span,
            rate=self._rate,
            fallback=self._safe,
            targets=goals,
            bias=torch.zeros(batch, h, n).double(),
            required=required,
            rest=self._tuning.rest(targets, batch),
        )
        held = problem.previous[:, None].expand(-1, h, -1)
        if self._tuning.paced:
            k = goals.shape[2]
            free = self.planner.roll(problem, held)[0].measured[..., :k]
            goals = self._tuning.reference(latent[:, :k], free, goals)
        problem = dataclasses.replace(problem, targets=goals, zones=self._tuning.zones(targets, goals))
        warm = held if self._plan is None else self._plan
        plan = self.planner.plan(problem, warm)
        self._plan = torch.cat([plan.rollout.moves[:, 1:], plan.rollout.moves[:, -1:]], 1)
        moves = torch.where(known[:, None, None], plan.rollout.moves, self._safe) * self._span + self._low
        margins = plan.rollout.margins - required
        predicted = np.full((batch, h, len(self.spec.measured)), np.nan)
        names = [t.name for t in self.spec.measured]
        predicted[..., [names.index(tag) for tag in self.planner.model.read]] = plan.rollout.measured.numpy()
        broken = (plan.violation * 100).floor().sum(-1) > 0
        return Decision(
            moves=moves[:, 0].numpy(),
            plan=moves.numpy(),
            predicted=predicted,
            margins=(margins * self._scale).numpy(),
            calibrated=(required.amax(0) * self._scale).numpy(),
            guardrails=tuple(g.name for g in self.spec.guardrails),
            status=tuple(
                Status.INFEASIBLE if not ok else Status.RECOVERY if bad else Status.OPTIMAL if done else Status.FEASIBLE
                for ok, bad, done in zip(known.tolist(), broken.tolist(), plan.converged.tolist(), strict=True)
            ),
            violation=(-margins).clamp(min=0).amax((1, 2)).numpy(),
            bias=np.zeros((batch, len(self.spec.measured))),
            solve_time_s=time.perf_counter() - began,
            energy={name: term.numpy() for name, term in plan.terms.items()},
        )


def _double(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.array(values, float))
