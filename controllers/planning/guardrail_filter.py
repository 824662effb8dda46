"""`GuardrailFilter`: any controller behind the guardrails of a world model. The planner with another energy, distance."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch import Tensor

from controllers.contracts import Array, Controller, Decision, Observation, Targets
from controllers.planning.config import FilterConfig, PlannerConfig
from controllers.planning.filtered import Filter, asked_for
from controllers.planning.latent import LatentController
from controllers.planning.planner import choose
from controllers.planning.problem import Convex, Energy, Plan, Problem, Rollout
from controllers.planning.ranking import before, counted, ranking
from models.calibration import Calibration
from models.world_model import WorldModel
from plant.errors import ControlError


class Distance(Energy):
    """Weighted squared distance of the moves from those asked for; `weight` (horizon x n_mv)."""

    def __init__(self, weight: Tensor) -> None:
        none = torch.zeros_like(weight[0])
        super().__init__([], none[:0], none, none)
        self.weight = weight

    @property
    def plain(self) -> bool:
        return type(self) is Distance

    def weights(self, problem: Problem) -> Tensor:
        return self.weight.expand(len(problem.z), -1, -1)

    def reference(self, problem: Problem) -> Tensor:
        assert problem.asked is not None
        return problem.asked

    def terms(self, rollout: Rollout, problem: Problem) -> dict[str, Tensor]:
        off = self.weight * (rollout.moves - self.reference(problem)) ** 2
        return {"distance": off.sum((1, 2))}

    def convex(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> Convex:
        return self.soft(rollout, problem, sensitivity, read_out)


class GuardrailFilter(Filter, LatentController):
    """Lets `inner` run `batch` plants, and changes its moves only where they are not safe, to the nearest that are.

    A move is safe when it lies inside the limits and the rate, and some way on from it keeps every guardrail at its
    calibrated margin over the horizon, and the plant recoverable, as `model` sees it: what `inner` plans (a controller
    without a plan holds its move), the safe values from the next sample on, or the rest of the last plan. It is then passed
    on bit for bit, with `inner`'s status. Else the planner looks for the nearest moves (`FilterConfig`) that keep everything.
    Of `config`, `horizon`, `iterations`, `bias_filter`, `guard` and `guardrails` count; targets and efforts are `inner`'s affair.

    Status as `Filter` has it, and `DEADLINE`: the best found in time; `TIGHT` where nothing keeps every calibrated margin, and the
    move is the one that keeps most of it; `RECOVERY` with its violation where nothing keeps every
    limit (the safe values, or, where these are seen to pass a limit themselves, what breaks the least); `INFEASIBLE` also
    where the plant cannot be seen.

    Raises `ControlError` when the horizon is longer than the model was validated to, or a weight is for no MV.
    """

    def __init__(
        self,
        model: WorldModel,
        calibration: Calibration | None,
        inner: Controller,
        config: PlannerConfig | None = None,
        nearest: FilterConfig | None = None,
        batch: int = 1,
        deadline_s: float | None = None,
    ) -> None:
        self.inner, nearest = inner, nearest or FilterConfig()
        LatentController.__init__(self, model, config, calibration, batch, deadline_s)
        self.horizon = max(self.config.horizon, inner.horizon)
        mvs = [t.name for t in self.spec.mvs]
        if unknown := sorted(set(nearest.weights) - set(mvs)):
            raise ControlError(
                f"a weight for {', '.join(unknown)}",
                f"guardrail filter of {self.spec.name}",
                f"The MVs are {', '.join(mvs)}.",
            )
        self._weight = torch.tensor([nearest.weights.get(mv, 1.0) for mv in mvs], dtype=torch.float64)
        weight = self._weight.repeat(self.config.horizon, 1)
        weight[1:] *= nearest.later
        self.planner = self._planner(Distance(weight))

    def reset(self) -> None:
        LatentController.reset(self)
        Filter.reset(self)
        self._plan: Tensor | None = None

    @property
    def weights(self) -> Array:
        return self._weight.numpy()

    def _nearest(self, observation: Observation, targets: Targets, answer: Decision | None, began: float) -> Decision:
        deadline = self._deadline(began)
        with torch.inference_mode():
            z, position, seen = self._observe(observation)
            problem = self._problem(z, position, targets, observation.forecast)
            asked, known = self._asked(answer, problem)
            problem = dataclasses.replace(problem, asked=asked)
            plan = self._found(problem, deadline)
            planned = time.perf_counter()
            self._plan = torch.cat([plan.rollout.moves[:, 1:], plan.rollout.moves[:, -1:]], dim=1)
            decision = self._decision(plan, problem, targets, seen & known, began)
        self._took(planned)
        return decision

    def _asked(self, answer: Decision | None, problem: Problem) -> tuple[Tensor, Tensor]:
        """The moves asked for (batch x horizon x n_mv, scaled), the last one held, and for which plants (batch,) there are
        any; the moves in force stand where there are none."""
        h, hold = self.config.horizon, problem.previous[:, None]
        if answer is None:
            return hold.expand(-1, h, -1), torch.zeros(self.batch, dtype=torch.bool)
        first = np.asarray(answer.moves, dtype=np.float64)[:, None]
        steps = np.concatenate([first, np.asarray(answer.plan, dtype=np.float64)[:, 1:h]], axis=1)
        steps = np.where(np.isfinite(steps), steps, first)
        moves = (torch.from_numpy(steps) - self._low) / self._span
        moves = torch.cat([moves, moves[:, -1:].expand(-1, h - moves.shape[1], -1)], dim=1)
        known = torch.from_numpy(asked_for(answer))
        return torch.where(known[:, None, None], moves, hold), known

    def _found(self, problem: Problem, deadline: float | None) -> Plan:
        """The moves asked for with a safe way on from the first where one is found, else the nearest safe ones."""
        asked = problem.asked
        assert asked is not None
        # The safe values may follow whatever operators ask: their limits never bar the fallback.
        safe = self.planner.inside(problem.wide(), problem.fallback.expand_as(asked))
        rest = [] if self._plan is None else [self.planner.inside(problem, self._plan)]
        best = self._first_then(problem, self.planner.inside(problem, asked))
        for way in [safe, *rest]:
            if bool((kept := _keeps(best)).all()):
                return best
            other = self._first_then(problem, way)
            best = _choose(~kept & before(_key(other), _key(best)), best, other)
        kept = _keeps(best)
        if bool(kept.all()):
            return best
        start = best
        if self._plan is not None:  # what was safe a sample ago most likely still is, and nearest
            last = self.planner.assess(problem, self._plan)
            start = _choose(before(_key(last), _key(best)), best, last)
        found = self.planner.plan(problem, start.rollout.moves, deadline, trust_fallback=False)
        # The way on that was found may serve the very move asked for.
        again = self._first_then(problem, found.rollout.moves)
        serves = _keeps(again) | ((counted(again.violation)[:, 0] == 0) & before(_key(again), _key(found)))
        return _choose(kept, self._lost(problem, _choose(serves, found, again)), best)

    def _lost(self, problem: Problem, plan: Plan) -> Plan:
        """Where `plan` breaks a guardrail of rank 1, the fallback: least violation by a little is what the model gets wrong.
        Not where the fallback itself is seen to pass the limit, its margin not counted: then the plan that breaks least."""
        broken = counted(plan.violation)[:, 0] > 0
        if not bool(broken.any()):
            return plan
        fallback = self.planner.assess(problem.wide(), problem.fallback.expand_as(plan.rollout.moves))
        first = self.constraints.rank == self.constraints.ranks[0]
        inside = (fallback.rollout.margins[..., first] >= 0).all(-1).all(-1)
        return _choose(broken & inside, plan, fallback)

    def _first_then(self, problem: Problem, way: Tensor) -> Plan:
        """The first move asked for, inside the limits, then `way` (batch x horizon x n_mv), inside the spec's."""
        assert problem.asked is not None
        first = self.planner.legal(problem, problem.asked[:, :1])
        return self.planner.assess(problem.wide(), torch.cat([first, way[:, 1:]], dim=1))


def _keeps(plan: Plan) -> Tensor:
    return (counted(torch.cat([plan.violation, plan.shortfall], -1)) == 0).all(-1)


def _key(plan: Plan) -> Tensor:
    return ranking(torch.cat([plan.violation, plan.shortfall], -1), plan.energy)


def _choose(wins: Tensor, best: Plan, other: Plan) -> Plan:
    """`other` where `wins` (batch,), else `best`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(wins.view(-1, *[1] * (a.dim() - 1)), b, a)

    return Plan(
        choose(wins, best.rollout, other.rollout),
        pick(best.violation, other.violation),
        pick(best.shortfall, other.shortfall),
        pick(best.energy, other.energy),
        {name: pick(term, other.terms[name]) for name, term in best.terms.items()},
        pick(best.converged, other.converged),
        best.late or other.late,
    )
