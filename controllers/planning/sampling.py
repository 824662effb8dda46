"""Sampling planners: iCEM (Pinneri et al., CoRL 2020) and MPPI (Williams et al., 2017), for energies without slopes.

Both draw moves around a mean that starts at the warm start, play them all, rank them as every plan is ranked, and move
the mean. The noise is drawn once, from the seed, and is the same for every plan and every plant: a plan is a function of
its problem alone, and nothing is drawn while a plant waits.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from controllers.planning.config import PlannerConfig
from controllers.planning.planner import Clock, Planner
from controllers.planning.problem import Energy, Problem, Rollout
from controllers.planning.ranking import before, counted, least, order, ranking
from models.world_model import WorldModel

_COLOUR = 2.0  # power of the noise falls as 1/f^2: moves that hang together reach further than white ones
_DECAY = 1.25  # fewer candidates in each iteration (iCEM)
_SPREAD, _FLOOR = 0.2, 0.002  # deviation of the first draw, and the least one, as shares of what an MV can reach
_ELITES, _KEPT, _INERTIA = 0.1, 0.3, 0.1  # share of the candidates, share of those kept, weight of the old mean (iCEM)
_TEMPERATURE, _COOLING = (
    0.05,
    0.5,
)  # of the candidates' mean excess over the best; noise of an iteration over the last one's


class SamplingPlanner(Planner):
    """The loop that iCEM and MPPI share. Nothing proves a sampled plan optimal: `converged` is never true."""

    def __init__(
        self, model: WorldModel, config: PlannerConfig, energy: Energy, scale_u: Tensor, shift_u: Tensor
    ) -> None:
        super().__init__(model, config, energy, scale_u, shift_u)
        rng, count = torch.Generator().manual_seed(config.seed), config.candidates
        self._noise = []
        for _ in range(config.iterations):
            self._noise.append(coloured(count, len(self._lengths), model.n_mv, rng).to(scale_u))
            count = max(int(count / _DECAY), 16)

    @abstractmethod
    def _move(
        self, problem: Problem, at: int, mean: Tensor, spread: Tensor, moves: Tensor, levels: Tensor, energy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """After iteration `at`: mean and spread (batch x blocks x n_mv) of the next one's draw, and what to play again in
        it (batch x any x blocks x n_mv), from the `moves` (batch x n x blocks x n_mv) played now, their levels (batch x n
        x any, `Constraints.levels`) and energy (batch x n)."""

    def _search(
        self, problem: Problem, start: Rollout, inputs: Tensor, best: Rollout, key: Tensor, clock: Clock
    ) -> tuple[Rollout, Tensor]:
        first = self._lengths.cumsum(0) - self._lengths
        mean = self.blocked(problem, start.moves)[:, first]
        reach = torch.minimum(problem.high - problem.low, problem.rate * self.config.horizon).expand_as(mean)
        spread, again = _SPREAD * reach, problem.previous[:, None, None].expand_as(mean[:, None])
        found, known = start.moves, torch.full_like(key, torch.inf)
        plants = torch.arange(len(mean))
        for i, noise in enumerate(self._noise):
            if not clock.another():
                break
            drawn = mean[:, None] + spread[:, None] * noise
            moves = torch.cat([mean[:, None], drawn, again], 1)
            n = moves.shape[1]
            many = problem.repeated(n)
            moves = self.inside(many, moves.flatten(0, 1))
            levels, energy = self._play(many, moves[:, self._block])
            moves, levels, energy = (v.unflatten(0, (-1, n)) for v in (moves, levels, energy))
            ranked = ranking(levels, energy)
            at = least(ranked)
            this = ranked[plants, at]
            wins = before(this, known)
            found = torch.where(wins[:, None, None], moves[plants, at][:, self._block], found)
            known = torch.where(wins[:, None], this, known)
            mean, spread, again = self._move(problem, i, mean, spread, moves, levels, energy)
            spread = spread.clamp(min=_FLOOR * reach)
        best, _ = self._better(problem, best, key, self.roll(problem, found)[0])
        return best, torch.zeros(len(mean), dtype=torch.bool)


class IcemPlanner(SamplingPlanner):
    """Mean and deviation of the best tenth; a part of those is played again with the next, smaller draw."""

    def _move(
        self, problem: Problem, at: int, mean: Tensor, spread: Tensor, moves: Tensor, levels: Tensor, energy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = max(int(_ELITES * len(self._noise[at])), 4)
        elites = moves[torch.arange(len(moves))[:, None], order(ranking(levels, energy))[:, :count]]
        mean = _INERTIA * mean + (1 - _INERTIA) * elites.mean(1)
        spread = _INERTIA * spread + (1 - _INERTIA) * elites.std(1, correction=0)
        return mean, spread, elites[:, : max(int(_KEPT * count), 1)]


class MppiPlanner(SamplingPlanner):
    """Mean weighted by exp(-excess / temperature) over the candidates that keep every guardrail and margin; where none does, over
    all, the violation of the gravest level that is broken in the energy's place. The temperature is a share of the mean excess:
    energies near a target are hundredths of those far from it. The draw narrows by the iteration."""

    def _move(
        self, problem: Problem, at: int, mean: Tensor, spread: Tensor, moves: Tensor, levels: Tensor, energy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight = weights(levels, energy, _TEMPERATURE)
        return (weight[..., None, None] * moves).sum(1), _COOLING * spread, moves[:, :0]


def weights(levels: Tensor, energy: Tensor, temperature: float) -> Tensor:
    """`levels` (batch x n x any), the gravest first, `energy` (batch x n) -> (batch x n), sum 1: only candidates that break no level
    more than the one that ranks best have any, but in the first level which that one breaks, where the lesser violation weighs more."""
    broken_by = counted(levels).clamp(max=1e6)
    cost, allowed, open_ = (
        energy.nan_to_num(9e3),
        torch.ones_like(energy, dtype=torch.bool),
        torch.ones_like(energy[:, :1]),
    )
    for level in broken_by.unbind(-1):
        fewest = torch.where(allowed, level, torch.inf).amin(1, keepdim=True)
        broken = (fewest > 0) & (open_ > 0)
        cost = torch.where(broken, level, cost)
        allowed &= (level == 0) | broken | (open_ == 0)
        open_ = torch.where(broken, 0.0, open_)
    excess = torch.where(allowed, cost - torch.where(allowed, cost, torch.inf).amin(1, keepdim=True), torch.inf)
    scale = excess.where(allowed, 0.0).sum(1, keepdim=True) / allowed.sum(1, keepdim=True)
    return torch.softmax(-excess / (temperature * scale).clamp(min=1e-9), dim=1)


def coloured(count: int, steps: int, width: int, rng: torch.Generator) -> Tensor:
    """Noise (count x steps x width) of unit variance whose power falls with frequency as 1/f^`_COLOUR` (Timmer & Koenig,
    1995)."""
    f = torch.fft.rfftfreq(steps, dtype=torch.float64).clamp(min=1 / steps)
    parts = torch.randn(2, count, width, len(f), generator=rng, dtype=torch.float64)
    noise = torch.fft.irfft(torch.complex(*parts) * f ** (-_COLOUR / 2), n=steps).mT
    return noise / noise.std()
