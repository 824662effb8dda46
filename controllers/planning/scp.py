"""Sequential convex programming through the latent roll-out: the default planner.

Each iteration plays the moves through the predictor, takes the exact Jacobian of everything the energy and the
guardrails read, and solves one condensed problem in the moves alone (`controllers.planning.qp`). Every point visited is
ranked by guardrails first and energy second; the best of them, of the warm start and of the fallback is the plan.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from controllers.planning import qp
from controllers.planning.config import PlannerConfig
from controllers.planning.problem import Constraints, Energy, Plan, Problem, Rollout, rank_key
from models.world_model import WorldModel

_HARD = 100.0  # price of a limit on a move, in energy per span: far above anything the task can pay
_BACK_OFF = 0.2  # margin units by which a subproblem stays inside: its linear guardrails are not the real ones
_SHARES = (0.8, 0.5, 0.25, 0.1)  # of the way to a point that breaks a guardrail
_PRICE = (30.0, 10.0, 5.0)  # price of a guardrail by rank, in energy per margin unit; ranking decides, this only steers


class ScpPlanner:
    """Plans for a batch of plants at once. The model is used in float64; `scale_u`, `shift_u` map scaled moves to the
    model's own normalisation."""

    def __init__(
        self, model: WorldModel, config: PlannerConfig, energy: Energy, scale_u: Tensor, shift_u: Tensor
    ) -> None:
        self.model, self.config, self.energy = model, config, energy
        self.constraints = Constraints(model)
        self.scale_u, self.shift_u = scale_u, shift_u
        h, m = config.horizon, model.n_mv
        eye = torch.eye(h * m, dtype=scale_u.dtype, device=scale_u.device)
        before = torch.zeros_like(eye)
        before[m:, :-m] = torch.eye((h - 1) * m, dtype=eye.dtype, device=eye.device)
        self._eye, self._difference = eye, eye - before

    def roll(self, problem: Problem, moves: Tensor) -> tuple[Rollout, Tensor]:
        """Play `moves` (batch x horizon x n_mv, scaled). Returns the roll-out and the predictor's inputs."""
        model = self.model
        u = moves * self.scale_u + self.shift_u
        z, inputs = [problem.z], []
        for k in range(self.config.horizon):
            x = model.inputs(z[-1], u[:, k], problem.dvs[:, k], problem.conditions)
            inputs.append(x)
            z.append(z[-1] + model.predictor(x))
        states = torch.stack(z, dim=1)
        measured = model.read_out(states[:, 1:]) + problem.bias
        return Rollout(moves, states, measured, self.constraints.margins(model, states[:, 1:])), torch.stack(inputs, 1)

    def sensitivity(self, inputs: Tensor) -> Tensor:
        """d z_k / d moves for k = 1..horizon: (batch x horizon x latent x horizon*n_mv)."""
        latent, m, h = self.model.config.latent, self.model.n_mv, self.config.horizon
        jacobian = self.model.predictor.jacobian(inputs)
        a = jacobian[..., :latent] + torch.eye(latent, dtype=inputs.dtype, device=inputs.device)
        b = jacobian[..., latent : latent + m] * self.scale_u
        s = torch.zeros(inputs.shape[0], latent, h * m, dtype=inputs.dtype, device=inputs.device)
        out = []
        for k in range(h):
            s = a[:, k] @ s
            s[..., k * m : (k + 1) * m] += b[:, k]
            out.append(s)
        return torch.stack(out, dim=1)

    def plan(self, problem: Problem, warm: Tensor, deadline: float | None = None) -> Plan:
        """`search`, but no plan that breaks a guardrail of the first rank is worth more than the fallback itself."""
        best = self.search(problem, warm, deadline)
        broken = (best.violation[:, 0] * 100).floor() > 0
        if not bool(broken.any()):
            return best
        return choose_plan(broken, best, self.assess(problem, problem.fallback.expand_as(warm)))

    def search(self, problem: Problem, warm: Tensor, deadline: float | None = None) -> Plan:
        """**Arguments:** `warm` (batch x horizon x n_mv, scaled) the moves to start from; `deadline` on
        `time.perf_counter()`, after which the best plan so far is returned.

        **Returns:** the best plan visited, the fallback among them. It always lies inside the limits and the rate of `problem`.
        """
        moves = self.inside(problem, warm)
        rollout, inputs = self.roll(problem, moves)
        best, key = rollout, self._key(problem, rollout)
        safe = self.inside(problem, problem.fallback.expand_as(moves))
        best, key = self._better(problem, best, key, self.roll(problem, safe)[0])
        late, energies = False, [self._energy(problem, rollout)]
        for _ in range(self.config.iterations):
            if deadline is not None and time.perf_counter() >= deadline:
                late = True
                break
            moves = self.inside(problem, moves + self._step(problem, rollout, inputs))
            rollout, inputs = self.roll(problem, moves)
            best, key = self._better(problem, best, key, rollout)
            energies.append(self._energy(problem, rollout))
        # The last point may break a guardrail by a hair, and then loses to a plan that wants nothing of the sort: the way
        # from the best plan towards it is searched for how far one may go.
        start = best.moves
        if bool((self._violation(problem, rollout) * 100 >= 1).any()) and not late:
            for share in _SHARES:
                part = self.roll(problem, start + share * (moves - start))[0]
                best, key = self._better(problem, best, key, part)
        settled = torch.zeros_like(energies[0], dtype=torch.bool)
        if len(energies) > 2:
            settled = (energies[-1] - energies[-2]).abs() <= 0.01 * (0.1 + energies[-2].abs())
        return self._worth(problem, best, settled, late)

    def assess(self, problem: Problem, moves: Tensor) -> Plan:
        """`moves` (batch x horizon x n_mv, scaled), cut to the limits and the rate, as a plan: what it is worth."""
        rollout = self.roll(problem, self.inside(problem, moves))[0]
        return self._worth(problem, rollout, torch.zeros(len(moves), dtype=torch.bool), False)

    def inside(self, problem: Problem, moves: Tensor) -> Tensor:
        """`moves` cut to the limits and, step by step from the move in force, to the rate."""
        if bool((problem.rate >= 1.0).all()):
            return torch.clamp(moves, problem.low, problem.high)
        last, out = problem.previous, []
        for k in range(moves.shape[1]):
            last = torch.clamp(torch.maximum(torch.minimum(moves[:, k], last + problem.rate), last - problem.rate),
                               problem.low, problem.high)  # fmt: skip
            out.append(last)
        return torch.stack(out, dim=1)

    def _step(self, problem: Problem, rollout: Rollout, inputs: Tensor) -> Tensor:
        """The move of one convex subproblem (batch x horizon x n_mv)."""
        batch, h, m = rollout.moves.shape
        sens = self.sensitivity(inputs)
        dtype, n = sens.dtype, h * m
        gain = self.model.read_out_head.weight * self.model.channel_std[: self.model.n_measured, None]
        tracking = self.energy.convex(rollout, problem, sens, gain)
        rows, offset = [tracking.rows], [tracking.offset]
        low, high = [torch.full_like(offset[0], -1.0)], [torch.full_like(offset[0], 1.0)]
        if self.config.guardrails and len(self.constraints):
            jac = self.constraints.jacobian(self.model, rollout.z[:, 1:])
            rows.append((-jac @ sens).flatten(1, 2))
            offset.append((problem.required + _BACK_OFF - rollout.margins).flatten(1))
            price = torch.tensor([_PRICE[min(int(r), 3) - 1] for r in self.constraints.rank], dtype=dtype)
            high.append(price.repeat(h).expand(batch, -1))
            low.append(torch.zeros_like(high[-1]))
        flat = rollout.moves.flatten(1)
        eye, difference = self._eye.expand(batch, n, n), self._difference.expand(batch, n, n)
        rows += [eye, -eye]
        offset += [flat - problem.high.repeat(h), problem.low.repeat(h) - flat]
        change = (difference @ flat[..., None])[..., 0]
        change[:, :m] -= problem.previous
        bounded = 2
        if bool((problem.rate < 1.0).any()):
            rows += [difference, -difference]
            offset += [change - problem.rate.repeat(h), -change - problem.rate.repeat(h)]
            bounded = 4
        high.append(torch.full((batch, bounded * n), _HARD, dtype=dtype))
        low.append(torch.zeros(batch, bounded * n, dtype=dtype))

        e, s = self.energy, self.energy.suppression
        weight = 2 * e.effort / e.effort_span.repeat(h) ** 2
        p = tracking.p + torch.diag_embed((weight + 1e-4).expand(batch, n)) + 2 * s * (difference.mT @ difference)
        q = tracking.q + weight * (flat - e.effort_low.repeat(h)) + 2 * s * (difference.mT @ change[..., None])[..., 0]
        step = qp.solve(p, q, torch.cat(rows, 1), torch.cat(offset, 1), torch.cat(low, 1), torch.cat(high, 1))
        return torch.nan_to_num(step).view(batch, h, m)

    def _violation(self, problem: Problem, rollout: Rollout) -> Tensor:
        if not (self.config.guardrails and len(self.constraints)):
            return torch.zeros(rollout.moves.shape[0], 1, dtype=rollout.moves.dtype)
        return self.constraints.violation(rollout.margins, problem.required)

    def _worth(self, problem: Problem, rollout: Rollout, converged: Tensor, late: bool) -> Plan:
        terms = self.energy.terms(rollout, problem)
        total = torch.stack(list(terms.values())).sum(0)
        return Plan(rollout, self._violation(problem, rollout), total, terms, converged, late)

    def _energy(self, problem: Problem, rollout: Rollout) -> Tensor:
        return torch.stack(list(self.energy.terms(rollout, problem).values())).sum(0)

    def _key(self, problem: Problem, rollout: Rollout) -> Tensor:
        return rank_key(self._violation(problem, rollout), self._energy(problem, rollout))

    def _better(self, problem: Problem, best: Rollout, key: Tensor, other: Rollout) -> tuple[Rollout, Tensor]:
        new = self._key(problem, other)
        return _choose(new < key, best, other), torch.minimum(new, key)


def choose_plan(wins: Tensor, best: Plan, other: Plan) -> Plan:
    """`other` where `wins` (batch,), else `best`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(wins.view(-1, *[1] * (a.dim() - 1)), b, a)

    return Plan(
        _choose(wins, best.rollout, other.rollout),
        pick(best.violation, other.violation),
        pick(best.energy, other.energy),
        {name: pick(term, other.terms[name]) for name, term in best.terms.items()},
        pick(best.converged, other.converged),
        best.late or other.late,
    )


def _choose(wins: Tensor, best: Rollout, other: Rollout) -> Rollout:
    """`other` where `wins` (batch,), else `best`."""
    pairs = zip(vars(best).values(), vars(other).values(), strict=True)
    return Rollout(*(torch.where(wins.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in pairs))
