"""What every controller that looks ahead in a world model shares: its window, its offset correction, its problem."""

from __future__ import annotations

import copy
import logging
import math
import time
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.planning.allowance import Allowance
from controllers.planning.compiled import CompiledScpPlanner
from controllers.planning.config import PlannerConfig
from controllers.planning.explained import contradiction, why
from controllers.planning.offset import Offset
from controllers.planning.planner import Planner
from controllers.planning.problem import Constraints, Energy, Plan, Problem
from controllers.planning.ranking import counted
from controllers.planning.sampling import IcemPlanner, MppiPlanner
from controllers.planning.scp import ScpPlanner
from controllers.planning.widening import Widening
from models.calibration import Calibration
from models.moves import unmoved
from models.world_model import WorldModel
from plant.errors import ControlError
from plant.native import CompilerError

Array = NDArray[np.float64]
log = logging.getLogger(__name__)
_FORGETS = 0.9  # of the longest time a decision took after its plan, a sample
_SAME = 1e-9  # of an MV's limits: rounding

_PLANNERS: dict[str, type[Planner]] = {"scp": ScpPlanner, "icem": IcemPlanner, "mppi": MppiPlanner}


class LatentController(ABC):
    """Follows `batch` plants in the latent space of `model`; a subclass says what to plan for.

    Offset-free: what was predicted k samples ago corrects today's prediction k samples ahead, for every k (`Offset`).
    A guardrail margin is only ever tightened by it. The latents' own errors are learned alike.

    A plant may have no guardrails and no targets: moves then cost what they cost and nothing else asks for any.

    Raises `ControlError` when the horizon is longer than the model was validated to, or there is no MV.
    """

    planner: Planner

    def __init__(
        self,
        model: WorldModel,
        config: PlannerConfig | None,
        calibration: Calibration | None,
        batch: int,
        deadline_s: float | None,
    ) -> None:
        self.spec, self.config, self.batch = model.spec, config or PlannerConfig(), batch
        if self.config.horizon > model.config.horizon:
            raise ControlError(
                f"a horizon of {self.config.horizon} samples",
                f"planner of {self.spec.name}",
                f"The model was validated to {model.config.horizon}; plan no further, or train it further.",
            )
        moves = [t.move for t in self.spec.mvs if t.move]
        if not moves:
            raise ControlError(
                "no MV to move", f"planner of {self.spec.name}", "A plant without MVs can be watched, not controlled."
            )
        self.horizon, self.deadline_s, self._after_s = self.config.horizon, deadline_s, 0.0
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self._low = _double([m.limits[0] for m in moves])
        self._span = _double([m.span for m in moves])
        spread = self.model.channel_std[-len(moves) :].double()
        self.unknown = unmoved(self.spec, spread.numpy())
        """MVs that never moved where the model learned, with a sentence: no plan moves them."""
        self._rate = _double([m.reach(self.spec.sample_time_s) for m in moves]) / self._span
        self._rate = torch.where(torch.tensor([t.name in self.unknown for t in self.spec.mvs]), 0.0, self._rate)
        self._safe = (_double([m.safe for m in moves]) - self._low) / self._span
        self.constraints = Constraints(self.model)
        self.calibration = calibration or Calibration.none(self.config.horizon, len(self.constraints))
        names = [t.name for t in self.spec.measured]
        rails = [self.spec.guardrails[i] for i in self.constraints.guardrail]
        shown = [g.tag if g.tag in names else g.shown_by for g in rails]
        self._columns = [names.index(tag) if tag else 0 for tag in shown]
        self._tightens = torch.tensor([g.sign * bool(tag) for g, tag in zip(rails, shown, strict=True)]).double()
        periods = [(t.period_s or 0.0) / self.spec.sample_time_s for t in self.spec.measured]
        self._period = torch.tensor([max(1, round(p)) for p in periods])
        self._range = _double([t.range for t in self.spec.measured]).view(-1, 2).T
        # The sample of a plan whose target a late reading shows.
        late = [round(self.spec.tag(t.tag).dead_time_s / self.spec.sample_time_s) for t in self.spec.targets]
        self._shown = [(torch.arange(self.config.horizon) - n).clamp(min=0) for n in late]
        self._measured = [names.index(g.tag) if g.tag in names else None for g in self.spec.guardrails]
        self.reset()

    def _planner(self, energy: Energy) -> Planner:
        shift = self.model.normalise(self._low, "mvs")
        scale = self.model.normalise(self._low + self._span, "mvs") - shift
        arguments = self.model, self.config, energy, scale, shift
        if self.config.name == "scp" and energy.plain:
            try:
                return CompiledScpPlanner(*arguments)
            except CompilerError as e:
                log.warning("plans of %s are made uncompiled, more slowly: %s", self.spec.name, e)
        return _PLANNERS[self.config.name](*arguments)

    def reset(self) -> None:
        channels = self.model.n_measured + self.model.n_dv + self.model.n_mv
        self._window = torch.full((self.batch, self.model.config.window, channels), torch.nan, dtype=torch.float64)
        self._past: Tensor | None = None  # (batch x k x latent): now, as predicted k+1 samples ago
        self._offset = Offset(self.batch, self.config.horizon, self.model.n_measured, self.config.bias_filter)
        self._missed = torch.zeros(self.batch, self.config.horizon, self.model.config.latent, dtype=torch.float64)
        n, offline = len(self._measured), self.calibration
        near = self.model.margin_scale[:n].double() * math.tanh(1.0)
        self._widening = Widening(offline.margins[:, :n].double(), offline.level, near, self.batch)
        self._allowance = Allowance(self.spec, self.batch)
        self._alarm = torch.ones(self.batch).double()  # what surprise multiplies the margins by
        self._z: Tensor | None = None
        self._missing = torch.zeros(self.batch, self.model.n_measured, dtype=torch.long)  # samples in a row
        self._constants = _double([[t.nominal for t in self.spec.constants]]).expand(self.batch, -1)
        self._d = _double([[t.nominal for t in self.spec.dvs]]).expand(self.batch, -1)

    @abstractmethod
    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The next move for every plant; see `controllers.contracts.Controller`."""

    def _deadline(self, began: float) -> float | None:
        """Until when may be planned, on `time.perf_counter()`: what comes after the plan took so long before."""
        return None if self.deadline_s is None else began + self.deadline_s - self._after_s

    def _took(self, planned: float) -> None:
        """The decision that was `planned` then is made."""
        self._after_s = max(_FORGETS * self._after_s, time.perf_counter() - planned)

    def _observe(self, observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
        """Take in a sample and learn from it. Returns z (batch x latent) now, where the MVs are (batch x n_mv), engineering
        units, and which plants (batch,) are seen: any measurement at all, and every move in force.

        A measurement that is missing although its period has passed is stood in for by what was predicted of it a sample ago, its
        offset as last learned, inside the tag's range; it teaches nothing. What is slower than the sample is masked in between.
        """
        measured, dvs, applied = (
            torch.from_numpy(np.array(a, dtype=np.float64))
            for a in (observation.measured, observation.dvs, observation.applied)
        )
        self._read = measured
        row = torch.cat([self._stood_in_for(measured, applied), dvs, applied], -1)
        self._window = torch.cat([self._window[:, 1:], row[:, None]], dim=1)
        if observation.constants is not None:
            read = torch.from_numpy(np.array(observation.constants, dtype=np.float64))
            self._constants = torch.where(torch.isfinite(read), read, self._constants)
        z = self.model.encode(self._window, self._constants)
        self._learn_bias(z, measured, applied)
        self._z, self._d = z, torch.where(torch.isfinite(dvs), dvs, self._d)
        if observation.surprise is not None:
            self._alarm = (torch.from_numpy(np.array(observation.surprise)) / self.config.calm).clamp(min=1.0)
        position = torch.from_numpy(np.array(observation.standing, dtype=np.float64))
        return z, position, torch.isfinite(measured).any(-1) & torch.isfinite(position).all(-1)

    def _stood_in_for(self, measured: Tensor, applied: Tensor) -> Tensor:
        """`measured` (batch x n_measured) with what was predicted in the place of what is lost."""
        read = torch.isfinite(measured)
        self._missing = torch.zeros_like(self._missing) if bool(read.all()) else (self._missing + 1) * ~read
        lost = self._missing >= self._period
        if self._z is None or not bool(lost.any()):
            return measured
        expected = (self._expected_now(self._z, applied) + self._offset.bias[:, 0]).clamp(*self._range)
        return torch.where(lost, expected, measured)

    def _expected_now(self, z: Tensor, applied: Tensor) -> Tensor:
        """What the last sample, `z`, says of this one (batch x n_measured); NaN where the move in force is unknown."""
        u, d = self.model.normalise(applied, "mvs"), self.model.normalise(self._d, "dvs")
        return self.model.read_out(self.model.advance_normalised(z, u, d, self._conditions()))

    def _conditions(self) -> Tensor | None:
        return self.model.condition(self._constants) if self.model.n_constant else None

    def _expected(self, forecast: Array | None) -> Tensor:
        """Disturbances (batch x horizon x n_dv, normalised) before each step of a plan: as they are now, then as forecast."""
        steps = [self._d]
        ahead = np.empty((1, 0, len(self.spec.dvs))) if forecast is None else np.array(forecast, dtype=np.float64)
        for k in range(self.config.horizon - 1):
            known = torch.from_numpy(ahead[:, k]) if k < ahead.shape[1] else steps[-1]
            steps.append(torch.where(torch.isfinite(known), known, steps[-1]))
        return self.model.normalise(torch.stack(steps, 1), "dvs")

    def _problem(self, z: Tensor, position: Tensor, targets: Targets, forecast: Array | None) -> Problem:
        previous = ((position - self._low) / self._span).nan_to_num(0.5)
        dvs = self._expected(forecast)
        margins = self.calibration.margins[: self.config.horizon].double()
        factor = torch.nn.functional.pad(self._widening.factor, (0, len(self.constraints.fallback)), value=1.0)
        kept = margins * factor[:, None] * self._alarm[:, None, None] / self.constraints.scale
        required, calibrated = self._kept(kept, self._margins(z) / self.constraints.scale[: len(self._measured)])
        values = torch.from_numpy(np.array(targets.values, dtype=np.float64))
        if targets.left_out is not None:
            values[..., torch.from_numpy(np.array(targets.left_out, dtype=bool))] = torch.nan
        if values.shape[1] < self.config.horizon:
            values = torch.cat([values, values[:, -1:].expand(-1, self.config.horizon - values.shape[1], -1)], dim=1)
        shown = [values[:, k, i, None] for i, k in enumerate(self._shown)]
        self._wanted = torch.cat([values[:, : self.config.horizon, :0], *shown], -1).expand(self.batch, -1, -1)
        return Problem(
            z=z,
            dvs=dvs,
            previous=previous,
            low=(torch.from_numpy(np.array(targets.move_low, dtype=np.float64)) - self._low) / self._span,
            high=(torch.from_numpy(np.array(targets.move_high, dtype=np.float64)) - self._low) / self._span,
            rate=torch.where(_dropped(targets, self._rate), 0.0, self._rate),
            fallback=self._safe,
            targets=self._wanted,
            bias=self._offset.bias,
            required=required,
            calibrated=calibrated if bool((margins > 0).any()) else None,
            conditions=self._conditions(),
        )

    def _kept(self, margins: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """What every plan must keep, and what it is to keep beyond that (batch x horizon x n_constraint), of calibrated `margins`
        alike and the margins `now` (batch x n_guardrail), all in scales. The margin of a limit can be had by degrees, that of
        recoverability cannot: a plant that is lost is lost."""
        n = len(self.constraints.limit)
        required = self._tightened() / self.constraints.scale + self.config.guard
        required = torch.cat([required[..., :n], required[..., n:] + margins[..., n:]], -1)
        calibrated = torch.cat([margins[..., :n], torch.zeros_like(margins[..., n:])], -1)
        both = required + calibrated
        free = (allowed := self._allowance.required(both, now)) < both
        return torch.where(free, allowed, required), torch.where(free, 0.0, calibrated)

    def _reading(self, z: Tensor) -> Tensor:
        """Measurements now (batch x n_measured), as the model has them."""
        return self.model.read_out(z)

    def _margins(self, z: Tensor) -> Tensor:
        """Of now, to every limit (batch x n_guardrail), in the tags' units."""
        return self.model.limit_margins(z)

    def _learn_bias(self, z: Tensor, measured: Tensor, applied: Tensor) -> None:
        """Compare what was predicted for now with what is, measurements and latent `z`."""
        if self._z is None:
            return
        back = self._z[:, None] if self._past is None else torch.cat([self._z[:, None], self._past], dim=1)
        back = back[:, : self.config.horizon]
        u = self.model.normalise(applied, "mvs").nan_to_num(0.0)[:, None].expand(-1, back.shape[1], -1)
        d = self.model.normalise(self._d, "dvs")[:, None].expand(-1, back.shape[1], -1)
        self._past = self.model.advance_normalised(back, u, d, self._conditions())
        self._widen(measured)
        self._offset.learn(measured[:, None] - self.model.read_out(self._past))
        known, a = self._past.shape[1], self.config.bias_filter
        whole = torch.isfinite(measured).all(-1) & torch.isfinite(applied).all(-1)
        missed = (1 - a) * self._missed[:, :known] + a * (z[:, None] - self._past)
        missed = torch.where(whole[:, None, None], missed, self._missed[:, :known])
        self._missed = torch.cat([missed, self._missed[:, known:]], 1)

    def _widen(self, measured: Tensor) -> None:
        """Compare the margins predicted for now with those that came."""
        assert self._past is not None
        n, known = len(self._measured), self._past.shape[1]
        unseen = torch.full_like(measured[:, 0], torch.nan)
        rails = zip(self.spec.guardrails, self._measured, strict=True)
        seen = [unseen if at is None else g.margin(measured[:, at]) for g, at in rails]
        observed = torch.stack(seen, -1) if seen else measured[:, :0]
        self._widening.learn(self.model.limit_margins(self._past)[..., :n], observed, self._tightened()[:, :known, :n])

    def _tightened(self) -> Tensor:
        """What the offset correction adds to every margin (batch x horizon x n_constraint), in the tags' units."""
        return (self._tightens * self._offset.bias[..., self._columns]).clamp(min=0)

    def _decision(self, plan: Plan, problem: Problem, targets: Targets, seen: Tensor, began: float) -> Decision:
        moves = plan.rollout.moves * self._span + self._low
        hard, scale = plan.rollout.margins - problem.required, self.constraints.scale
        kept = problem.required if problem.calibrated is None else problem.required + problem.calibrated
        margins = plan.rollout.margins - kept
        violation = (-hard).clamp(min=0).amax((1, 2)) if len(self.constraints) else torch.zeros(self.batch).double()
        seen = seen & (not contradiction(self.spec, targets))
        finite = seen & torch.isfinite(moves).all(-1).all(-1) & torch.isfinite(plan.rollout.measured).all(-1).all(-1)
        moves = torch.where(finite[:, None, None], moves, self._safe * self._span + self._low)
        if self.planner.levels:
            moves = torch.from_numpy(self.planner.levels.exact(moves.numpy()))
        if targets.dropped is not None:  # what is not ours stays where it is, if anybody knows where
            now = self._window[:, -1:, self.model.n_measured + self.model.n_dv :]
            moves = torch.where(_dropped(targets, moves) & torch.isfinite(now), now, moves)
        beyond, first = torch.zeros(self.batch, dtype=torch.bool), plan.rollout.moves[:, :1]
        if problem.narrow:
            beyond = ((self.planner.legal(problem, first) - first).abs() > _SAME).any(-1)[:, 0]
        broken = (counted(plan.violation) > 0).any(-1) | beyond
        tight = (counted(plan.shortfall) > 0).any(-1)
        status = tuple(
            Status.INFEASIBLE if not ok
            else Status.RECOVERY if bad
            else Status.TIGHT if short
            else Status.DEADLINE if plan.late
            else Status.OPTIMAL if settled else Status.FEASIBLE
            for ok, bad, short, settled in zip(
                finite.tolist(), broken.tolist(), tight.tolist(), plan.converged.tolist(), strict=True
            )
        )  # fmt: skip
        names, predicted = tuple(self.constraints.names), plan.rollout.measured.numpy()
        now, n = self._window[:, -1].numpy(), self.model.n_measured
        told = why(
            self.spec, status, names, scale.numpy(), moves.numpy(), predicted, (margins * scale).numpy(),
            (hard * scale).numpy(), targets, self._wanted.numpy(), self._read.numpy(), now[:, n + self.model.n_dv :], self.deadline_s, beyond.tolist(),
        )  # fmt: skip
        return Decision(
            moves=moves[:, 0].numpy(),
            plan=moves.numpy(),
            predicted=predicted,
            margins=(margins * scale).numpy(),
            calibrated=(kept.amax(0) * scale).numpy(),
            guardrails=names,
            status=status,
            violation=violation.numpy(),
            bias=problem.bias[:, 0].numpy(),
            solve_time_s=time.perf_counter() - began,
            energy={name: term.numpy() for name, term in plan.terms.items()},
            why=told,
        )


def _dropped(targets: Targets, like: Tensor) -> Tensor:
    """Which MVs (n_mv) are not ours to move."""
    if targets.dropped is None:
        return torch.zeros(like.shape[-1], dtype=torch.bool)
    return torch.from_numpy(np.array(targets.dropped, dtype=bool))


def _double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
