"""What keeps a latent from collapsing: SIGReg, the sketched isotropic Gaussian regulariser (Balestriero & LeCun 2025), and
VICReg's variance and covariance terms (Bardes, Ponce & LeCun 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import ranks


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
    t = torch.linspace(0, 3, 17, dtype=embeddings.dtype, device=embeddings.device)
    gaussian = torch.exp(-0.5 * t**2)
    weight = torch.full_like(t, 2 * (t[1] - t[0]).item())
    weight[0] = weight[-1] = (t[1] - t[0]).item()
    angle = (embeddings @ directions)[..., None] * t
    gap = (ranks.mean(angle.cos().mean(0)) - gaussian) ** 2 + ranks.mean(angle.sin().mean(0)) ** 2
    return n * (gap * weight * gaussian).sum(-1).mean()


def vicreg(embeddings: Tensor) -> Tensor:
    """Variance below one, as a hinge on each dimension's standard deviation, plus squared covariances over the dimension
    (their equations 1 and 3 to 4, weighted 25 : 1). `embeddings` (samples x latent); total collapse reads 25."""
    centred = embeddings - embeddings.mean(0)
    std = (centred.square().mean(0) + 1e-4).sqrt()
    covariance = centred.T @ centred / max(len(embeddings) - 1, 1)
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    return 25.0 * nn.functional.relu(1.0 - std).mean() + off / embeddings.shape[1]
