"""`Planner`: the contract of every planner, and what they share: the roll-out, the limits of the moves, the ranking."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from controllers.planning.config import PlannerConfig
from controllers.planning.levels import Levels
from controllers.planning.problem import Constraints, Energy, Plan, Problem, Rollout
from controllers.planning.ranking import before, counted, least, ranking
from models.world_model import WorldModel

_PASSES = 6  # in which discrete MVs' plans are bettered sample by sample
_ROWS = 8192  # plans played at once: more no longer fit the processor's cache


class Clock:
    """Whether there is time for another iteration before `deadline` (on `time.perf_counter()`): the longest stretch between
    two questions so far is taken for the next one. `late` once there was not."""

    def __init__(self, deadline: float | None) -> None:
        self.late, self._deadline = False, deadline
        self._asked, self._longest = time.perf_counter(), 0.0

    def another(self) -> bool:
        now = time.perf_counter()
        self._longest, self._asked = max(self._longest, now - self._asked), now
        self.late = self.late or (self._deadline is not None and now + self._longest >= self._deadline)
        return not self.late


class Planner(ABC):
    """Plans for a batch of plants at once; a pure function of the problem and the warm start, each plant on its own.

    Plans are ranked by violation of the guardrails, rank by rank, then by what is missing of their calibrated margins, rank by rank,
    and only then by energy. The warm start and the fallback always compete, as they are, the fallback only where it breaks less of what
    is required: a margin alone is no reason to give the task up. What a planner searches itself is constant in `config.blocks`, so
    blocking never loses a safe way that was there. Operator limits bind what is planned for the task. A way that keeps the guardrails better than any
    inside them may use all that the spec allows: they never bar the fallback. The model is used in float64; `scale_u`, `shift_u` map scaled moves to its own normalisation.
    """

    def __init__(
        self, model: WorldModel, config: PlannerConfig, energy: Energy, scale_u: Tensor, shift_u: Tensor
    ) -> None:
        self.model, self.config, self.energy = model, config, energy
        self.constraints = Constraints(model)
        self.levels = Levels([t.move for t in model.spec.mvs if t.move])
        self.scale_u, self.shift_u = scale_u, shift_u
        lengths = list(config.blocks) or [1] * config.horizon
        lengths[-1] += config.horizon - sum(lengths)
        self._lengths = torch.tensor(lengths, device=scale_u.device)
        self._block = torch.arange(len(lengths), device=scale_u.device).repeat_interleave(self._lengths)

    def plan(
        self, problem: Problem, warm: Tensor, deadline: float | None = None, *, trust_fallback: bool = True
    ) -> Plan:
        """**Arguments:** `warm` (batch x horizon x n_mv, scaled) the moves to start from; `deadline` on
        `time.perf_counter()`, after which the best plan so far is returned: with no time at all the warm start, or the
        fallback where that is better; `trust_fallback` no plan that breaks a guardrail of the first rank is worth more than
        the fallback itself, else the one that breaks the least is the answer.

        **Returns:** the best plan visited. It always lies inside the limits and the rate of `problem`, or, where no plan inside
        these keeps the guardrails and another breaks them less, inside those of the spec.
        """
        plan = self._legal(problem, warm, deadline, trust_fallback)
        if not problem.narrow:
            return plan
        broken = counted(plan.violation)
        some = broken.any(1).nonzero()[:, 0]
        if not len(some):
            return plan
        other = self._legal(problem.part(some).wide(), plan.rollout.moves[some], deadline, trust_fallback)
        wins = before(counted(other.violation), broken[some])
        wins |= (broken[some, 0] > 0) & trust_fallback
        return _placed(plan, some, wins, other)

    def _legal(self, problem: Problem, warm: Tensor, deadline: float | None, trust_fallback: bool) -> Plan:
        """`_within`, discrete MVs at their levels."""
        plan = self._within(problem, warm, deadline, trust_fallback)
        return self._on_levels(problem, plan, warm, Clock(deadline), trust_fallback) if self.levels else plan

    def _on_levels(self, problem: Problem, plan: Plan, warm: Tensor, clock: Clock, trust_fallback: bool) -> Plan:
        """The best plan near `plan` whose discrete MVs take their levels: of a plan rounded, of courses of one MV after another
        that are played with the others as they are, and of such with a sample or two changed, as long as that helps. They are ranked as all plans are, so that a
        level that breaks a guardrail loses; moves cost what they cost, so that no MV switches for little."""
        wanted = plan.rollout.moves
        safe = self._rounded(problem, problem.fallback.expand_as(wanted))
        starts = [self._rounded(problem, m, carried) for m in (wanted, warm) for carried in (True, False)]
        best, fallback = self._best_of(problem, torch.stack(starts, 1)), self.roll(problem, safe)[0]
        lost = self._breaks_less(problem, fallback, self.roll(problem, best)[0])
        best = torch.where(lost[:, None, None], safe, best)
        ours = [i for i in self.levels.at if problem.rate[i] > 0]
        for courses in (True, *[False] * _PASSES):
            before = best
            for i in ours:
                if not clock.another():
                    break
                like, last = wanted[..., i], problem.previous[:, i]
                some = self.levels.plans(like, i, last) if courses else self.levels.near(best[..., i], i, like, last)
                many = best[:, None].repeat(1, some.shape[1], 1, 1)
                many[..., i] = some
                n = many.shape[1]
                many = self._rounded(problem.repeated(n), many.flatten(0, 1), True).unflatten(0, (-1, n))
                best = self._best_of(problem, torch.cat([best[:, None], many], 1))
            if not courses and torch.equal(before, best):
                break
        rollout = self.roll(problem, best)[0]
        broken = counted(self._levels(problem, rollout))[:, 0] > 0
        rollout = choose(broken & trust_fallback, rollout, fallback)
        return self._worth(problem, rollout, torch.zeros_like(plan.converged), plan.late or clock.late)

    def _rounded(self, problem: Problem, moves: Tensor, carried: bool = False) -> Tensor:
        """`moves` inside the limits and the rate, discrete MVs at their levels."""
        inside = self.inside(problem, moves)
        if not self.levels:
            return inside
        # What lies past a limit still counts for what rounding leaves out.
        inside[..., self.levels.at] = moves[..., self.levels.at]
        return self.levels.rounded(inside, problem.previous, problem.low, problem.high, problem.rate, carried)

    def legal(self, problem: Problem, moves: Tensor) -> Tensor:
        """`moves` (batch x any x n_mv) as near as they may be made: limits, rate, levels."""
        return self._rounded(problem, moves)

    def _best_of(self, problem: Problem, moves: Tensor) -> Tensor:
        """Of several plans for each plant (batch x n x horizon x n_mv), the one that ranks best."""
        n = moves.shape[1]
        levels, energy = self._play(problem.repeated(n), moves.flatten(0, 1))
        at = least(ranking(levels, energy).unflatten(0, (-1, n)))
        return moves[torch.arange(len(moves)), at]

    def _play(self, many: Problem, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Levels (n x any, as `Constraints.levels`) and energy (n,) of `moves` (n x horizon x n_mv)."""
        parts = []
        for at in range(0, len(moves), _ROWS):
            part = many.part(slice(at, at + _ROWS))
            rollout = self.roll(part, moves[at : at + _ROWS])[0]
            parts.append((self._levels(part, rollout), self._energy(part, rollout)))
        levels, energy = (torch.cat(p) for p in zip(*parts, strict=True))
        return levels, energy

    def _within(self, problem: Problem, warm: Tensor, deadline: float | None, trust_fallback: bool) -> Plan:
        """`plan` inside the limits of `problem`, the fallback too."""
        clock = Clock(deadline)
        start, inputs = self.roll(problem, self.inside(problem, warm))
        fallback = self.roll(problem, self.inside(problem, problem.fallback.expand_as(warm)))[0]
        lost = self._breaks_less(problem, fallback, start)
        # What is at least as safe as the fallback is better than it.
        key = self._key(problem, fallback)
        key[:, key.shape[1] // 2 :] = torch.inf
        key = torch.where(lost[:, None], key, self._key(problem, start))
        best, converged = self._search(problem, start, inputs, choose(lost, start, fallback), key, clock)
        broken = counted(self._levels(problem, best))[:, 0] > 0
        return self._worth(problem, choose(broken & trust_fallback, best, fallback), converged, clock.late)

    @abstractmethod
    def _search(
        self, problem: Problem, start: Rollout, inputs: Tensor, best: Rollout, key: Tensor, clock: Clock
    ) -> tuple[Rollout, Tensor]:
        """**Arguments:** the warm start and the predictor's inputs on it; `best`, the better of it and of the fallback,
        and its `key` (batch x any, `ranking`).

        **Returns:** the best plan seen while `clock` allowed, never worse than `best`, and whether it has converged
        (batch,).
        """

    def assess(self, problem: Problem, moves: Tensor) -> Plan:
        """`moves` (batch x horizon x n_mv, scaled), made legal, as a plan: what it is worth."""
        rollout = self.roll(problem, self.legal(problem, moves))[0]
        return self._worth(problem, rollout, torch.zeros(len(moves), dtype=torch.bool), False)

    def roll(self, problem: Problem, moves: Tensor) -> tuple[Rollout, Tensor]:
        """Play `moves` (batch x horizon x n_mv, scaled). Returns the roll-out and the predictor's inputs."""
        model = self.model
        u = moves * self.scale_u + self.shift_u
        z, inputs = [problem.z], []
        for k in range(self.config.horizon):
            x = model.inputs(z[-1], u[:, k], problem.dvs[:, k], problem.conditions)
            inputs.append(x)
            z.append((z[-1] + model.predictor(x)).clamp(model.z_low, model.z_high))
        states = torch.stack(z, dim=1)
        measured = model.read_out(states[:, 1:]) + problem.bias
        return Rollout(moves, states, measured, self.constraints.margins(model, states[:, 1:])), torch.stack(inputs, 1)

    def inside(self, problem: Problem, moves: Tensor) -> Tensor:
        """`moves` cut to the limits and, step by step from the move in force, to the rate: one that starts outside the limits
        comes back as fast as it may. What is not ours stays."""
        moves = torch.clamp(moves, problem.low, problem.high)
        if bool((problem.rate >= 1.0).all()):
            return moves
        last, ours, out = problem.previous, problem.rate > 0, []
        for k in range(moves.shape[1]):
            next_ = torch.maximum(torch.minimum(moves[:, k], last + problem.rate), last - problem.rate)
            last = torch.where(ours, next_.clamp(0.0, 1.0), last)
            out.append(last)
        return torch.stack(out, dim=1)

    def blocked(self, problem: Problem, moves: Tensor) -> Tensor:
        """`moves` as their mean in each of `config.blocks`, cut to the limits and, from block to block, to the rate."""
        if not self.config.blocks:
            return self.inside(problem, moves)
        sums = moves.new_zeros(len(moves), len(self._lengths), moves.shape[2]).index_add_(1, self._block, moves)
        return self.inside(problem, sums / self._lengths[:, None])[:, self._block]

    def _levels(self, problem: Problem, rollout: Rollout) -> Tensor:
        if not (self.config.guardrails and len(self.constraints)):
            return torch.zeros(rollout.moves.shape[0], 2, dtype=rollout.moves.dtype)
        return self.constraints.levels(rollout.margins, problem)

    def _breaks_less(self, problem: Problem, one: Rollout, other: Rollout) -> Tensor:
        """Where (batch,) `one` breaks less than `other` of what is required, margins not counted."""
        hard = [counted(self._levels(problem, r)).chunk(2, 1)[0] for r in (one, other)]
        return before(*hard)

    def _worth(self, problem: Problem, rollout: Rollout, converged: Tensor, late: bool) -> Plan:
        terms = self.energy.terms(rollout, problem)
        total = torch.stack(list(terms.values())).sum(0)
        violation, shortfall = self._levels(problem, rollout).chunk(2, 1)
        return Plan(rollout, violation, shortfall, total, terms, converged, late)

    def _energy(self, problem: Problem, rollout: Rollout) -> Tensor:
        return torch.stack(list(self.energy.terms(rollout, problem).values())).sum(0)

    def _key(self, problem: Problem, rollout: Rollout) -> Tensor:
        return ranking(self._levels(problem, rollout), self._energy(problem, rollout))

    def _better(self, problem: Problem, best: Rollout, key: Tensor, other: Rollout) -> tuple[Rollout, Tensor]:
        new = self._key(problem, other)
        wins = before(new, key)
        return choose(wins, best, other), torch.where(wins[:, None], new, key)


def _placed(plan: Plan, at: Tensor, wins: Tensor, other: Plan) -> Plan:
    """`plan` with `other`, which is of plants `at`, where it `wins`."""
    at = at[wins]

    def put(whole: Tensor, part: Tensor) -> Tensor:
        whole = whole.clone()
        whole[at] = part[wins]
        return whole

    rollouts = zip(vars(plan.rollout).values(), vars(other.rollout).values(), strict=True)
    return Plan(
        Rollout(*(put(a, b) for a, b in rollouts)),
        put(plan.violation, other.violation),
        put(plan.shortfall, other.shortfall),
        put(plan.energy, other.energy),
        {name: put(term, other.terms[name]) for name, term in plan.terms.items()},
        put(plan.converged, other.converged),
        plan.late or other.late,
    )


def choose(wins: Tensor, best: Rollout, other: Rollout) -> Rollout:
    """`other` where `wins` (batch,), else `best`."""
    pairs = zip(vars(best).values(), vars(other).values(), strict=True)
    return Rollout(*(torch.where(wins.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in pairs))
