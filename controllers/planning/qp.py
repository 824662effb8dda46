"""A batched interior-point solver for the condensed subproblem of sequential convex programming.

    minimise  1/2 x'P x + q'x + sum_i phi_i(a_i'x + c_i),   phi_i(s) = max over lo_i <= y <= hi_i of y s

With (lo, hi) = (-w, w) a row is w|s|; with (0, r) it is r max(0, s): an absolute error, a soft limit and (r large) a
hard one are the same thing. Fixed iteration count and shapes, no branch on values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve(p: Tensor, q: Tensor, a: Tensor, c: Tensor, low: Tensor, high: Tensor, iterations: int = 10) -> Tensor:
    """**Arguments:** `p` (batch x n x n) positive definite, `q` (batch x n), `a` (batch x rows x n), `c`, `low`, `high`
    (batch x rows), low < high.

    **Returns:** x (batch x n) after `iterations` primal-dual steps from zero.
    """
    x = torch.zeros_like(q)
    width = high - low
    y = low + torch.clamp(0.5 * width, max=1.0)
    up = c.clamp(min=0) + 0.1
    down = (-c).clamp(min=0) + 0.1
    for i in range(iterations):
        gap_up, gap_down = high - y, y - low
        complementarity = (up * gap_up + down * gap_down).mean(-1, keepdim=True) / 2
        # Never to zero: past full accuracy the next step would divide nothing by nothing.
        mu = (complementarity * (0.1 if i < iterations - 3 else 0.03)).clamp(min=1e-11)
        residual = (a @ x[..., None])[..., 0] + c - up + down
        dual = (p @ x[..., None])[..., 0] + q + (a.mT @ y[..., None])[..., 0]
        weight = 1.0 / (up / gap_up + down / gap_down)
        h = residual - (mu / gap_up - up) + (mu / gap_down - down)
        normal = p + a.mT @ (weight[..., None] * a)
        right = -dual - (a.mT @ (weight * h)[..., None])[..., 0]
        factor, _ = torch.linalg.cholesky_ex(normal)
        dx = torch.cholesky_solve(right[..., None], factor)[..., 0]
        dy = weight * ((a @ dx[..., None])[..., 0] + h)
        d_up = (mu + up * dy) / gap_up - up
        d_down = (mu - down * dy) / gap_down - down
        # Largest step that keeps every slack and both sides of every multiplier positive.
        shrink = torch.cat([-d_up / up, -d_down / down, dy / gap_up, -dy / gap_down], dim=-1)
        step = 0.98 / shrink.amax(-1, keepdim=True).clamp(min=0.98)
        x, y = x + step * dx, y + step * dy
        up, down = up + step * d_up, down + step * d_down
    return x
