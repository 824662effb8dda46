"""Discrete MVs: what they may be, the nearest of that to a plan, and plans worth playing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plant.spec import Move

Array = NDArray[np.float64]

_FEW = 5  # levels looked at for an MV in one plan; of more, those next to where a continuous plan would be
_HOLDS = (1, 2, 3, 4, 6, 9, 14, 21, 32)  # samples a level is held before the plan goes on
_PULSES = (1, 2, 3, 5, 8)  # samples of a pulse
_OUTSIDE = 1e3  # of a share of the span past an operator's limit, against one away from what is wanted
_SLACK = 1e-9  # of the span: rounding


class Levels:
    """The values that each of `moves` takes, scaled as plans are: 0..1 over its limits. `at`: which MVs are discrete."""

    def __init__(self, moves: Sequence[Move]) -> None:
        self._units = {i: np.array(m.discrete) for i, m in enumerate(moves) if m.discrete}
        self._scaled = {
            i: torch.from_numpy((values - moves[i].limits[0]) / moves[i].span) for i, values in self._units.items()
        }
        self.at = list(self._units)

    def __bool__(self) -> bool:
        return bool(self.at)

    def exact(self, moves: Array) -> Array:
        """`moves` (..., n_mv), in the MVs' units, with the discrete ones at their very levels."""
        moves = np.array(moves)
        for i, values in self._units.items():
            moves[..., i] = values[np.abs(moves[..., i, None] - values).argmin(-1)]
        return moves

    def rounded(
        self, moves: Tensor, previous: Tensor, low: Tensor, high: Tensor, rate: Tensor, carried: bool = False
    ) -> Tensor:
        """`moves` (batch x horizon x n_mv, scaled) with every discrete MV at the nearest level that the step before can reach and
        the limits allow; one that starts past these comes back level by level. Without a reachable level it stays at the one
        nearest to it, and a rate of 0 leaves it where it is. `carried`: what rounding left out so far is added to the next step, so
        that levels switch as often as the plan means on average (sum-up rounding, Sager 2009)."""
        moves = moves.clone()
        for i, levels in self._scaled.items():
            if rate[i] <= 0:
                moves[..., i] = previous[:, None, i]
                continue
            outside = (low[i] - levels).clamp(min=0) + (levels - high[i]).clamp(min=0)
            last, left = previous[:, i], torch.zeros_like(previous[:, i])
            for k in range(moves.shape[1]):
                wanted = moves[:, k, i] + (left if carried else 0.0)
                far = (levels - last[:, None]).abs()
                reached = far <= rate[i] + _SLACK
                cost = (levels - wanted[:, None]).abs() + _OUTSIDE * (outside > _SLACK) * outside
                cost = torch.where(reached, cost, _OUTSIDE**2 * (1 + far))
                last = levels[cost.argmin(1)]
                left = (wanted - last).clamp(-1.0, 1.0)
                moves[:, k, i] = last
        return moves

    def plans(self, wanted: Tensor, i: int, last: Tensor) -> Tensor:
        """Courses (batch x n x horizon) worth playing for MV `i`: a level held for a while, and then another, or what is `wanted`
        (batch x horizon) of a continuous one, made good for what the hold left out and rounded to the nearest, down or up (which
        never passes what the continuous one does on that side); and pulses. `last` (batch,) is in force."""
        h, levels = wanted.shape[1], self._few(wanted, i, last)
        holds, half = [n for n in _HOLDS if n <= h], 0.5 * float(self._scaled[i].diff().median())
        halves = (0.0, -half, half)
        steps = torch.arange(h)
        out = []
        each = [levels[:, j, None] for j in range(levels.shape[1])]
        for a in each:
            for n in holds:
                first = steps < n
                left = ((wanted - a) * first).sum(1, keepdim=True)
                out += [torch.where(first, a, wanted + (left + half) * (steps == n)) for half in halves]
                out += [torch.where(first, a, b) for b in each if b is not a]
        out += [wanted + half * (steps == 0) for half in halves[1:]]
        if len(each) == 2:
            spans = [(n, n + m) for n in _PULSES for m in _PULSES if n + m < h]
            for a, b in (each, each[::-1]):
                out += [torch.where((steps >= start) & (steps < end), b, a) for start, end in spans]
        return torch.stack(out, 1)

    def near(self, plan: Tensor, i: int, wanted: Tensor, last: Tensor) -> Tensor:
        """`plan` (batch x horizon) of MV `i` with one sample at another level, or with two neighbours swapped (batch x n x
        horizon)."""
        one = torch.eye(plan.shape[1], dtype=torch.bool)
        some = [torch.where(one, a[:, None, None], plan[:, None]) for a in self._few(wanted, i, last).unbind(1)]
        order = torch.arange(plan.shape[1]).repeat(plan.shape[1] - 1, 1)
        at = torch.arange(plan.shape[1] - 1)
        order[at, at], order[at, at + 1] = at + 1, at
        return torch.cat([*some, plan[:, order]], 1)

    def _few(self, wanted: Tensor, i: int, last: Tensor) -> Tensor:
        """Levels to look at (batch x n): all, or those nearest to what is wanted now, on average, and to what is in force."""
        levels = self._scaled[i]
        if len(levels) <= _FEW:
            return levels.expand(len(wanted), -1)
        of = [(wanted[:, 0], 2), (wanted.mean(1), 2), (last, 1)]
        near = [(levels - v[:, None]).abs().topk(n, largest=False).indices for v, n in of]
        return levels[torch.cat(near, 1)]
