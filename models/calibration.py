"""Conformal calibration: how far a guardrail head may be wrong, step by step, and what counts as a surprise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """`margins` (horizon x n_constraint), engineering units: what is kept in hand at each step of a plan. `level` is the
    nominal coverage, `runs` how many runs it came from. `inverse_covariance` (n_measured x n_measured) and `threshold`
    turn a one-step prediction error into a surprise of 1 at the threshold."""

    margins: Tensor
    level: float
    runs: int
    inverse_covariance: Tensor
    threshold: float

    @staticmethod
    def none(horizon: int, constraints: int) -> Calibration:
        """No margins at all, and no surprise: for a model that has not been calibrated."""
        return Calibration(torch.zeros(horizon, constraints), 0.0, 0, torch.zeros(0, 0), float("inf"))

    def surprise(self, error: Tensor) -> Tensor:
        """One-step errors (batch x n_measured), engineering units -> (batch,), 1 at the threshold."""
        if self.inverse_covariance.numel() == 0:
            return torch.zeros(error.shape[0], dtype=error.dtype)
        distance = torch.einsum("bi,ij,bj->b", error, self.inverse_covariance.to(error.dtype), error)
        return distance.clamp(min=0).sqrt() / self.threshold


def conformal_quantile(scores: Tensor, level: float) -> Tensor:
    """The split-conformal quantile of `scores` (n, ...) along the first axis: rank ceil((n + 1) * level), or the
    largest when n is too small to promise `level`."""
    n = scores.shape[0]
    rank = min(n, int(-(-(n + 1) * level // 1)))
    return scores.sort(dim=0).values[rank - 1]


def joint_margins(errors: Tensor, level: float) -> Tensor:
    """Margins that hold at all steps at once with probability `level`.

    `errors` (samples x horizon x n_constraint): predicted margin less true margin (> 0 is optimistic); samples should
    come from many runs. Each constraint's steps are scaled by their own spread, and the quantile is taken of the
    largest scaled error over the horizon. Returns (horizon x n_constraint), never negative.
    """
    scale = errors.abs().quantile(0.9, dim=0).clamp(min=1e-6)
    worst = (errors / scale).amax(dim=1)
    return (conformal_quantile(worst, level) * scale).clamp(min=0)
