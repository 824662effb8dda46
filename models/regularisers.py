"""What keeps a latent from collapsing: SIGReg, the sketched isotropic Gaussian regulariser (Balestriero & LeCun 2025), and
VICReg's variance and covariance terms (Bardes, Ponce & LeCun 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models import ranks

_POINTS = 17  # of the characteristic function, from 0 to 3


def sigreg(embeddings: Tensor, slices: int, generator: torch.Generator | None = None) -> Tensor:
    """Epps-Pulley distance of random one-dimensional projections from a standard Gaussian, mean over `slices`.

    `embeddings` (samples x latent), not centred. A standard Gaussian reads about 1.05 at any size, total collapse
    0.402 x samples. Directions are drawn anew at each call. Over several processes it reads as on all their samples
    together: `generator` must be in the same state in each, so that they share the directions.
    """
    n, dim = embeddings.shape
    n *= ranks.size()
    directions = torch.randn(dim, slices, generator=generator, dtype=embeddings.dtype, device="cpu").to(embeddings)
    directions = directions / directions.norm(dim=0, keepdim=True)
    t = torch.linspace(0, 3, _POINTS, dtype=embeddings.dtype, device=embeddings.device)
    gaussian = torch.exp(-0.5 * t**2)
    weight = torch.full_like(t, 2 * (t[1] - t[0]).item())
    weight[0] = weight[-1] = (t[1] - t[0]).item()
    cos, sin = _Waves.apply(embeddings @ directions, 3.0 / (_POINTS - 1))
    gap = (ranks.mean(cos) - gaussian[:, None]) ** 2 + ranks.mean(sin) ** 2
    return n * (gap * (weight * gaussian)[:, None]).sum(0).mean()


class _Waves(torch.autograd.Function):
    """Means over samples of cos(k h x) and sin(k h x), k = 0 to 16 (each 17 x slices), of projections x (samples x slices).
    Each wave is the last one turned by h x: two transcendental functions an element instead of 34."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        c, s = (h * x).cos(), (h * x).sin()
        ctx.save_for_backward(c, s)
        ctx.h = h
        waves = list(_turned(c, s))
        return torch.stack([w[0].mean(0) for w in waves]), torch.stack([w[1].mean(0) for w in waves])

    @staticmethod
    def backward(ctx: Any, by_cos: Tensor, by_sin: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        c, s = ctx.saved_tensors
        out = torch.zeros_like(c)
        for k, (cos, sin) in enumerate(_turned(c, s)):
            out.addcmul_(sin, by_cos[k], value=-k * ctx.h / len(c)).addcmul_(cos, by_sin[k], value=k * ctx.h / len(c))
        return out, None


def _turned(c: Tensor, s: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    cos, sin = torch.ones_like(c), torch.zeros_like(s)
    for k in range(_POINTS):
        if k:
            cos, sin = torch.addcmul(cos * c, sin, s, value=-1), torch.addcmul(sin * c, cos, s)
        yield cos, sin


def vicreg(embeddings: Tensor) -> Tensor:
    """Variance below one, as a hinge on each dimension's standard deviation, plus squared covariances over the dimension
    (their equations 1 and 3 to 4, weighted 25 : 1). `embeddings` (samples x latent); total collapse reads 25."""
    centred = embeddings - embeddings.mean(0)
    std = (centred.square().mean(0) + 1e-4).sqrt()
    covariance = centred.T @ centred / max(len(embeddings) - 1, 1)
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    return 25.0 * nn.functional.relu(1.0 - std).mean() + off / embeddings.shape[1]
