"""Limits that may be passed for a while: how much of that while is left."""

from __future__ import annotations

import torch
from torch import Tensor

from plant.spec import PlantSpec

_FAR = 0.1  # of the tag's range: how far the limit may be passed then; a bound, so that subproblems stay well scaled


class Allowance:
    """Counts, for `batch` plants, how long each guardrail of `spec` with an `allowed_s` has been passed, and lets plans pass it
    while time is left. Time inside the limit is given back as fast as time past it is taken."""

    def __init__(self, spec: PlantSpec, batch: int) -> None:
        rails = spec.guardrails
        self._allowed = torch.tensor([g.allowed_s / spec.sample_time_s for g in rails], dtype=torch.float64)
        self._far = torch.tensor([-_FAR * spec.tag(g.tag).span / spec.scale(g) for g in rails], dtype=torch.float64)
        self._used = torch.zeros(batch, len(rails)).double()

    def required(self, required: Tensor, margins: Tensor) -> Tensor:
        """One sample has come. `required` (batch x horizon x n_constraint) as it would be without, `margins` (batch x n_guardrail)
        of now, both in scales; the first columns of `required` are the guardrails', in order. Where there is time left at
        a step, hardly anything is required there."""
        n = len(self._allowed)
        if not bool((self._allowed > 0).any()):
            return required
        past = margins < required[:, 0, :n]
        self._used = (self._used + torch.where(past, 1.0, -1.0)).clamp(min=0.0)
        steps = torch.arange(1, required.shape[1] + 1)[None, :, None]
        free = (self._used[:, None] + steps <= self._allowed) & (self._allowed > 0)
        return torch.cat([torch.where(free, self._far, required[..., :n]), required[..., n:]], -1)
