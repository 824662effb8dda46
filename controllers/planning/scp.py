"""Sequential convex programming through the latent roll-out: the default planner.

Each iteration plays the moves through the predictor, takes the exact Jacobian of everything the energy and the
guardrails read, and solves one condensed problem in the moves alone (`controllers.planning.qp`). Every point visited is
ranked by guardrails first and energy second; the best of them, of the warm start and of the fallback is the plan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from controllers.planning import qp
from controllers.planning.config import PlannerConfig
from controllers.planning.planner import Clock, Planner, choose
from controllers.planning.problem import Energy, Problem, Rollout, late_weights
from controllers.planning.ranking import before, counted
from models.world_model import WorldModel

HARD = 100.0  # price of a limit on a move, in energy per span: far above anything the task can pay
BACK_OFF = (
    0.2  # scales of its guardrail by which a subproblem stays inside: its linear guardrails are not the real ones
)
_SHARES = (0.8, 0.5, 0.25, 0.1)  # of the way to a point that breaks a guardrail
PROXIMAL = 1e-4  # price of moving, times the square of the step: without it a flat energy has no least point
PRICE = (30.0, 10.0, 5.0)  # price of a guardrail by rank, in energy per scale of it; ranking decides, this only steers


class ScpPlanner(Planner):
    """Second-order shooting, one start. `converged`: the last two iterations agree on the energy to a hundredth."""

    def __init__(
        self, model: WorldModel, config: PlannerConfig, energy: Energy, scale_u: Tensor, shift_u: Tensor
    ) -> None:
        super().__init__(model, config, energy, scale_u, shift_u)
        h, m = config.horizon, model.n_mv
        eye = torch.eye(h * m, dtype=scale_u.dtype, device=scale_u.device)
        before = torch.zeros_like(eye)
        before[m:, :-m] = torch.eye((h - 1) * m, dtype=eye.dtype, device=eye.device)
        self._eye, self._difference = eye, eye - before
        # Moves (horizon*n_mv) = spread @ moves of the blocks. The first sample of a block says all about its limits.
        member = torch.nn.functional.one_hot(self._block).to(eye.dtype)
        self._spread = torch.kron(member, torch.eye(m, dtype=eye.dtype, device=eye.device))
        self._first = torch.arange(h * m).view(h, m)[self._lengths.cumsum(0) - self._lengths].flatten()

    def sensitivity(self, inputs: Tensor) -> Tensor:
        """d z_k / d moves for k = 1..horizon: (batch x horizon x latent x horizon*n_mv)."""
        latent, m, h = self.model.config.latent, self.model.n_mv, self.config.horizon
        z = inputs[..., :latent] + self.model.predictor(inputs)
        free = (z > self.model.z_low) & (z < self.model.z_high)  # what stops at a bound no longer moves
        jacobian = self.model.predictor.jacobian(inputs)
        a = jacobian[..., :latent] + torch.eye(latent, dtype=inputs.dtype, device=inputs.device)
        b = jacobian[..., latent : latent + m] * self.scale_u
        s = torch.zeros(inputs.shape[0], latent, h * m, dtype=inputs.dtype, device=inputs.device)
        out = []
        for k in range(h):
            s = a[:, k] @ s
            s[..., k * m : (k + 1) * m] += b[:, k]
            s = s * free[:, k, :, None]
            out.append(s)
        return torch.stack(out, dim=1)

    def _search(
        self, problem: Problem, start: Rollout, inputs: Tensor, best: Rollout, key: Tensor, clock: Clock
    ) -> tuple[Rollout, Tensor]:
        rollout = start
        if self.config.blocks:
            rollout, inputs = self.roll(problem, self.blocked(problem, start.moves))
            best, key = self._better(problem, best, key, rollout)
        moves, energies = rollout.moves, [self._energy(problem, rollout)]
        for _ in range(self.config.iterations):
            if not clock.another():
                break
            moves = self.blocked(problem, moves + self._step(problem, rollout, inputs))
            rollout, inputs = self.roll(problem, moves)
            best, key = self._better(problem, best, key, rollout)
            energies.append(self._energy(problem, rollout))
        # The last point may break a guardrail, or a margin, by a hair, and then loses to a plan that wants nothing of the sort: the way
        # from the best plan towards it is searched for how far one may go.
        origin = best.moves
        broken = (counted(self._levels(problem, rollout)) > 0).any(1)
        if bool(broken.any()) and not clock.late:
            for share in _SHARES:
                part = self.roll(problem, self.blocked(problem, origin + share * (moves - origin)))[0]
                new = self._key(problem, part)
                wins = broken & before(new, key)
                best, key = choose(wins, best, part), torch.where(wins[:, None], new, key)
        settled = torch.zeros_like(energies[0], dtype=torch.bool)
        if len(energies) > 2:
            settled = (energies[-1] - energies[-2]).abs() <= 0.01 * (0.1 + energies[-2].abs())
        return best, settled

    def _step(self, problem: Problem, rollout: Rollout, inputs: Tensor) -> Tensor:
        """The move of one convex subproblem (batch x horizon x n_mv)."""
        batch, h, m = rollout.moves.shape
        sens = self.sensitivity(inputs)
        dtype, n = sens.dtype, h * m
        gain = self.model.read_out_head.weight * self.model.channel_std[: self.model.n_measured, None]
        tracking = self.energy.convex(rollout, problem, sens, gain)
        rows, offset = [tracking.rows], [tracking.offset]
        low, high = [tracking.low], [tracking.high]
        if self.config.guardrails and len(self.constraints):
            slope = -self.constraints.jacobian(self.model, rollout.z[:, 1:]) @ sens
            past = problem.required + BACK_OFF - rollout.margins
            price = torch.tensor([PRICE[min(int(r), 3) - 1] for r in self.constraints.rank], dtype=dtype).expand(h, -1)
            parts = [(slope, past, price)]
            if problem.calibrated is not None:  # a limit's margin has a price of its own, near steps a higher one
                only, short = slice(len(self.constraints.limit)), past + problem.calibrated
                parts.append((slope[:, :, only], short[..., only], price[:, only] * late_weights(past)[:, None]))
            for slope, past, price in parts:
                rows.append(slope.flatten(1, 2))
                offset.append(past.flatten(1))
                high.append(price.flatten().expand(batch, -1))
                low.append(torch.zeros_like(high[-1]))
        flat, first = rollout.moves.flatten(1), self._first
        difference = self._difference.expand(batch, n, n)
        change = (difference @ flat[..., None])[..., 0]
        change[:, :m] -= problem.previous
        bounds = [(self._eye, flat - problem.high.repeat(h)), (-self._eye, problem.low.repeat(h) - flat)]
        if bool((problem.rate < 1.0).any()):
            rate = problem.rate.repeat(h)
            bounds += [(self._difference, change - rate), (-self._difference, -change - rate)]
        rows += [row[first].expand(batch, -1, n) for row, _ in bounds]
        offset += [excess[:, first] for _, excess in bounds]
        high.append(torch.full((batch, len(bounds) * len(first)), HARD, dtype=dtype))
        low.append(torch.zeros_like(high[-1]))

        e = self.energy
        weight = 2 * e.weights(problem).flatten(1)
        suppressed = 2 * difference.mT * e.suppression.repeat(h)
        p = tracking.p + torch.diag_embed(weight + PROXIMAL) + suppressed @ difference
        q = tracking.q + weight * (flat - e.reference(problem).flatten(1)) + (suppressed @ change[..., None])[..., 0]
        ours = (problem.rate > 0).to(dtype).repeat(h)
        a, q = torch.cat(rows, 1) * ours, q * ours
        if self.config.blocks:
            spread = self._spread
            a, p, q = a @ spread, spread.mT @ p @ spread, q @ spread
        step = qp.solve(p, q, a, torch.cat(offset, 1), torch.cat(low, 1), torch.cat(high, 1))
        if self.config.blocks:
            step = step @ self._spread.mT
        return torch.nan_to_num(step).view(batch, h, m)
