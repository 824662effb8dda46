"""How plans are ranked: level by level, each settled before the next is looked at, and the energy last."""

from __future__ import annotations

import torch
from torch import Tensor


def counted(levels: Tensor) -> Tensor:
    """`levels` in the hundredths of a scale that count; what is not a number counts without end."""
    return (levels.nan_to_num(torch.inf) * 100).floor()


def ranking(levels: Tensor, energy: Tensor) -> Tensor:
    """`levels` (... x n_level), the gravest first, and `energy` (...) -> a key (... x n_level + 1) for `before`, `least` and
    `order`. A hundredth of a scale decides; below that the next criterion does. What is not a number comes last."""
    return torch.cat([counted(levels), energy.nan_to_num(torch.inf)[..., None]], -1)


def before(one: Tensor, other: Tensor) -> Tensor:
    """Whether the key `one` (... x n) ranks better than `other` (...): by the first criterion in which they differ."""
    differs = one != other
    first = differs & (differs.cumsum(-1) == 1)
    return (first & (one < other)).any(-1)


def least(keys: Tensor) -> Tensor:
    """Of several keys (batch x many x n) the best one's number (batch,)."""
    alive = torch.ones_like(keys[..., 0], dtype=torch.bool)
    for criterion in keys.unbind(-1):
        value = torch.where(alive, criterion, torch.inf)
        alive &= value == value.amin(1, keepdim=True)
    return alive.int().argmax(1)


def order(keys: Tensor) -> Tensor:
    """Of several keys (batch x many x n) their numbers (batch x many), best first."""
    at = torch.arange(keys.shape[1], device=keys.device).expand(keys.shape[:2])
    for criterion in reversed(keys.unbind(-1)):
        at = at.gather(1, criterion.gather(1, at).argsort(dim=1, stable=True))
    return at
